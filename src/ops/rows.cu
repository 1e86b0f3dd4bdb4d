// Sums over the rows of a matrix, in two launches: strips of rows first, then the strips' sums in their order.
//
//   partials[k][c] = Σ over strip k of x[row][c]         out[c] += Σ_k partials[k][c]
//
// x (n, C) is real, a gradient whose column sums are a bias's; partials (strips, C) and out (C) are float.

// partials from x; strip k has the rows k·⌈n/strips⌉ and on.
//   grid (⌈C/256⌉, strips), meant: about 32 rows a strip, at most 256 strips; block (32, 8); shared 0
extern "C" __global__ void __launch_bounds__(256) column_sums(float* partials, const real* x, int n, int C) {
    __shared__ float sums[8][256];
    const bool w = whole(C, x);
    const int c = blockIdx.x * 256 + 8 * threadIdx.x;
    const int rows = (n + gridDim.y - 1) / gridDim.y;
    const int end = min(n, (int)(blockIdx.y + 1) * rows);

    float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    if (c < C) {
        for (int row = blockIdx.y * rows + threadIdx.y; row < end; row += 8) {
            float v[8];
            load8(v, x + (u64)row * C + c, C - c, w);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += v[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) sums[threadIdx.y][8 * threadIdx.x + i] = sum[i];
    __syncthreads();

    const int mine = 32 * threadIdx.y + threadIdx.x, col = blockIdx.x * 256 + mine;
    if (col < C) {
        float total = 0.f;
        for (int k = 0; k < 8; k++) total += sums[k][mine];
        partials[(u64)blockIdx.y * C + col] = total;
    }
}

// a += the sums of partials (count, C); or of partials (count, 2, C): a += those of [·][0], b, which may be null, += those
// of [·][1].
//   grid (⌈C/32⌉, 1 or 2), block (32, 8), shared 0
extern "C" __global__ void __launch_bounds__(256) column_reduce(float* a, float* b, const float* partials, int count, int C) {
    __shared__ float sums[8][32];
    const int c = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.f;
    if (c < C)
        for (int k = threadIdx.y; k < count; k += 8) sum += partials[((u64)k * gridDim.y + blockIdx.y) * C + c];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();

    float* out = blockIdx.y == 0 ? a : b;
    if (threadIdx.y == 0 && c < C && out) {
        float total = 0.f;
        for (int k = 0; k < 8; k++) total += sums[k][threadIdx.x];
        out[c] += total;
    }
}
