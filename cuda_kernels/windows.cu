// Windows of any scale cut from one region: bilinear, half-pixel centres, reflected where the scaled image ends.
// Values are those of the engine on CPUs: in double, along x and then y, halves to even. Built without fused
// multiply-add, whose other rounding would decide the many exact halves otherwise. The price is double arithmetic,
// about 30 operations a pixel: little on data-centre devices, 32 to 64 times as much on others.

constexpr int THREADS = 256;

// A window [side, side] that begins at (x, y) of the grid scaled to width x height; mirrored after it was cut.
struct Place {
    int x, y, width, height, mirrored;
};

// Where a scaled pixel lies among the grid's.
struct Sample {
    int low, high;
    double weight; // of the high one
};

// The pixel that stands for `index` in an image of `length`, reflected about its border pixels as often as it takes.
__device__ int reflect(int index, int length) {
    if (length == 1) return 0;
    int period = 2 * (length - 1);
    index = abs(index) % period;
    return index < length ? index : period - index;
}

__device__ Sample sample(int index, int scaled, int length, double ratio) {
    double position = (reflect(index, scaled) + 0.5) * ratio - 0.5;
    position = fmin(fmax(position, 0.0), length - 1.0);
    int low = static_cast<int>(position);
    return {low, min(low + 1, length - 1), position - low};
}

__device__ double mix(double low, double high, double weight) { return low + (high - low) * weight; }

// A thread makes four neighbouring pixels of one row of window blockIdx.y. The region [height, width, 3] holds the
// grid's pixels from (left, top) on; places must need no others.
extern "C" __global__ void __launch_bounds__(THREADS)
    cut_windows(const unsigned char *region, int region_width, int left, int top, int grid_width, int grid_height,
                const Place *places, int side, unsigned char *windows) {
    int across = (side + FOUR - 1) / FOUR, row_number = (blockIdx.x * THREADS + threadIdx.x) / across;
    int first = (blockIdx.x * THREADS + threadIdx.x) % across * FOUR;
    if (row_number >= side) return;
    Place place = places[blockIdx.y];
    double across_ratio = static_cast<double>(grid_width) / place.width; // grid pixels a scaled pixel
    double down_ratio = static_cast<double>(grid_height) / place.height;
    Sample row = sample(place.y + row_number, place.height, grid_height, down_ratio);
    const unsigned char *upper = region + 3ll * (row.low - top) * region_width;
    const unsigned char *lower = region + 3ll * (row.high - top) * region_width;
    unsigned char *out = windows + 3ll * ((static_cast<long long>(blockIdx.y) * side + row_number) * side + first);
    Four<unsigned char> made[3]; // twelve bytes: four pixels, channels last
#pragma unroll
    for (int j = 0; j < FOUR; ++j) {
        int column_number = min(first + j, side - 1);
        if (place.mirrored) column_number = side - 1 - column_number;
        Sample column = sample(place.x + column_number, place.width, grid_width, across_ratio);
        int low = 3 * (column.low - left), high = 3 * (column.high - left);
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) {
            double above = mix(upper[low + channel], upper[high + channel], column.weight);
            double below = mix(lower[low + channel], lower[high + channel], column.weight);
            int byte = 3 * j + channel;
            made[byte / FOUR].at[byte % FOUR] = static_cast<unsigned char>(rint(mix(above, below, row.weight)));
        }
    }
    if (side % FOUR == 0) { // rows then begin at whole words
#pragma unroll
        for (int word = 0; word < 3; ++word) reinterpret_cast<Four<unsigned char> *>(out)[word] = made[word];
        return;
    }
#pragma unroll
    for (int byte = 0; byte < 3 * FOUR; ++byte)
        if (first + byte / 3 < side) out[byte] = made[byte / FOUR].at[byte % FOUR];
}
