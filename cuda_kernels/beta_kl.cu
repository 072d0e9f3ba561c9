// The beta-KL loss (paper "Weakly Supervised Training of Pixel Resolution Segmentation Models on Whole Slide Images",
// section 3) on LOGIT logits [N, 2, pixels] and slide labels p [N, 2].
//
// l0 is the mean of plane 0, l1 the mean of the k largest values of plane 1. The k-th largest is found exactly by
// radix select: three counting passes over an order-preserving integer key, 11 + 11 + 10 bits. Values that tie with
// it share what is left of the k evenly.

constexpr int THREADS = 256;
constexpr int BINS = 2048;
constexpr int DIGITS = 3;

__device__ inline int digit_shift(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }
__device__ inline unsigned digit_mask(int digit) { return digit == 2 ? 0x3ffu : 0x7ffu; }

// Where the search for the k-th largest value stands after some digits.
struct Choice {
    unsigned prefix; // the digits found so far
    int rank;        // its place, from 1, among the values with that prefix
    int tied;        // how many values have that prefix
};

// What an image's gradient is made of.
struct Slope {
    float benign, malign; // for each pixel of plane 0; for each of the k of plane 1
    unsigned key;         // of the k-th largest value
    float tie;            // the share of each value that ties with it
};

// Unsigned integers in the order of the values; NaN above all, both zeros alike.
__device__ unsigned order_key(float value) {
    unsigned bits = value != value ? 0x7fc00000u : __float_as_uint(value + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ float key_value(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The whole block finds the digit that holds the value of that rank in an image's histogram, from the top.
__device__ Choice choose(const int *histogram, Choice choice, int digit) {
    constexpr int EACH = BINS / THREADS;
    __shared__ int sums[THREADS];
    __shared__ Choice found;
    int top = BINS - 1 - static_cast<int>(threadIdx.x) * EACH, mine = 0;
    for (int bin = 0; bin < EACH; ++bin) mine += histogram[top - bin];
    sums[threadIdx.x] = mine;
    __syncthreads();
    for (int step = 1; step < THREADS; step *= 2) {
        int below = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
        __syncthreads();
        sums[threadIdx.x] += below;
        __syncthreads();
    }
    int before = sums[threadIdx.x] - mine;
    if (before < choice.rank && choice.rank <= before + mine) {
        int bin = top;
        for (; before + histogram[bin] < choice.rank; --bin) before += histogram[bin];
        unsigned prefix = choice.prefix | static_cast<unsigned>(bin) << digit_shift(digit);
        found = {prefix, choice.rank - before, histogram[bin]};
    }
    __syncthreads();
    return found;
}

// Counts the values of one digit: block (x, image) takes part x; a thread takes four values at a time.
// `choices` [DIGITS, N] and `histograms` [DIGITS, N, BINS], which begin as 0, pass from digit to digit.
extern "C" __global__ void __launch_bounds__(THREADS)
    beta_kl_count(const LOGIT *logits, int length, int largest, int digit, Choice *choices, int *histograms) {
    __shared__ int counts[BINS];
    int images = gridDim.y, image = blockIdx.y;
    const LOGIT *values = logits + (2ll * image + 1) * length;
    bool whole = fits_fours(values, length);
    Choice choice = {0, largest, length};
    if (digit > 0) {
        if (digit > 1) choice = choices[(digit - 2) * images + image];
        choice = choose(histograms + ((digit - 1ll) * images + image) * BINS, choice, digit - 1);
        if (blockIdx.x == 0 && threadIdx.x == 0) choices[(digit - 1) * images + image] = choice;
    }
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) counts[bin] = 0;
    __syncthreads();
    unsigned found = digit == 0 ? 0 : ~0u << digit_shift(digit - 1);
    // Every thread of a warp goes round equally often, because they count together.
    for (long long start = blockIdx.x * THREADS; start * FOUR < length; start += gridDim.x * THREADS) {
        long long first = (start + threadIdx.x) * FOUR;
        Four<LOGIT> four = {};
        if (first < length) four = load(values, static_cast<int>(first), length, whole, LOGIT{});
#pragma unroll
        for (int j = 0; j < FOUR; ++j) {
            unsigned key = order_key(to_float(four.at[j]));
            bool counted = first + j < length && (key & found) == choice.prefix;
            int bin = counted ? static_cast<int>(key >> digit_shift(digit) & digit_mask(digit)) : -1;
            // Values lie close together: one thread adds for all of its warp that have the same bin.
            unsigned peers = __match_any_sync(WHOLE_WARP, bin);
            if (counted && threadIdx.x % WARP == __ffs(peers) - 1) atomicAdd(&counts[bin], __popc(peers));
        }
    }
    __syncthreads();
    int *histogram = histograms + (static_cast<long long>(digit) * images + image) * BINS;
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS)
        if (counts[bin]) atomicAdd(&histogram[bin], counts[bin]);
}

__device__ float sum_warp(float value) {
    for (int step = WARP / 2; step; step /= 2) value += __shfl_down_sync(WHOLE_WARP, value, step);
    return value;
}

// Sums plane 0 and what of plane 1 lies above the k-th largest into `sums` [N, parts, 2].
extern "C" __global__ void __launch_bounds__(THREADS)
    beta_kl_sum(const LOGIT *logits, int length, Choice *choices, const int *histograms, float *sums) {
    __shared__ float warps[2][THREADS / WARP];
    int images = gridDim.y, image = blockIdx.y;
    Choice choice = choices[(DIGITS - 2) * images + image];
    choice = choose(histograms + ((DIGITS - 1ll) * images + image) * BINS, choice, DIGITS - 1);
    if (blockIdx.x == 0 && threadIdx.x == 0) choices[(DIGITS - 1) * images + image] = choice;
    const LOGIT *benign = logits + 2ll * image * length, *malign = benign + length;
    bool whole = fits_fours(benign, length);
    float all = 0, above = 0;
    for (long long next = blockIdx.x * THREADS + threadIdx.x; next * FOUR < length; next += gridDim.x * THREADS) {
        int first = next * FOUR;
        Four<LOGIT> low = load(benign, first, length, whole, LOGIT{});
        Four<LOGIT> high = load(malign, first, length, whole, LOGIT{});
#pragma unroll
        for (int j = 0; j < FOUR; ++j) {
            float value = to_float(high.at[j]); // 0 beyond the end
            all += to_float(low.at[j]);
            if (order_key(value) > choice.prefix) above += value;
        }
    }
    all = sum_warp(all);
    above = sum_warp(above);
    if (threadIdx.x % WARP == 0) {
        warps[0][threadIdx.x / WARP] = all;
        warps[1][threadIdx.x / WARP] = above;
    }
    __syncthreads();
    if (threadIdx.x < 2) {
        float sum = 0;
        for (int warp = 0; warp < THREADS / WARP; ++warp) sum += warps[threadIdx.x][warp];
        sums[2 * (static_cast<long long>(image) * gridDim.x + blockIdx.x) + threadIdx.x] = sum;
    }
}

// p / beta (1 - (q / p)^beta) and, as `slope`, its derivative by log q; 0 where p is 0.
__device__ double term(double p, double log_q, double beta, double &slope) {
    slope = 0;
    if (p <= 0) return 0;
    double distance = log_q - log(p);
    slope = -p * exp(beta * distance);
    return beta == 0 ? -p * distance : -p * expm1(beta * distance) / beta;
}

// One block: warps turn each image's sums into slide logits `pooled` [N, 2], its loss and its slope; `loss` is the mean.
extern "C" __global__ void __launch_bounds__(THREADS)
    beta_kl_finish(const float *sums, const Choice *choices, const float *truth, int images, int parts, int length,
                   int largest, float beta0, float beta1, float *pooled, Slope *slopes, float *loss) {
    __shared__ double losses[THREADS / WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    double total = 0;
    for (int image = warp; image < images; image += THREADS / WARP) {
        float all = 0, above = 0;
        for (int part = lane; part < parts; part += WARP) {
            all += sums[2 * (static_cast<long long>(image) * parts + part)];
            above += sums[2 * (static_cast<long long>(image) * parts + part) + 1];
        }
        all = sum_warp(all);
        above = sum_warp(above);
        if (lane == 0) {
            Choice choice = choices[(DIGITS - 1) * images + image];
            double l0 = static_cast<double>(all) / length;
            double l1 = (above + static_cast<double>(choice.rank) * key_value(choice.prefix)) / largest;
            double higher = l0 > l1 ? l0 : l1, log_total = higher + log1p(exp(-fabs(l0 - l1)));
            double slope0, slope1;
            total += term(truth[2 * image], l0 - log_total, beta0, slope0);
            total += term(truth[2 * image + 1], l1 - log_total, beta1, slope1);
            double both = slope0 + slope1;
            pooled[2 * image] = l0;
            pooled[2 * image + 1] = l1;
            slopes[image] = {static_cast<float>((slope0 - exp(l0 - log_total) * both) / length / images),
                             static_cast<float>((slope1 - exp(l1 - log_total) * both) / largest / images),
                             choice.prefix, static_cast<float>(choice.rank) / choice.tied};
        }
    }
    if (lane == 0) losses[warp] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int other = 1; other < THREADS / WARP; ++other) total += losses[other];
        loss[0] = total / images;
    }
}

// The gradient [N, 2, pixels] of the mean loss times upstream[0]; a thread takes four pixels of both planes at a time.
extern "C" __global__ void __launch_bounds__(THREADS)
    beta_kl_backward(const LOGIT *logits, int length, const Slope *slopes, const float *upstream, LOGIT *gradient) {
    long long image = 2ll * blockIdx.y * length;
    const LOGIT *malign = logits + image + length;
    gradient += image;
    bool whole = fits_fours(malign, length) && fits_fours(gradient, length);
    Slope slope = slopes[blockIdx.y];
    LOGIT every = from_float<LOGIT>(upstream[0] * slope.benign);
    for (long long next = blockIdx.x * THREADS + threadIdx.x; next * FOUR < length; next += gridDim.x * THREADS) {
        int first = next * FOUR;
        Four<LOGIT> values = load(malign, first, length, whole, LOGIT{}), below, above;
#pragma unroll
        for (int j = 0; j < FOUR; ++j) {
            unsigned key = order_key(to_float(values.at[j]));
            float share = key > slope.key ? 1 : key == slope.key ? slope.tie : 0;
            below.at[j] = every;
            above.at[j] = from_float<LOGIT>(upstream[0] * slope.malign * share);
        }
        store(gradient, first, length, whole, below);
        store(gradient + length, first, length, whole, above);
    }
}
