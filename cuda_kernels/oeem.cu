// The OEEM loss (Li et al., MICCAI 2022, Eqs. 3 to 8) on LOGIT logits [N, C, pixels] and int64 labels [N, pixels].
//
// exp(-loss) is the label's probability p, so Eq. 6 is p / mean(p) and one sum per image normalises it. With beta,
// the weight is p^beta / mean(p^beta), times a confidence: 1 (l_norm), the largest class probability (lc_mix), or,
// with beta = 0, that alone (c_max), or less the smallest (c_diff).
//
// The device copies memory faster than it takes careful exponentials, so these are the hardware's own.

enum Confidence { NONE, LARGEST, SPREAD };

constexpr int THREADS = 256;
constexpr int NO_CLASS = -0x7fffffff - 1;

// What some pixels of one image add up to. `weights` and `weighted` are relative to exp(top), so that an image whose
// every p underflows still has its weights.
struct Share {
    float top;      // the largest -beta * loss
    float weights;  // sum of p^beta
    float weighted; // sum of p^beta * confidence * loss
    float plain;    // sum of loss
    int counted;
    int lowest, highest; // label
};

// How an image's pixels are weighted: factor * exp(-beta * loss - top) * confidence, or 1 where the factor is 0.
struct Scale {
    float top, factor;
};

// Four pixels: the softmax over their classes, as far as the loss and its weight need it.
struct Pixels {
    int label[FOUR];
    float top[FOUR], bottom[FOUR]; // logit
    float total[FOUR];             // sum of exp(logit - top)
    float own[FOUR];               // the label's logit, NaN where no class has that label
};

__device__ Pixels classify(const LOGIT *logits, const long long *labels, int first, int classes, int length,
                           int ignore, bool whole_logits, bool whole_labels) {
    Pixels pixels;
    Four<long long> known = load(labels, first, length, whole_labels, static_cast<long long>(ignore));
#pragma unroll
    for (int j = 0; j < FOUR; ++j) {
        // What no int holds is no class either.
        int label = static_cast<int>(known.at[j]);
        pixels.label[j] = label == known.at[j] ? label : NO_CLASS;
        pixels.top[j] = LOWEST;
        pixels.bottom[j] = -LOWEST;
        pixels.total[j] = 0;
        pixels.own[j] = __uint_as_float(0x7fc00000u);
    }
    for (int c = 0; c < classes; ++c) {
        Four<LOGIT> values = load(logits + c * static_cast<long long>(length), first, length, whole_logits, LOGIT{});
#pragma unroll
        for (int j = 0; j < FOUR; ++j) {
            float logit = to_float(values.at[j]), rise = logit - pixels.top[j], ratio = fast_exp(-fabsf(rise));
            pixels.total[j] = rise > 0 ? pixels.total[j] * ratio + 1 : pixels.total[j] + ratio;
            pixels.top[j] = fmaxf(pixels.top[j], logit);
            pixels.bottom[j] = fminf(pixels.bottom[j], logit);
            if (pixels.label[j] == c) pixels.own[j] = logit;
        }
    }
    return pixels;
}

__device__ float confidence_of(const Pixels &pixels, int j, int kind) {
    if (kind == NONE) return 1;
    float largest = __fdividef(1, pixels.total[j]);
    return kind == LARGEST ? largest : largest - fast_exp(pixels.bottom[j] - pixels.top[j]) * largest;
}

__device__ Share nothing() { return {LOWEST, 0, 0, 0, 0, 0x7fffffff, -1}; }

__device__ void raise(Share &share, float top) {
    float shrink = fast_exp(share.top - top);
    share.weights *= shrink;
    share.weighted *= shrink;
    share.top = top;
}

// Adds the pixels that are labelled; with `ignored_as_easy` the others too, with a loss of 0.
__device__ void add(Share &share, const Pixels &pixels, int inside, int kind, float beta, int ignore,
                    bool ignored_as_easy) {
    float loss[FOUR], exponent[FOUR], top = share.top;
    bool counts[FOUR];
#pragma unroll
    for (int j = 0; j < FOUR; ++j) {
        bool known = pixels.label[j] != ignore;
        counts[j] = known || (ignored_as_easy && j < inside);
        loss[j] = known ? fast_log(pixels.total[j]) + (pixels.top[j] - pixels.own[j]) : 0;
        exponent[j] = -beta * loss[j];
        if (counts[j]) top = fmaxf(top, exponent[j]);
        if (known) {
            share.lowest = min(share.lowest, pixels.label[j]);
            share.highest = max(share.highest, pixels.label[j]);
        }
    }
    if (top > share.top) raise(share, top);
#pragma unroll
    for (int j = 0; j < FOUR; ++j) {
        float weight = counts[j] ? fast_exp(exponent[j] - share.top) : 0;
        share.weights += weight;
        share.weighted += weight * confidence_of(pixels, j, kind) * loss[j];
        share.plain += loss[j];
        share.counted += counts[j];
    }
}

__device__ void merge(Share &share, Share other) {
    if (other.top > share.top)
        raise(share, other.top);
    else
        raise(other, share.top);
    share.weights += other.weights;
    share.weighted += other.weighted;
    share.plain += other.plain;
    share.counted += other.counted;
    share.lowest = min(share.lowest, other.lowest);
    share.highest = max(share.highest, other.highest);
}

// The warp's shares merged, in lane 0.
__device__ Share merge_warp(Share share) {
    for (int step = WARP / 2; step; step /= 2) {
        Share other;
        other.top = __shfl_down_sync(WHOLE_WARP, share.top, step);
        other.weights = __shfl_down_sync(WHOLE_WARP, share.weights, step);
        other.weighted = __shfl_down_sync(WHOLE_WARP, share.weighted, step);
        other.plain = __shfl_down_sync(WHOLE_WARP, share.plain, step);
        other.counted = __shfl_down_sync(WHOLE_WARP, share.counted, step);
        other.lowest = __shfl_down_sync(WHOLE_WARP, share.lowest, step);
        other.highest = __shfl_down_sync(WHOLE_WARP, share.highest, step);
        merge(share, other);
    }
    return share;
}

// A block sums part blockIdx.x of image blockIdx.y into one share; a thread takes four pixels at a time.
extern "C" __global__ void __launch_bounds__(THREADS)
    oeem_forward(const LOGIT *logits, const long long *labels, int classes, int length, int confidence, float beta,
                 int ignore, int ignored_as_easy, Share *shares) {
    __shared__ Share warps[THREADS / WARP];
    logits += static_cast<long long>(blockIdx.y) * classes * length;
    labels += static_cast<long long>(blockIdx.y) * length;
    bool whole_logits = fits_fours(logits, length), whole_labels = fits_fours(labels, length);
    Share share = nothing();
    for (long long next = blockIdx.x * THREADS + threadIdx.x; next * FOUR < length; next += gridDim.x * THREADS) {
        int first = next * FOUR;
        Pixels pixels = classify(logits, labels, first, classes, length, ignore, whole_logits, whole_labels);
        add(share, pixels, length - first, confidence, beta, ignore, ignored_as_easy);
    }
    share = merge_warp(share);
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = share;
    __syncthreads();
    if (threadIdx.x < WARP) {
        share = merge_warp(threadIdx.x < THREADS / WARP ? warps[threadIdx.x] : nothing());
        if (threadIdx.x == 0) shares[static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x] = share;
    }
}

// One block: warps merge each image's shares into its scale; totals are the loss and 1 / counted pixels.
extern "C" __global__ void __launch_bounds__(THREADS)
    oeem_finish(const Share *shares, int images, int parts, Scale *scales, float *totals) {
    __shared__ double losses[THREADS / WARP], counts[THREADS / WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    double loss = 0, counted = 0;
    for (int image = warp; image < images; image += THREADS / WARP) {
        Share share = nothing();
        for (int part = lane; part < parts; part += WARP)
            merge(share, shares[static_cast<long long>(image) * parts + part]);
        share = merge_warp(share);
        if (lane == 0) {
            bool one_class = share.highest <= share.lowest;
            Scale scale = {share.top, one_class ? 0 : share.counted / share.weights};
            scales[image] = scale;
            loss += one_class ? share.plain : scale.factor * share.weighted;
            counted += share.counted;
        }
    }
    if (lane == 0) {
        losses[warp] = loss;
        counts[warp] = counted;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int other = 1; other < THREADS / WARP; ++other) {
            loss += losses[other];
            counted += counts[other];
        }
        totals[0] = loss / fmax(counted, 1.0);
        totals[1] = loss == loss ? 1 / fmax(counted, 1.0) : loss; // a loss that is not a number has no gradient
    }
}

// The gradient [N, C, pixels] with the weight held constant, times upstream[0]; threads own pixels as in oeem_forward.
extern "C" __global__ void __launch_bounds__(THREADS)
    oeem_backward(const LOGIT *logits, const long long *labels, int classes, int length, int confidence, float beta,
                  int ignore, const Scale *scales, const float *totals, const float *upstream, LOGIT *gradient) {
    long long image = static_cast<long long>(blockIdx.y) * classes * length;
    logits += image;
    gradient += image;
    labels += static_cast<long long>(blockIdx.y) * length;
    bool whole_logits = fits_fours(logits, length) && fits_fours(gradient, length);
    bool whole_labels = fits_fours(labels, length);
    Scale scale = scales[blockIdx.y];
    float share = upstream[0] * totals[1];
    for (long long next = blockIdx.x * THREADS + threadIdx.x; next * FOUR < length; next += gridDim.x * THREADS) {
        int first = next * FOUR;
        Pixels pixels = classify(logits, labels, first, classes, length, ignore, whole_logits, whole_labels);
        float pull[FOUR], norm[FOUR];
#pragma unroll
        for (int j = 0; j < FOUR; ++j) {
            float weight = 1;
            if (scale.factor > 0) {
                float loss = fast_log(pixels.total[j]) + (pixels.top[j] - pixels.own[j]);
                weight = scale.factor * fast_exp(-beta * loss - scale.top) * confidence_of(pixels, j, confidence);
            }
            norm[j] = __fdividef(1, pixels.total[j]);
            pull[j] = pixels.label[j] == ignore ? 0 : share * weight;
        }
        for (int c = 0; c < classes; ++c) {
            long long plane = c * static_cast<long long>(length);
            Four<LOGIT> values = load(logits + plane, first, length, whole_logits, LOGIT{}), slopes;
#pragma unroll
            for (int j = 0; j < FOUR; ++j) {
                float probability = fast_exp(to_float(values.at[j]) - pixels.top[j]) * norm[j];
                slopes.at[j] = from_float<LOGIT>(pull[j] * (probability - (pixels.label[j] == c)));
            }
            store(gradient + plane, first, length, whole_logits, slopes);
        }
    }
}
