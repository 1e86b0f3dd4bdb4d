// RMSNorm over each query and key head; value heads are copied through.
//
//   y = γ x r,  r = 1/√(mean of x² + ε)        dx = r (g − x r mean(g x r)),  g = γ dy        dγ += Σ dy x r
//
// Rows of y, qkv, dy and dqkv (n, (H + 2K) D) are (q_1…q_H | k_1…k_K | v_1…v_K); γ_q and γ_k (D) serve all query and all
// key heads. These are real; stats (n, H + K) keeps r in float, dγ_q and dγ_k are float. A group of `lanes` lanes of one
// warp takes a head: ⌈D/8⌉ rounded up to a power of two, at most 32. D is at most 256.

//   grid ⌈n (H + 2K) lanes / 256⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256)
qk_norm_forward(real* y, float* stats, const real* qkv, const real* gamma_q, const real* gamma_k, int n, int H, int K, int D,
                int lanes, float eps) {
    const u32 group = (blockIdx.x * blockDim.x + threadIdx.x) / lanes;
    const u32 heads = H + 2 * K, row = group / heads, head = group % heads;
    const int i = 8 * (threadIdx.x % lanes);
    // No thread leaves before the sums, in which whole warps meet.
    const bool inside = row < n && i < D;
    const bool w = whole(D, y, qkv, gamma_q, gamma_k);
    const u64 at = (u64)group * D + i;
    float x[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}, square = 0.f;
    if (inside) load8(x, qkv + at, D - i, w);
#pragma unroll
    for (int k = 0; k < 8; k++) square = fmaf(x[k], x[k], square);
    const float r = 1.f / sqrtf(lanes_sum(square, lanes) / D + eps);
    if (!inside) return;
    if (head < H + K) {
        float gamma[8];
        load8(gamma, (head < H ? gamma_q : gamma_k) + i, D - i, w);
#pragma unroll
        for (int k = 0; k < 8; k++) x[k] = gamma[k] * (x[k] * r);
        if (i == 0) stats[(u64)row * (H + K) + head] = r;
    }
    store8(y + at, x, D - i, w);
}

// dqkv, and each block's own sums of dγ into partials (blocks, 2, D), which `column_reduce` adds up. Block b takes the
// heads of query and key kind of the rows b, b + blocks, …
//   grid (blocks), at most n, meant: 512; block 256; shared 0
extern "C" __global__ void __launch_bounds__(256)
qk_norm_backward(real* dqkv, float* partials, const real* dy, const real* qkv, const float* stats, const real* gamma_q,
                 const real* gamma_k, int n, int H, int K, int D, int lanes) {
    __shared__ float sums[256][8];
    const int groups = 256 / lanes, group = threadIdx.x / lanes, i = 8 * (threadIdx.x % lanes);
    const int heads = H + 2 * K;
    const bool w = whole(D, dqkv, dy, qkv, gamma_q, gamma_k);
    float sum_q[8], sum_k[8];
#pragma unroll
    for (int k = 0; k < 8; k++) sum_q[k] = sum_k[k] = 0.f;

    for (int row = blockIdx.x; row < n; row += gridDim.x) {
        for (int first = 0; first < heads; first += groups) {
            const int head = first + group;
            const bool inside = head < heads && i < D, normed = inside && head < H + K;
            const u64 at = ((u64)row * heads + head) * D + i;
            float d[8], x[8], g[8], along = 0.f;
            if (inside) load8(d, dy + at, D - i, w);
            if (normed) {
                const float r = stats[(u64)row * (H + K) + head];
                load8(x, qkv + at, D - i, w);
                load8(g, (head < H ? gamma_q : gamma_k) + i, D - i, w);
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    const float along_x = d[k] * (x[k] * r);
                    if (head < H) sum_q[k] += along_x;
                    else sum_k[k] += along_x;
                    along = fmaf(g[k], along_x, along);
                }
            }
            along = lanes_sum(along, lanes) / D;
            if (normed) {
                const float r = stats[(u64)row * (H + K) + head];
#pragma unroll
                for (int k = 0; k < 8; k++) d[k] = r * (g[k] * d[k] - x[k] * r * along);
            }
            if (inside) store8(dqkv + at, d, D - i, w);
        }
    }

    // The groups' sums, in the order of the groups: first of γ_q, then of γ_k.
#pragma unroll
    for (int which = 0; which < 2; which++) {
#pragma unroll
        for (int k = 0; k < 8; k++) sums[threadIdx.x][k] = which == 0 ? sum_q[k] : sum_k[k];
        __syncthreads();
        for (int c = threadIdx.x; c < D; c += 256) {
            float total = 0.f;
            for (int g = 0; g < groups; g++) total += sums[g * lanes + c / 8][c % 8];
            partials[((u64)blockIdx.x * 2 + which) * D + c] = total;
        }
        __syncthreads();
    }
}
