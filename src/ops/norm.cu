// LayerNorm and RMSNorm over rows, with the addition of the residual stream before them (forward) and into it (backward).
//
//   s = x (+ add)                                     rounded as memory holds it; its own tensor where `add` is given
//   Layer:  mean, r = 1/√(variance + ε)               Rms:  mean = 0, r = 1/√(mean of s² + ε)
//   y = γ (s − mean) r (+ β)
//
//   g = γ dy,  ŝ = (s − mean) r
//   dx += r (g − [Layer] mean(g) − ŝ mean(g ŝ))       dγ += Σ_rows dy ŝ      dβ += Σ_rows dy
//
// x, add, s, y, dx, dy (n, C) and γ, β (C) are real; stats (n, 2) keeps (mean, r) in float; dγ, dβ (C) are float.
// C is at most 4,096: a thread has eight columns, and keeps them of several rows in registers, so that their loads are under way
// together and one barrier serves all. Longer rows: norm_wide.cu.

// Rows that a block takes at once; on the way back as many as leave a thread enough registers.
constexpr int ROWS = sizeof(real) == 2 ? 4 : 2, BACK = sizeof(real) == 2 ? 3 : 1;
constexpr int WARPS = 16;

// y, stats and, where `add` is given, sum = x + add.
//   grid (blocks), meant: ⌈n/4⌉; block ⌈C/8⌉ rounded up to a multiple of 32; shared 0
extern "C" __global__ void __launch_bounds__(512)
norm_forward(real* y, float* stats, real* sum, const real* x, const real* add, const real* gamma, const real* beta, int n, int C,
             float eps, int layer) {
    __shared__ float parts[2][WARPS * ROWS];
    const int c = 8 * threadIdx.x;
    const bool mine = c < C, w = mine && whole(C, y, sum, x, add, gamma, beta);
    float g[8], b[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    load8(g, gamma + c, C - c, w);
    if (beta) load8(b, beta + c, C - c, w);

    int turn = 0;
    for (int first = ROWS * blockIdx.x; first < n; first += ROWS * gridDim.x) {
        Eight<real> s[ROWS];
        float mean[ROWS], square[ROWS];
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            const u64 at = (u64)(first + j) * C + c;
            const bool there = first + j < n;
            fetch8(s[j], x + at, there ? C - c : 0, there && w);
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            const u64 at = (u64)(first + j) * C + c;
            const bool there = first + j < n;
            float v[8];
            values8(v, s[j]);
            if (add) {
                float a[8];
                load8(a, add + at, there ? C - c : 0, there && w);
#pragma unroll
                for (int i = 0; i < 8; i++) v[i] = rounded(v[i] + a[i], x);
                hold8(s[j], v);
                if (there) store8(sum + at, v, C - c, w);
            }
            mean[j] = 0.f;
#pragma unroll
            for (int i = 0; i < 8; i++) mean[j] += v[i];
        }
        if (layer) block_sums(mean, parts[turn ^= 1]);
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            mean[j] = layer ? mean[j] / C : 0.f;
            float v[8];
            values8(v, s[j]);
            square[j] = 0.f;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float d = w || i < C - c ? v[i] - mean[j] : 0.f;
                square[j] = fmaf(d, d, square[j]);
            }
        }
        block_sums(square, parts[turn ^= 1]);
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            const int row = first + j;
            if (row >= n) break;
            const float r = 1.f / sqrtf(square[j] / C + eps);
            float v[8];
            values8(v, s[j]);
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = fmaf(g[i], (v[i] - mean[j]) * r, b[i]);
            store8(y + (u64)row * C + c, v, C - c, w);
            if (threadIdx.x == 0) {
                stats[2 * row] = mean[j];
                stats[2 * row + 1] = r;
            }
        }
    }
}

// dx += ∂x, and each block's own sums of dγ and dβ into partials (blocks, 2, C), which `column_reduce` adds up. A thread always meets
// the same columns, whose sums it keeps.
//   grid (blocks), meant: 512, at most ⌈n/4⌉; block as norm_forward; shared 0
extern "C" __global__ void __launch_bounds__(512)
norm_backward(real* dx, float* partials, const real* dy, const real* x, const float* stats, const real* gamma, int n, int C,
              int layer) {
    __shared__ float parts[2][WARPS * 2 * BACK];
    const int c = 8 * threadIdx.x;
    const bool mine = c < C, w = mine && whole(C, dx, dy, x, gamma);
    float g[8], dgamma[8], dbeta[8];
    load8(g, gamma + c, C - c, w);
#pragma unroll
    for (int i = 0; i < 8; i++) dgamma[i] = dbeta[i] = 0.f;

    int turn = 0;
    for (int first = BACK * blockIdx.x; first < n; first += BACK * gridDim.x) {
        Eight<real> d[BACK], s[BACK], o[BACK];
        float mean[BACK], r[BACK], sums[2 * BACK];   // of each row Σ g and Σ g ŝ
#pragma unroll
        for (int j = 0; j < BACK; j++) {
            const int row = first + j;
            const u64 at = (u64)row * C + c;
            const bool there = row < n;
            fetch8(d[j], dy + at, there ? C - c : 0, there && w);
            fetch8(s[j], x + at, there ? C - c : 0, there && w);
            fetch8(o[j], dx + at, there ? C - c : 0, there && w);
            mean[j] = there ? stats[2 * row] : 0.f;
            r[j] = there ? stats[2 * row + 1] : 0.f;
        }
#pragma unroll
        for (int j = 0; j < BACK; j++) {
            float t[8], v[8];
            values8(t, d[j]);
            values8(v, s[j]);
            sums[2 * j] = sums[2 * j + 1] = 0.f;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float normed = (v[i] - mean[j]) * r[j];
                sums[2 * j] = fmaf(g[i], t[i], sums[2 * j]);
                sums[2 * j + 1] = fmaf(g[i] * t[i], normed, sums[2 * j + 1]);
                dgamma[i] = fmaf(t[i], normed, dgamma[i]);
                dbeta[i] += t[i];
            }
        }
        block_sums(sums, parts[turn ^= 1]);
#pragma unroll
        for (int j = 0; j < BACK; j++) {
            if (first + j >= n) break;
            const float level = layer ? sums[2 * j] / C : 0.f, along = sums[2 * j + 1] / C;
            float t[8], v[8], to[8];
            values8(t, d[j]);
            values8(v, s[j]);
            values8(to, o[j]);
#pragma unroll
            for (int i = 0; i < 8; i++) to[i] += r[j] * (g[i] * t[i] - level - (v[i] - mean[j]) * r[j] * along);
            store8(dx + (u64)(first + j) * C + c, to, C - c, w);
        }
    }
    float* out = partials + (u64)blockIdx.x * 2 * C;
    store8(out + c, dgamma, C - c, w);
    store8(out + C + c, dbeta, C - c, w);
}
