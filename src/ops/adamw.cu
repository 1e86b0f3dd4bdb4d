// AdamW over a flat range in one pass over the memory.
//
//   g ← scale g
//   m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//   w ← w (1 − lr decay) − rate m / (root √v + ε)         rate = lr / (1 − β₁ᵗ),  root = 1 / √(1 − β₂ᵗ)
//   copy ← w, in bf16
//
// w, m, v, g (n) are float, copy (n) is bf16; or w is bf16 and there is no copy. What changes from step to step lies in device memory, so that no launch
// waits for the host and the same launches can be replayed.

// The step's factors, computed in double on the host. `draw`: random bits of this step, for stochastic rounding.
struct Step {
    float beta1, beta2, rest1, rest2;   // β₁, β₂, 1 − β₁, 1 − β₂
    float lr, rate, root, eps;
    u32 draw;
};

// Mixes 32 bits (the finalizer of MurmurHash3).
__device__ __forceinline__ u32 mix(u32 x) {
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

// Random bits of a step's draw for two neighbours, the first of which has this even place: 16 for each, the lower ones first.
__device__ __forceinline__ u32 drawn(u64 place, u32 draw) { return mix(mix((u32)place ^ draw) + (u32)(place >> 32)); }

// One of the two neighbours in bf16, each as likely as it is near; bits: 16 random ones. The mean of many is x itself.
__device__ __forceinline__ float rounded_at_random(float x, u32 bits) {
    const u32 u = __float_as_uint(x);
    if ((u & 0x7f800000u) == 0x7f800000u) return x;   // ±∞ and NaN have no neighbours
    return __uint_as_float((u + bits) & 0xffff0000u);
}

// A copy as the update made it: y = x in bf16, rounded with the bits of its place, `first` being that of x[0].
//   grid ⌈n / 2048⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256) to_bf16_at_random(bf16* y, const float* x, u64 n, u64 first, u32 draw) {
    const u64 at = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= n) return;
    const bool w = whole(0, y, x) && n - at >= 8;
    float v[8];
    load8(v, x + at, n - at, w);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u64 place = first + at + i;
        const u32 bits = drawn(place & ~1ull, draw);
        v[i] = rounded_at_random(v[i], place & 1 ? bits >> 16 : bits & 0xffffu);
    }
    store8(y + at, v, n - at, w);
}

// What both kernels below do with a thread's elements at..at + 8: m and v are written, the new w is left in ws.
template <class W>
__device__ __forceinline__ void update8(float (&ws)[8], const W* w, float* m, float* v, const float* g, const Step& s, float keep,
                                        float by, u64 at, u64 n) {
    const bool all = whole(0, w, m, v, g) && n - at >= 8;
    float ms[8], vs[8], gs[8];
    load8(gs, g + at, n - at, all);
    load8(ms, m + at, n - at, all);
    load8(vs, v + at, n - at, all);
    load8(ws, w + at, n - at, all);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float d = by * gs[i];
        ms[i] = fmaf(s.beta1, ms[i], s.rest1 * d);
        vs[i] = fmaf(s.beta2, vs[i], s.rest2 * d * d);
        ws[i] = fmaf(keep, ws[i], -(s.rate * ms[i] / fmaf(sqrtf(vs[i]), s.root, s.eps)));
    }
    store8(m + at, ms, n - at, all);
    store8(v + at, vs, n - at, all);
}

// Eight numbers, the first of which has this even place, as bf16 will hold them.
__device__ __forceinline__ void round8_at_random(float (&x)[8], u64 first, u32 draw) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        const u32 bits = drawn(first + i, draw);
        x[i] = rounded_at_random(x[i], bits & 0xffffu);
        x[i + 1] = rounded_at_random(x[i + 1], bits >> 16);
    }
}

// `first` is the place of element 0 in the whole model, from which the random bits follow, however it is sharded; it is even,
// since two neighbours share a draw. Where *skip is not 0 nothing happens. copy may be null; stochastic: 0 rounds the copy to nearest even.
//   grid ⌈n / 2048⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256)
adamw(float* w, float* m, float* v, bf16* copy, const float* g, const Step* step, const float* scale, const u32* skip,
      float decay, u64 n, u64 first, int stochastic) {
    const u64 at = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= n || *skip) return;
    const Step s = *step;
    float ws[8];
    update8(ws, w, m, v, g, s, fmaf(-s.lr, decay, 1.f), *scale, at, n);
    store8(w + at, ws, n - at, whole(0, w) && n - at >= 8);
    if (copy) {
        if (stochastic) round8_at_random(ws, first + at, s.draw);
        store8(copy + at, ws, n - at, whole(0, copy) && n - at >= 8);
    }
}

// The same of weights that are bf16 alone: the update is computed in float, and its rounding is what becomes of w.
//   grid ⌈n / 2048⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256)
adamw_bf16(bf16* w, float* m, float* v, const float* g, const Step* step, const float* scale, const u32* skip, float decay, u64 n,
           u64 first, int stochastic) {
    const u64 at = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= n || *skip) return;
    const Step s = *step;
    float ws[8];
    update8(ws, w, m, v, g, s, fmaf(-s.lr, decay, 1.f), *scale, at, n);
    if (stochastic) round8_at_random(ws, first + at, s.draw);
    store8(w + at, ws, n - at, whole(0, w) && n - at >= 8);
}
