// LOGIT logits of windows -> probabilities of a band of the map (the multi-scale test, OEEM section 2.3): upsampled
// from the network's output stride, averaged over the windows that cover a pixel, resized to the map, softmax, summed
// over views; then classes and probabilities as bytes. All bilinear with half-pixel centres. CLASSES is a constant.

constexpr int THREADS = 256;
constexpr unsigned char NOT_ANALYSED = 255;

// The windows of one view. One may begin at every xs[i], ys[j]; slots[j * columns + i] is the number of its logits,
// -1 where there are none.
struct View {
    const int *slots, *xs, *ys;
    int columns, rows;
    int window; // scaled pixels along a side
    int mirrored;
};

// Where a point lies among pixels: clamped to them.
struct Sample {
    int low, high;
    float weight; // of the high one
};

__device__ Sample place(double position, int length) {
    position = fmin(fmax(position, 0.0), length - 1.0);
    int low = static_cast<int>(position);
    return {low, min(low + 1, length - 1), static_cast<float>(position - low)};
}

__device__ Sample place(float position, int length) {
    position = fminf(fmaxf(position, 0.0f), length - 1.0f);
    int low = static_cast<int>(position);
    return {low, min(low + 1, length - 1), position - low};
}

// The first of the sorted starts whose window reaches beyond `pixel`.
__device__ int first_cover(const int *starts, int count, int pixel, int window) {
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (starts[middle] + window > pixel)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// Adds share x the average logit of a view's pixel over the windows that cover it; whether any does.
__device__ bool add_pixel(const LOGIT *logits, int stored_side, const View &view, int x, int y, float share,
                          float (&total)[CLASSES]) {
    float sum[CLASSES] = {};
    int count = 0, stored = stored_side * stored_side;
    float ratio = static_cast<float>(stored_side) / view.window; // windows are small: float holds their positions
    int first_column = first_cover(view.xs, view.columns, x, view.window);
    for (int j = first_cover(view.ys, view.rows, y, view.window); j < view.rows && view.ys[j] <= y; ++j) {
        Sample down = place((y - view.ys[j] + 0.5f) * ratio - 0.5f, stored_side);
        for (int i = first_column; i < view.columns && view.xs[i] <= x; ++i) {
            int slot = view.slots[j * view.columns + i];
            if (slot < 0) continue;
            int column = view.mirrored ? view.window - 1 - (x - view.xs[i]) : x - view.xs[i];
            Sample across = place((column + 0.5f) * ratio - 0.5f, stored_side);
            const LOGIT *of = logits + static_cast<long long>(slot) * CLASSES * stored;
#pragma unroll
            for (int c = 0; c < CLASSES; ++c) {
                const LOGIT *upper = of + c * stored + down.low * stored_side;
                const LOGIT *lower = of + c * stored + down.high * stored_side;
                float a = to_float(upper[across.low]), b = to_float(upper[across.high]);
                float d = to_float(lower[across.low]), e = to_float(lower[across.high]);
                float above = a + (b - a) * across.weight, below = d + (e - d) * across.weight;
                sum[c] += above + (below - above) * down.weight;
            }
            ++count;
        }
    }
#pragma unroll
    for (int c = 0; c < CLASSES; ++c)
        if (count) total[c] += share / count * sum[c];
    return count;
}

// Adds a view's probabilities to `total` [CLASSES, height, width], a band of the map from (left, top) on, and 1 to `seen`
// [height, width] where a window covers it. A thread owns one pixel of the band. Beside a gap, the samples that exist share the weight of those that do not.
extern "C" __global__ void __launch_bounds__(THREADS)
    canvas_add(const LOGIT *logits, int stored_side, const int *slots, const int *xs, const int *ys, int columns,
               int rows, int window, int mirrored, int view_width, int view_height, int map_width, int map_height,
               int left, int top, int width, int height, float *total, float *seen) {
    long long pixel = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    long long pixels = static_cast<long long>(width) * height;
    if (pixel >= pixels) return;
    View view = {slots, xs, ys, columns, rows, window, mirrored};
    int map_x = left + static_cast<int>(pixel % width), map_y = top + static_cast<int>(pixel / width);
    Sample across = place((map_x + 0.5) * (static_cast<double>(view_width) / map_width) - 0.5, view_width);
    Sample down = place((map_y + 0.5) * (static_cast<double>(view_height) / map_height) - 0.5, view_height);
    float mixed[CLASSES] = {}, cover = 0;
    for (int corner = 0; corner < 4; ++corner) {
        int x = corner & 1 ? across.high : across.low, y = corner & 2 ? down.high : down.low;
        float share = (corner & 1 ? across.weight : 1 - across.weight) * (corner & 2 ? down.weight : 1 - down.weight);
        if (share > 0 && add_pixel(logits, stored_side, view, x, y, share, mixed)) cover += share;
    }
    if (cover <= 1e-6f) return;
    float highest = LOWEST, sum = 0;
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) highest = fmaxf(highest, mixed[c] /= cover);
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) sum += mixed[c] = expf(mixed[c] - highest);
#pragma unroll
    for (int c = 0; c < CLASSES; ++c) total[c * pixels + pixel] += mixed[c] / sum;
    seen[pixel] += 1;
}

// Plane 0 of `planes` [CLASSES, pixels] is the class, or NOT_ANALYSED; plane k is round(255 p) of class k.
extern "C" __global__ void __launch_bounds__(THREADS)
    canvas_finish(const float *total, const float *seen, long long pixels, unsigned char *planes) {
    long long pixel = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (pixel >= pixels) return;
    float views = seen[pixel], highest = total[pixel];
    int best = 0;
#pragma unroll
    for (int c = 1; c < CLASSES; ++c) {
        float sum = total[c * pixels + pixel];
        planes[c * pixels + pixel] = static_cast<unsigned char>(rintf(255 * (sum / fmaxf(views, 1))));
        if (sum > highest) {
            highest = sum;
            best = c;
        }
    }
    planes[pixel] = views > 0 ? best : NOT_ANALYSED;
}
