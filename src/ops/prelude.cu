// What every kernel file stands on: number types, accesses of 16 bytes, sums over a warp and over a block.
//
// The program compiles this file and a kernel file together, as one text without headers. Activations are `real`:
// bf16, or float when compiled with -DREAL=float; whatever is summed is summed in float or double. Sums have a fixed
// order and no kernel uses a floating-point atomic, so a result depends neither on the schedule nor on luck; but for the kernels of
// --nondeterministic, which add_in_any_order.
//
// The tests compile the same text for the CPU with -DHOSTSIM (tests/cuda/hostsim.h), where a fiber plays each thread.
#ifdef HOSTSIM
#include "hostsim.h"
#else
#define DYNAMIC_SHARED(T, name)                                      \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    T* name = (T*)dynamic_shared
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bf16 {
    unsigned short bits;
};

#ifndef REAL
#define REAL bf16
#endif
typedef REAL real;

// The target of a row that counts for nothing (crate::ops::MASKED).
#define MASKED 0xffffffffu
#define FULL_WARP 0xffffffffu
#define INF __uint_as_float(0x7f800000u)

// ---- numbers -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// Two floats as bf16 in one register, each rounded to nearest even. The instruction takes the upper half first.
__device__ __forceinline__ u32 pack(float lower, float upper) {
#ifdef HOSTSIM
    return hostsim::bf16_bits(lower) | hostsim::bf16_bits(upper) << 16;
#else
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
    return pair;
#endif
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return low(x.bits); }
__device__ __forceinline__ void put(float* p, float x) { *p = x; }
__device__ __forceinline__ void put(bf16* p, float x) { p->bits = (unsigned short)pack(x, 0.f); }

// *p += x while other threads do the same.
__device__ __forceinline__ void add_in_any_order(float* p, float x) {
#ifdef HOSTSIM
    *p += x;   // threads take turns
#else
    atomicAdd(p, x);
#endif
}

// x as memory will hold it.
__device__ __forceinline__ float rounded(float x, const float*) { return x; }
__device__ __forceinline__ float rounded(float x, const bf16*) { return low(pack(x, 0.f)); }

// σ(x) = 1 / (1 + e^-x)
__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

// ---- 16 bytes at a time ------------------------------------------------------------------------------------------------

// What a thread reads or writes in one access.
struct __align__(16) Bits128 {
    u32 word[4];
};

// Whether rows of `cols` elements, at these addresses, can be taken eight elements at a time. Null pointers can.
template <class... P>
__device__ __forceinline__ bool whole(u64 cols, const P*... rows) {
    return ((cols & 7) | ((0 | ... | (u64)rows) & 15)) == 0;
}

// Eight elements at p, of which the row has `left`: one access of 16 bytes (two for floats) where rows are whole,
// element by element where not. What lies past the end of the row is not touched and counts as 0.
__device__ __forceinline__ void load8(float (&x)[8], const bf16* p, i64 left, bool whole) {
    if (whole) {
        const Bits128 b = *(const Bits128*)p;
#pragma unroll
        for (int i = 0; i < 4; i++) x[2 * i] = low(b.word[i]), x[2 * i + 1] = high(b.word[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = i < left ? to_float(p[i]) : 0.f;
    }
}

__device__ __forceinline__ void load8(float (&x)[8], const float* p, i64 left, bool whole) {
    if (whole) {
        const Bits128 a = *(const Bits128*)p, b = *(const Bits128*)(p + 4);
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = __uint_as_float(a.word[i]), x[i + 4] = __uint_as_float(b.word[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = i < left ? p[i] : 0.f;
    }
}

__device__ __forceinline__ void store8(bf16* p, const float (&x)[8], i64 left, bool whole) {
    if (whole) {
        Bits128 b;
#pragma unroll
        for (int i = 0; i < 4; i++) b.word[i] = pack(x[2 * i], x[2 * i + 1]);
        *(Bits128*)p = b;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < left) put(p + i, x[i]);
    }
}

__device__ __forceinline__ void store8(float* p, const float (&x)[8], i64 left, bool whole) {
    if (whole) {
        Bits128 a, b;
#pragma unroll
        for (int i = 0; i < 4; i++) a.word[i] = __float_as_uint(x[i]), b.word[i] = __float_as_uint(x[i + 4]);
        *(Bits128*)p = a;
        *(Bits128*)(p + 4) = b;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < left) p[i] = x[i];
    }
}

// Eight elements as memory holds them: what a thread keeps of a row until it needs them again.
template <class T>
struct __align__(16) Eight {
    u32 word[2 * sizeof(T)];
};

__device__ __forceinline__ void hold8(Eight<bf16>& e, const float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) e.word[i] = pack(x[2 * i], x[2 * i + 1]);
}

__device__ __forceinline__ void hold8(Eight<float>& e, const float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) e.word[i] = __float_as_uint(x[i]);
}

__device__ __forceinline__ void values8(float (&x)[8], const Eight<bf16>& e) {
#pragma unroll
    for (int i = 0; i < 4; i++) x[2 * i] = low(e.word[i]), x[2 * i + 1] = high(e.word[i]);
}

__device__ __forceinline__ void values8(float (&x)[8], const Eight<float>& e) {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = __uint_as_float(e.word[i]);
}

// As load8, without a look at the numbers: many such loads can be under way at once.
template <class T>
__device__ __forceinline__ void fetch8(Eight<T>& e, const T* p, i64 left, bool whole) {
    if (whole) {
        e = *(const Eight<T>*)p;
    } else {
        float x[8];
        load8(x, p, left, false);
        hold8(e, x);
    }
}

// ---- sums ------------------------------------------------------------------------------------------------------------

// Σ over groups of `lanes` neighbouring lanes (a power of two, at most 32), the same in each of them.
template <class T>
__device__ __forceinline__ T lanes_sum(T x, int lanes) {
    for (int apart = lanes / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(FULL_WARP, x, apart);
    return x;
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(FULL_WARP, x, apart);
    return x;
}

// Σ over the block, the same in every thread; `part` is 32 places of shared memory, free again on return. Blocks are
// one-dimensional multiples of 32.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* part) {
    const int lane = threadIdx.x & 31;
    x = warp_sum(x);
    if (lane == 0) part[threadIdx.x >> 5] = x;
    __syncthreads();
    x = lane < blockDim.x >> 5 ? part[lane] : T(0);
    __syncthreads();
    return warp_sum(x);
}

// Σ of N values over the block at once, the same in every thread, behind one barrier. `part` is room for N values of each warp, and
// is not to be written again before the barrier after next.
template <int N>
__device__ __forceinline__ void block_sums(float (&x)[N], float* part) {
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = warp_sum(x[i]);
    if ((threadIdx.x & 31) == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) part[(threadIdx.x >> 5) * N + i] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = 0.f;
    for (int k = 0; k < blockDim.x >> 5; k++) {
#pragma unroll
        for (int i = 0; i < N; i++) x[i] += part[k * N + i];
    }
}
