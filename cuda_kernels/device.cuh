// What the kernels share; every source begins with this text. No headers: it must build with NVRTC alone.

constexpr int WARP = 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;
constexpr int FOUR = 4; // neighbouring pixels that a thread takes at once
constexpr float LOWEST = -3.4028234664e38f; // of all finite floats

struct Half {
    unsigned short bits;
};

struct BFloat {
    unsigned short bits;
};

__device__ inline float to_float(float value) { return value; }

__device__ inline float to_float(BFloat value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }

__device__ inline float to_float(Half value) {
#ifdef __CUDACC__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#else
    return half_to_float(value.bits);
#endif
}

template <typename T> __device__ T from_float(float value);

template <> __device__ inline float from_float<float>(float value) { return value; }

template <> __device__ inline BFloat from_float<BFloat>(float value) {
    if (value != value) return {0x7fff};
    unsigned bits = __float_as_uint(value);
    return {static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)}; // to nearest, halves to even
}

template <> __device__ inline Half from_float<Half>(float value) {
    Half narrow;
#ifdef __CUDACC__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
#else
    narrow.bits = float_to_half(value);
#endif
    return narrow;
}

// e^value by the hardware's own power of two: two instructions; its relative error grows with |value| by 2^-24 each.
__device__ inline float fast_exp(float value) {
#ifdef __CUDACC__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value * 1.4426950409f));
    return power;
#else
    return expf(value);
#endif
}

// The natural logarithm of what is not below 1, by the hardware's own: two instructions, right to 2e-7.
__device__ inline float fast_log(float value) {
#ifdef __CUDACC__
    float power;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
    return power * 0.6931471806f;
#else
    return logf(value);
#endif
}

// Four values that are loaded and stored with as few instructions as their alignment allows.
template <typename T> struct alignas(FOUR * sizeof(T) < 16 ? FOUR * sizeof(T) : 16) Four {
    T at[FOUR];
};

template <typename T> __device__ inline bool fits_fours(const T *row, int length) {
    return length % FOUR == 0 && reinterpret_cast<unsigned long long>(row) % alignof(Four<T>) == 0;
}

// Values `first`... of a row; beyond its end `beyond`. `whole`: the row fits_fours.
template <typename T> __device__ inline Four<T> load(const T *row, int first, int length, bool whole, T beyond) {
    if (whole) return *reinterpret_cast<const Four<T> *>(row + first);
    Four<T> values;
#pragma unroll
    for (int j = 0; j < FOUR; ++j) values.at[j] = first + j < length ? row[first + j] : beyond;
    return values;
}

template <typename T>
__device__ inline void store(T *row, int first, int length, bool whole, const Four<T> &values) {
    if (whole) {
        *reinterpret_cast<Four<T> *>(row + first) = values;
        return;
    }
#pragma unroll
    for (int j = 0; j < FOUR; ++j)
        if (first + j < length) row[first + j] = values.at[j];
}
