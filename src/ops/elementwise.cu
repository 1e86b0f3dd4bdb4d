// What needs no neighbours, and the sum of squares behind the gradient norm.
//
//   add: y = a + b        to_bf16, to_float: y = x        square_sum: Σ x², in double, in pieces of fixed size
//
// A thread takes eight elements. Launches of the maps: grid ⌈n / 2048⌉, block 256, shared 0.

extern "C" __global__ void __launch_bounds__(256) add(real* y, const real* a, const real* b, u64 n) {
    const u64 at = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= n) return;
    const bool w = whole(0, y, a, b) && n - at >= 8;
    float u[8], v[8];
    load8(u, a + at, n - at, w);
    load8(v, b + at, n - at, w);
#pragma unroll
    for (int i = 0; i < 8; i++) u[i] += v[i];
    store8(y + at, u, n - at, w);
}

extern "C" __global__ void __launch_bounds__(256) to_bf16(bf16* y, const float* x, u64 n) {
    const u64 at = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= n) return;
    const bool w = whole(0, y, x) && n - at >= 8;
    float v[8];
    load8(v, x + at, n - at, w);
    store8(y + at, v, n - at, w);
}

extern "C" __global__ void __launch_bounds__(256) to_float(float* y, const bf16* x, u64 n) {
    const u64 at = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= n) return;
    const bool w = whole(0, y, x) && n - at >= 8;
    float v[8];
    load8(v, x + at, n - at, w);
    store8(y + at, v, n - at, w);
}

// Elements of one partial sum: fixed, so that the GPU's size does not show in the norm.
#define PIECE 16384

// partials[k] = Σ x² over the k-th piece.
//   grid ⌈n / 16384⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256) square_sum(double* partials, const float* x, u64 n) {
    __shared__ double part[32];
    const bool aligned = whole(0, x);
    const u64 first = (u64)blockIdx.x * PIECE, end = n - first < PIECE ? n : first + PIECE;
    double sum = 0.0;
    for (u64 at = first + 8 * threadIdx.x; at < end; at += 8 * blockDim.x) {
        float v[8];
        load8(v, x + at, end - at, aligned && end - at >= 8);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fma((double)v[i], (double)v[i], sum);
    }
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// total += Σ partials, in a fixed order: the gradient's groups add up one after the other.
//   grid 1, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256) sum_partials(double* total, const double* partials, u64 count) {
    __shared__ double part[32];
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) total[0] += sum;
}
