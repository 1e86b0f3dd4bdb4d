// The norms of norm.cu for rows of any length: a block a row, which is read from memory once; the passes after the first find it in
// the first-level cache.

// y, stats and, where `add` is given, sum = x + add.
//   grid (n), block 32 … 1024: ⌈C/8⌉ rounded up to a multiple of 32, but at most 256; shared 0
extern "C" __global__ void __launch_bounds__(1024)
norm_forward_wide(real* y, float* stats, real* sum, const real* x, const real* add, const real* gamma, const real* beta, int C,
             float eps, int layer) {
    __shared__ float part[32];
    const u64 row = (u64)blockIdx.x * C;
    const bool w = whole(C, y, sum, x, add, gamma, beta);
    const int first = 8 * threadIdx.x, step = 8 * blockDim.x;
    const real* s = add ? sum + row : x + row;

    float mean = 0.f;
    if (layer || add) {
        for (int c = first; c < C; c += step) {
            float v[8];
            load8(v, x + row + c, C - c, w);
            if (add) {
                float a[8];
                load8(a, add + row + c, C - c, w);
#pragma unroll
                for (int i = 0; i < 8; i++) v[i] = rounded(v[i] + a[i], s);
                store8(sum + row + c, v, C - c, w);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) mean += v[i];
        }
        mean = layer ? block_sum(mean, part) / C : 0.f;
    }

    float square = 0.f;
    for (int c = first; c < C; c += step) {
        float v[8];
        load8(v, s + c, C - c, w);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float d = w || i < C - c ? v[i] - mean : 0.f;
            square = fmaf(d, d, square);
        }
    }
    const float r = 1.f / sqrtf(block_sum(square, part) / C + eps);

    for (int c = first; c < C; c += step) {
        float v[8], g[8], b[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
        load8(v, s + c, C - c, w);
        load8(g, gamma + c, C - c, w);
        if (beta) load8(b, beta + c, C - c, w);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = fmaf(g[i], (v[i] - mean) * r, b[i]);
        store8(y + row + c, v, C - c, w);
    }
    if (threadIdx.x == 0) {
        stats[2 * blockIdx.x] = mean;
        stats[2 * blockIdx.x + 1] = r;
    }
}

// dx += ∂x, and each block's own sums of dγ and dβ into partials (blocks, 2, C), which `column_reduce` adds up. Block b
// takes the rows b, b + blocks, …; a thread always meets the same columns, whose sums it keeps in shared memory.
//   grid (blocks), at most n, meant: 512; block as norm_forward_wide; shared 8 C bytes
extern "C" __global__ void __launch_bounds__(1024)
norm_backward_wide(real* dx, float* partials, const real* dy, const real* x, const float* stats, const real* gamma, int n, int C,
              int layer) {
    __shared__ float part[32];
    DYNAMIC_SHARED(float, sums);   // dγ (C), dβ (C)
    const bool w = whole(C, dx, dy, x, gamma);
    const int first = 8 * threadIdx.x, step = 8 * blockDim.x;

    for (int c = first; c < C; c += step)
        for (int i = c; i < C && i < c + 8; i++) sums[i] = sums[C + i] = 0.f;

    for (int at = blockIdx.x; at < n; at += gridDim.x) {
        const u64 row = (u64)at * C;
        const float mean = stats[2 * at], r = stats[2 * at + 1];
        float level = 0.f, along = 0.f;
        for (int c = first; c < C; c += step) {
            float d[8], v[8], g[8];
            load8(d, dy + row + c, C - c, w);
            load8(v, x + row + c, C - c, w);
            load8(g, gamma + c, C - c, w);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float normed = (v[i] - mean) * r;
                level = fmaf(g[i], d[i], level);
                along = fmaf(g[i] * d[i], normed, along);
                if (w || i < C - c) {
                    sums[c + i] = fmaf(d[i], normed, sums[c + i]);
                    sums[C + c + i] += d[i];
                }
            }
        }
        level = layer ? block_sum(level, part) / C : 0.f;
        along = block_sum(along, part) / C;
        for (int c = first; c < C; c += step) {
            float d[8], v[8], g[8], o[8];
            load8(d, dy + row + c, C - c, w);
            load8(v, x + row + c, C - c, w);
            load8(g, gamma + c, C - c, w);
            load8(o, dx + row + c, C - c, w);
#pragma unroll
            for (int i = 0; i < 8; i++) o[i] += r * (g[i] * d[i] - level - (v[i] - mean) * r * along);
            store8(dx + row + c, o, C - c, w);
        }
    }
    float* out = partials + (u64)blockIdx.x * 2 * C;
    for (int c = first; c < C; c += step)
        for (int i = c; i < C && i < c + 8; i++) out[i] = sums[i], out[C + i] = sums[C + i];
}
