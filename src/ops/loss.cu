// Softmax cross-entropy over a chunk of rows: loss and gradient in one launch, the gradient in the logits' place.
//
//   loss = log Σ_j e^{z_j} − z_target          dz_j = scale (softmax(z)_j − [j = target])
//
// z (n, P) is real; losses (n) float; targets (n). Columns from V on are padding: they count as −∞ and their gradient
// is 0. A row whose target is MASKED has loss 0 and gradient 0. One block a row: the first reading keeps a running maximum
// and denominator, the second one, which finds the row in the second-level cache, writes the gradient.

// Stands for −∞ in a running maximum: e^(z − LOWEST) is never e^(−∞ + ∞).
#define LOWEST (-3.0e38f)

// The maximum and Σ e^(z − maximum) of the row's first V columns, the same in every thread; shared: 32 places each. A NaN
// among the logits does not become the maximum, but it makes the sum, and so the loss, NaN.
__device__ __forceinline__ void row_softmax(float& top, float& total, const real* z, int V, bool w, float* tops, float* totals) {
    top = LOWEST, total = 0.f;
    for (int c = 8 * threadIdx.x; c < V; c += 8 * blockDim.x) {
        float v[8];
        load8(v, z + c, V - c, w);
        float higher = top;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < V - c) higher = fmaxf(higher, v[i]);
        total *= __expf(top - higher);
        top = higher;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < V - c) total += __expf(v[i] - top);
    }
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        const float other = __shfl_xor_sync(FULL_WARP, top, apart);
        const float others = __shfl_xor_sync(FULL_WARP, total, apart);
        const float higher = fmaxf(top, other);
        total = total * __expf(top - higher) + others * __expf(other - higher);
        top = higher;
    }
    if (lane == 0) tops[threadIdx.x >> 5] = top, totals[threadIdx.x >> 5] = total;
    __syncthreads();
    top = tops[0];
    for (int k = 1; k < blockDim.x >> 5; k++) top = fmaxf(top, tops[k]);
    total = 0.f;
    for (int k = 0; k < blockDim.x >> 5; k++) total += totals[k] * __expf(tops[k] - top);
}

//   grid (n), block 32 … 1024, meant: 1024 for a vocabulary; shared 0
extern "C" __global__ void __launch_bounds__(1024)
cross_entropy(real* logits, float* losses, const u32* targets, int V, int P, float scale) {
    __shared__ float tops[32], totals[32];
    real* z = logits + (u64)blockIdx.x * P;
    const u32 target = targets[blockIdx.x];
    const bool w = whole(P, logits);
    float top = 0.f, total = 1.f, at_target = 0.f;
    if (target != MASKED) {
        at_target = to_float(z[target]);   // before the barrier within, behind which the row is overwritten
        row_softmax(top, total, z, V, w, tops, totals);
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = target == MASKED ? 0.f : logf(total) + (top - at_target);
    const float factor = scale / total;
    for (int c = 8 * threadIdx.x; c < P; c += 8 * blockDim.x) {
        float v[8];
        load8(v, z + c, P - c, w);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const bool counts = target != MASKED && c + i < V;
            v[i] = counts ? __expf(v[i] - top) * factor - (c + i == target ? scale : 0.f) : 0.f;
        }
        store8(z + c, v, P - c, w);
    }
}

// The losses alone; the logits stay as they are.
//   grid (n), block 32 … 1024, meant: 1024 for a vocabulary; shared 0
extern "C" __global__ void __launch_bounds__(1024)
cross_entropy_only(float* losses, const real* logits, const u32* targets, int V, int P) {
    __shared__ float tops[32], totals[32];
    const real* z = logits + (u64)blockIdx.x * P;
    const u32 target = targets[blockIdx.x];
    float top = 0.f, total = 1.f;
    if (target != MASKED) row_softmax(top, total, z, V, whole(P, logits), tops, totals);
    if (threadIdx.x == 0) losses[blockIdx.x] = target == MASKED ? 0.f : logf(total) + (top - to_float(z[target]));
}

// total += Σ losses, in double and in a fixed order: a pass over the batch adds chunk after chunk.
//   grid 1, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256) sum_losses(double* total, const float* losses, int n) {
    __shared__ double part[32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += losses[i];
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) total[0] += sum;
}
