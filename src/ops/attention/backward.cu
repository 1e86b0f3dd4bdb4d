// Causal attention, backwards, in three launches: each number is summed by one thread in one order, without atomics; dqkv takes the
// place of dq and dkv where any order will do.
//
//   δ_i = dy_i · y_i       p_ij = e^(s_ij − lse_i)       ds_ij = p_ij (dy_i · v_j − δ_i) / √D
//   dq_i = Σ_j ds_ij k_j   dk_j = Σ_i ds_ij q_i          dv_j = Σ_i p_ij dy_i
//
// Shapes as in forward.cu; dqkv as qkv, dy as y, delta as lse; starts as there. bf16 only. attention_delta and the forward
// come first; dq and dkv write different columns of dqkv, in any order. dq has a block for 64 queries of a head, which
// passes over their keys; dkv one for 64 keys of a key/value head, which passes over the queries of all its query heads.

// Dynamic shared memory in tiles of 64 D bf16. dq: Q, dY, K twice, V twice. dkv: K, V, Q twice, dY twice, and then lse and
// delta of 64 rows, twice; dqkv: and dS of 16 rows, twice.
#define BACKWARD_TILES 6

// Eight lanes' worth of a row each: delta[i] = Σ over D of dy · y, for i in (row, head).
template <int D>
__device__ __forceinline__ void attention_delta(float* delta, const bf16* dy, const bf16* y, int count) {
    constexpr int LANES = D / 8;
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    float sum = 0.f;
    if (i < count) {
        const u64 at = (u64)i * D + threadIdx.x % LANES * 8;
        float a[8], b[8];
        load8(a, dy + at, 8, true);
        load8(b, y + at, 8, true);
#pragma unroll
        for (int k = 0; k < 8; k++) sum = fmaf(a[k], b[k], sum);
    }
    sum = lanes_sum(sum, LANES);
    if (i < count && threadIdx.x % LANES == 0) delta[i] = sum;
}

template <int D>
__device__ __forceinline__ void attention_dq(bf16* dqkv, const bf16* dy, const bf16* qkv, const float* lse, const float* delta,
                                             const u32* starts, int T, int H, int K) {
    constexpr int SIZE = TILE * D;
    constexpr float by = attention_scale<D>() * LOG2E;
    DYNAMIC_SHARED(bf16, tiles);
    bf16 *tile_q = tiles, *tile_dy = tiles + SIZE, *tiles_k = tiles + 2 * SIZE, *tiles_v = tiles + 4 * SIZE;

    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int head = blockIdx.y, kv = head / (H / K), width = (H + 2 * K) * D;
    const int query0 = (int)(gridDim.x - 1 - blockIdx.x) * TILE;
    const int upper = query0 + warp * 16 + (lane >> 2);
    const i64 base = (i64)blockIdx.z * T;
    const bf16* k = qkv + base * width + (H + kv) * D;
    const bf16* v = k + K * D;
    const int first_tile = starts ? starts[base + query0] / TILE : 0, end_tile = query0 / TILE + 1;

    load_tile<D>(tile_q, qkv + base * width + head * D, width, query0, T);
    load_tile<D>(tile_dy, dy + base * H * D + head * D, H * D, query0, T);
    load_tile<D>(tiles_k, k, width, first_tile * TILE, T);
    load_tile<D>(tiles_v, v, width, first_tile * TILE, T);
    copy_commit();

    // Of rows g and g + 8. With lse = ∞ a row from T on has p = 0, and so ds = 0.
    float log2sum[2], level[2];
    int start[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = upper + 8 * half;
        log2sum[half] = row < T ? lse[(base + row) * H + head] * LOG2E : INF;
        level[half] = row < T ? delta[(base + row) * H + head] : 0.f;
        start[half] = starts && row < T ? starts[base + row] : 0;
    }

    float dq[D / 8][4];
    zero(dq);
    for (int kt = first_tile; kt < end_tile; kt++) {
        const int stage = (kt - first_tile) & 1;
        const bf16 *tile_k = tiles_k + stage * SIZE, *tile_v = tiles_v + stage * SIZE;
        copy_wait<0>();
        __syncthreads();   // as in the forward: this stage is there for all, the other is free
        if (kt + 1 < end_tile) {
            load_tile<D>(tiles_k + (stage ^ 1) * SIZE, k, width, (kt + 1) * TILE, T);
            load_tile<D>(tiles_v + (stage ^ 1) * SIZE, v, width, (kt + 1) * TILE, T);
            copy_commit();
        }

        // 16 keys at a time, not unrolled, for want of registers.
#pragma unroll 1
        for (int key0 = 0; key0 < TILE; key0 += 16) {
            float s[2][4], dp[2][4];
            zero(s);
            zero(dp);
#pragma unroll
            for (int kk = 0; kk < D / 16; kk++) {
                u32 a[4], b[4];
                load_a<D>(a, tile_q, warp * 16, kk * 16);
                load_b<D>(b, tile_k, key0, kk * 16);
                multiply(s[0], a, b[0], b[1]);
                multiply(s[1], a, b[2], b[3]);
                load_a<D>(a, tile_dy, warp * 16, kk * 16);
                load_b<D>(b, tile_v, key0, kk * 16);
                multiply(dp[0], a, b[0], b[1]);
                multiply(dp[1], a, b[2], b[3]);
            }
            // dS in the place of S
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const int half = r >> 1, key = kt * TILE + key0 + n * 8 + (lane & 3) * 2 + (r & 1);
                    const bool seen = key <= upper + 8 * half && key >= start[half];
                    const float p = seen ? exp2f(s[n][r] * by - log2sum[half]) : 0.f;
                    s[n][r] = p * (dp[n][r] - level[half]);
                }
            }
            // dQ += dS K
            u32 a[4];
            results_to_a(a, s[0], s[1]);
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                u32 b[4];
                load_b_across<D>(b, tile_k, key0, n * 16);
                multiply(dq[2 * n], a, b[0], b[1]);
                multiply(dq[2 * n + 1], a, b[2], b[3]);
            }
        }
    }
    constexpr float scale = attention_scale<D>();
    store_rows<D>(dqkv + base * width + head * D, width, dq, query0 + warp * 16, T, scale, scale);
}

// dq += dS K of 16 queries and 64 keys: a quarter of D for each warp.
template <int D>
__device__ __forceinline__ void add_dq(float* dqs, const bf16* tile_ds, const bf16* tile_k, int query0, int T, int H) {
    constexpr float scale = attention_scale<D>();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, col0 = warp * (D / 4);
    float dq[D / 32][4];
    zero(dq);
#pragma unroll
    for (int key = 0; key < TILE; key += 16) {
        u32 a[4];
        load_a<TILE>(a, tile_ds, 0, key);
#pragma unroll
        for (int n = 0; n < D / 64; n++) {
            u32 b[4];
            load_b_across<D>(b, tile_k, key, col0 + n * 16);
            multiply(dq[2 * n], a, b[0], b[1]);
            multiply(dq[2 * n + 1], a, b[2], b[3]);
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int row = query0 + (lane >> 2) + (r >> 1) * 8;
        if (row < T) {
            float* p = dqs + (i64)row * H * D + col0 + (lane & 3) * 2 + (r & 1);
#pragma unroll
            for (int n = 0; n < D / 32; n++) add_in_any_order(p + n * 8, dq[n][r] * scale);
        }
    }
}

// With DQ, dq too, in one pass: dS is exchanged between the warps, and what 64 keys give to a query's dq is added to `dqs` (B T, H D),
// in float, by whoever comes first (--nondeterministic). Scores are then computed once, not twice.
template <int D, bool DQ>
__device__ __forceinline__ void attention_dkv(bf16* dqkv, float* dqs, const bf16* dy, const bf16* qkv, const float* lse,
                                              const float* delta, const u32* starts, int T, int H, int K) {
    constexpr int SIZE = TILE * D;
    constexpr float by = attention_scale<D>() * LOG2E;
    DYNAMIC_SHARED(bf16, tiles);
    bf16 *tile_k = tiles, *tile_v = tiles + SIZE, *tiles_q = tiles + 2 * SIZE, *tiles_dy = tiles + 4 * SIZE;
    float *logs = (float*)(tiles + BACKWARD_TILES * SIZE), *levels = logs + 2 * TILE;
    int* begins = (int*)(levels + 2 * TILE);
    bf16* tiles_ds = (bf16*)(begins + 2 * TILE);   // 16 queries × 64 keys, twice

    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int kv = blockIdx.y, group = H / K, width = (H + 2 * K) * D;
    const int key0 = (int)blockIdx.x * TILE;
    const i64 base = (i64)blockIdx.z * T;

    // Query tiles from the diagonal to the last whose first row still sees these keys: starts rise, so they are halved.
    int query_tiles = (T + TILE - 1) / TILE - blockIdx.x;
    if (starts) {
        int seeing = 1, over = query_tiles;
        while (seeing < over) {
            const int middle = (seeing + over) / 2;
            if ((int)starts[base + key0 + middle * TILE] < key0 + TILE) seeing = middle + 1;
            else over = middle;
        }
        query_tiles = seeing;
    }
    const int iterations = group * query_tiles;   // over (query head of the group, query tile)

    // Starts the copy of one iteration's operands. The row statistics go through registers; the barrier that publishes the
    // tiles publishes them too. lse = ∞ makes p, and with it ds, 0 for rows from T on.
    auto load_stage = [&](int it) {
        const int head = kv * group + it / query_tiles, stage = it & 1;
        const int query0 = key0 + it % query_tiles * TILE;
        load_tile<D>(tiles_q + stage * SIZE, qkv + base * width + head * D, width, query0, T);
        load_tile<D>(tiles_dy + stage * SIZE, dy + base * H * D + head * D, H * D, query0, T);
        for (int i = threadIdx.x; i < TILE; i += ATTENTION_THREADS) {
            const int row = query0 + i;
            logs[stage * TILE + i] = row < T ? lse[(base + row) * H + head] * LOG2E : INF;
            levels[stage * TILE + i] = row < T ? delta[(base + row) * H + head] : 0.f;
            begins[stage * TILE + i] = starts && row < T ? starts[base + row] : 0;
        }
    };

    load_tile<D>(tile_k, qkv + base * width + (H + kv) * D, width, key0, T);
    load_tile<D>(tile_v, qkv + base * width + (H + K + kv) * D, width, key0, T);
    load_stage(0);
    copy_commit();

    float dk[D / 8][4], dv[D / 8][4];
    zero(dk);
    zero(dv);
    for (int it = 0; it < iterations; it++) {
        const int stage = it & 1, query0 = key0 + it % query_tiles * TILE;
        const bf16 *tile_q = tiles_q + stage * SIZE, *tile_dy = tiles_dy + stage * SIZE;
        copy_wait<0>();
        __syncthreads();   // as in the forward
        if (it + 1 < iterations) {
            load_stage(it + 1);
            copy_commit();
        }

        // 16 queries at a time, rows = keys: Sᵀ = K Qᵀ and dPᵀ = V dYᵀ come out as dV = Pᵀ dY and dK = dSᵀ Q need them.
#pragma unroll 1
        for (int q0 = 0; q0 < TILE; q0 += 16) {
            float s[2][4], dp[2][4];
            zero(s);
            zero(dp);
#pragma unroll
            for (int kk = 0; kk < D / 16; kk++) {
                u32 a[4], b[4];
                load_a<D>(a, tile_k, warp * 16, kk * 16);
                load_b<D>(b, tile_q, q0, kk * 16);
                multiply(s[0], a, b[0], b[1]);
                multiply(s[1], a, b[2], b[3]);
                load_a<D>(a, tile_v, warp * 16, kk * 16);
                load_b<D>(b, tile_dy, q0, kk * 16);
                multiply(dp[0], a, b[0], b[1]);
                multiply(dp[1], a, b[2], b[3]);
            }
            // Pᵀ in the place of Sᵀ, dSᵀ in that of dPᵀ
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const int key = key0 + warp * 16 + (lane >> 2) + (r >> 1) * 8;
                    const int col = q0 + n * 8 + (lane & 3) * 2 + (r & 1), at = stage * TILE + col;
                    const bool seen = key <= query0 + col && key >= begins[at];
                    s[n][r] = seen ? exp2f(s[n][r] * by - logs[at]) : 0.f;
                    dp[n][r] = s[n][r] * (dp[n][r] - levels[at]);
                }
            }
            u32 p[4], ds[4];
            results_to_a(p, s[0], s[1]);
            results_to_a(ds, dp[0], dp[1]);
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                u32 b[4];
                load_b_across<D>(b, tile_dy, q0, n * 16);
                multiply(dv[2 * n], p, b[0], b[1]);
                multiply(dv[2 * n + 1], p, b[2], b[3]);
                load_b_across<D>(b, tile_q, q0, n * 16);
                multiply(dk[2 * n], ds, b[0], b[1]);
                multiply(dk[2 * n + 1], ds, b[2], b[3]);
            }
            if constexpr (DQ) {
                bf16* tile_ds = tiles_ds + (q0 / 16 & 1) * 16 * TILE;
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int r = 0; r < 4; r++)
                        put(tile_ds + place<TILE>(n * 8 + (lane & 3) * 2 + (r & 1), warp * 16 + (lane >> 2) + (r >> 1) * 8), dp[n][r]);
                __syncthreads();   // dS is there for all; the other one is read by none any more
                add_dq<D>(dqs + (base * H + kv * group + it / query_tiles) * D, tile_ds, tile_k, query0 + q0, T, H);
            }
        }
    }
    constexpr float scale = attention_scale<D>();
    bf16* out = dqkv + base * width + (H + kv) * D;
    store_rows<D>(out, width, dk, key0 + warp * 16, T, scale, scale);
    store_rows<D>(out + K * D, width, dv, key0 + warp * 16, T, 1.f, 1.f);
}

// count = B T H.
//   grid ⌈count D / 2048⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256) attention_delta_64(float* delta, const bf16* dy, const bf16* y, int count) {
    attention_delta<64>(delta, dy, y, count);
}

//   grid ⌈count D / 2048⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256) attention_delta_128(float* delta, const bf16* dy, const bf16* y, int count) {
    attention_delta<128>(delta, dy, y, count);
}

//   grid (⌈T/64⌉, H, B), block 128, shared 6 · 128 D bytes
extern "C" __global__ void __launch_bounds__(128, 3)
attention_dq_64(bf16* dqkv, const bf16* dy, const bf16* qkv, const float* lse, const float* delta, const u32* starts, int T,
                int H, int K) {
    attention_dq<64>(dqkv, dy, qkv, lse, delta, starts, T, H, K);
}

//   grid (⌈T/64⌉, H, B), block 128, shared 6 · 128 D bytes
extern "C" __global__ void __launch_bounds__(128, 2)
attention_dq_128(bf16* dqkv, const bf16* dy, const bf16* qkv, const float* lse, const float* delta, const u32* starts, int T,
                 int H, int K) {
    attention_dq<128>(dqkv, dy, qkv, lse, delta, starts, T, H, K);
}

//   grid (⌈T/64⌉, K, B), block 128, shared 6 · 128 D + 1536 bytes
extern "C" __global__ void __launch_bounds__(128, 3)
attention_dkv_64(bf16* dqkv, const bf16* dy, const bf16* qkv, const float* lse, const float* delta, const u32* starts, int T,
                 int H, int K) {
    attention_dkv<64, false>(dqkv, 0, dy, qkv, lse, delta, starts, T, H, K);
}

//   grid (⌈T/64⌉, K, B), block 128, shared 6 · 128 D + 1536 bytes
extern "C" __global__ void __launch_bounds__(128, 2)
attention_dkv_128(bf16* dqkv, const bf16* dy, const bf16* qkv, const float* lse, const float* delta, const u32* starts, int T,
                  int H, int K) {
    attention_dkv<128, false>(dqkv, 0, dy, qkv, lse, delta, starts, T, H, K);
}

//   grid (⌈T/64⌉, K, B), block 128, shared 6 · 128 D + 5632 bytes
extern "C" __global__ void __launch_bounds__(128, 3)
attention_dqkv_64(bf16* dqkv, float* dqs, const bf16* dy, const bf16* qkv, const float* lse, const float* delta, const u32* starts,
                  int T, int H, int K) {
    attention_dkv<64, true>(dqkv, dqs, dy, qkv, lse, delta, starts, T, H, K);
}

//   grid (⌈T/64⌉, K, B), block 128, shared 6 · 128 D + 5632 bytes
extern "C" __global__ void __launch_bounds__(128, 2)
attention_dqkv_128(bf16* dqkv, float* dqs, const bf16* dy, const bf16* qkv, const float* lse, const float* delta, const u32* starts,
                   int T, int H, int K) {
    attention_dkv<128, true>(dqkv, dqs, dy, qkv, lse, delta, starts, T, H, K);
}

// dq, added up in float, to its columns: y (rows, pitch) from x (rows, cols), cols a multiple of 8.
//   grid ⌈rows cols / 2048⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256) attention_dq_store(bf16* y, const float* x, u64 rows, int cols, int pitch) {
    const u64 at = 8 * ((u64)blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= rows * cols) return;
    float v[8];
    load8(v, x + at, 8, true);
    store8(y + at / cols * pitch + at % cols, v, 8, true);
}
