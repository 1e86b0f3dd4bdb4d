// Causal attention, forwards, without a matrix of scores (Dao 2023, FlashAttention-2), on tensor cores.
//
//   s_ij = q_i · k_j / √D      start_i ≤ j ≤ i        p_ij = e^(s_ij − lse_i)        y_i = Σ_j p_ij v_j
//
// Rows of qkv (B T, (H + 2K) D) are (q_1…q_H | k_1…k_K | v_1…v_K); y (B T, H D) is bf16 as they are; lse (B T, H) is float.
// Query head h reads key/value head h K / H. starts (B T), or null for 0: the position in its sequence where a row's
// document begins; it does not fall within a sequence, so whole tiles of earlier documents are left out. bf16 only. What
// enters a product is bf16; maximum, denominator and sums are float.
//
// Each block passes over the tiles of keys that its queries see; the next tile is copied while this one is multiplied.

// The dynamic shared memory, in tiles of 64 D bf16: Q, K twice, V twice.
#define FORWARD_TILES 5

template <int D>
__device__ __forceinline__ void attention_forward(bf16* y, float* lse, const bf16* qkv, const u32* starts, int T, int H, int K) {
    constexpr int SIZE = TILE * D;
    constexpr float by = attention_scale<D>() * LOG2E;   // e^(s/√D) = 2^(by s)
    DYNAMIC_SHARED(bf16, tiles);
    bf16 *tile_q = tiles, *tiles_k = tiles + SIZE, *tiles_v = tiles + 3 * SIZE;

    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int head = blockIdx.y, kv = head / (H / K), width = (H + 2 * K) * D;
    // The last queries have the most keys: they are started first.
    const int query0 = (int)(gridDim.x - 1 - blockIdx.x) * TILE;
    const int upper = query0 + warp * 16 + (lane >> 2);   // this lane's first row; the other is 8 below
    const i64 base = (i64)blockIdx.z * T;
    const bf16* q = qkv + base * width + head * D;
    const bf16* k = qkv + base * width + (H + kv) * D;
    const bf16* v = k + K * D;

    int start[2] = {0, 0}, first_tile = 0, latest = 0;
    if (starts) {
        first_tile = starts[base + query0] / TILE;
        latest = starts[base + min(query0 + TILE, T) - 1];
        for (int half = 0; half < 2; half++) start[half] = starts[base + min(upper + 8 * half, T - 1)];
    }
    const int end_tile = query0 / TILE + 1;

    load_tile<D>(tile_q, q, width, query0, T);
    copy_commit();
    load_tile<D>(tiles_k, k, width, first_tile * TILE, T);
    load_tile<D>(tiles_v, v, width, first_tile * TILE, T);
    copy_commit();

    // Q stays in registers. Its group is the older of the two.
    u32 frag_q[D / 16][4];
    copy_wait<1>();
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) load_a<D>(frag_q[kk], tile_q, warp * 16, kk * 16);

    float out[D / 8][4];
    zero(out);
    float top[2] = {-INF, -INF}, total[2] = {0.f, 0.f};   // of rows g, g + 8: maximum of raw scores; this lane's part of Σ p

    for (int kt = first_tile; kt < end_tile; kt++) {
        const int stage = (kt - first_tile) & 1;
        const bf16 *tile_k = tiles_k + stage * SIZE, *tile_v = tiles_v + stage * SIZE;
        copy_wait<0>();
        // All threads' copies into this stage are there, and all warps are done with the other, which is filled next.
        __syncthreads();
        if (kt + 1 < end_tile) {
            load_tile<D>(tiles_k + (stage ^ 1) * SIZE, k, width, (kt + 1) * TILE, T);
            load_tile<D>(tiles_v + (stage ^ 1) * SIZE, v, width, (kt + 1) * TILE, T);
            copy_commit();
        }

        // S = Q Kᵀ
        float s[TILE / 8][4];
        zero(s);
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
#pragma unroll
            for (int n = 0; n < TILE / 16; n++) {
                u32 b[4];
                load_b<D>(b, tile_k, n * 16, kk * 16);
                multiply(s[2 * n], frag_q[kk], b[0], b[1]);
                multiply(s[2 * n + 1], frag_q[kk], b[2], b[3]);
            }
        }

        // Keys behind the diagonal, and with them those from T on, are in the last tile; of other documents, before `latest`.
        if (kt == end_tile - 1 || kt * TILE < latest) {
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const int key = kt * TILE + n * 8 + (lane & 3) * 2 + (r & 1);
                    if (key > upper + (r >> 1) * 8 || key < start[r >> 1]) s[n][r] = -INF;
                }
            }
        }

        // What has been summed so far follows the new maximum. fmaxf passes a NaN by; the exponentials keep it.
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float highest = top[half];
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) highest = fmaxf(highest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            highest = quad_max(highest);
            const float level = highest == -INF ? 0.f : highest;   // a row that has seen nothing of its document yet
            const float shrink = exp2f((top[half] - level) * by);
            top[half] = highest;
            total[half] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                out[n][2 * half] *= shrink;
                out[n][2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
                for (int r = 2 * half; r < 2 * half + 2; r++) {
                    s[n][r] = exp2f((s[n][r] - level) * by);
                    total[half] += s[n][r];
                }
            }
        }

        // Y += P V
#pragma unroll
        for (int kk = 0; kk < TILE / 16; kk++) {
            u32 a[4];
            results_to_a(a, s[2 * kk], s[2 * kk + 1]);
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                u32 b[4];
                load_b_across<D>(b, tile_v, kk * 16, n * 16);
                multiply(out[2 * n], a, b[0], b[1]);
                multiply(out[2 * n + 1], a, b[2], b[3]);
            }
        }
    }

    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);
    store_rows<D>(y + base * H * D + head * D, H * D, out, query0 + warp * 16, T, 1.f / total[0], 1.f / total[1]);
    if ((lane & 3) == 0) {
        for (int half = 0; half < 2; half++) {
            const int row = upper + 8 * half;
            if (row < T) lse[(base + row) * H + head] = top[half] * attention_scale<D>() + log2f(total[half]) * LN2;
        }
    }
}

// Blocks a multiprocessor must have room for: left to itself the compiler aims at fewer registers than are needed.
//   grid (⌈T/64⌉, H, B), block 128, shared 5 · 128 D bytes
extern "C" __global__ void __launch_bounds__(128, 3)
attention_forward_64(bf16* y, float* lse, const bf16* qkv, const u32* starts, int T, int H, int K) {
    attention_forward<64>(y, lse, qkv, starts, T, H, K);
}

//   grid (⌈T/64⌉, H, B), block 128, shared 5 · 128 D bytes
extern "C" __global__ void __launch_bounds__(128, 2)
attention_forward_128(bf16* y, float* lse, const bf16* qkv, const u32* starts, int T, int H, int K) {
    attention_forward<128>(y, lse, qkv, starts, T, H, K);
}
