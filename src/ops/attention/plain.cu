// Causal attention row by row: for float activations, and for heads that the tiles of tensor cores do not fit.
//
//   s_ij = q_i · k_j / √D      start_i ≤ j ≤ i        p_ij = e^(s_ij − lse_i)        y_i = Σ_j p_ij v_j
//   δ_i = dy_i · y_i           ds_ij = p_ij (dy_i · v_j − δ_i) / √D
//   dq_i = Σ_j ds_ij k_j       dk_j = Σ_i ds_ij q_i       dv_j = Σ_i p_ij dy_i
//
// Rows of qkv and dqkv (B T, (H + 2K) D) are (q_1…q_H | k_1…k_K | v_1…v_K); y and dy (B T, H D); lse and delta (B T, H) are
// float, all else is real. Query head h reads key/value head h K / H. starts (B T), or null for 0. A warp takes a row of a
// head, a lane the columns l, l + 32, …; D is at most 256. Every sum has one order.

#define COLUMNS 8   // of a lane

// This lane's columns of a row of D.
__device__ __forceinline__ void load_lane(float (&x)[COLUMNS], const real* p, int D) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
        const int i = (threadIdx.x & 31) + 32 * k;
        x[k] = i < D ? to_float(p[i]) : 0.f;
    }
}

__device__ __forceinline__ void store_lane(real* p, const float (&x)[COLUMNS], int D) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
        const int i = (threadIdx.x & 31) + 32 * k;
        if (i < D) put(p + i, x[k]);
    }
}

// a · b, in every lane.
__device__ __forceinline__ float dot(const float (&a)[COLUMNS], const float (&b)[COLUMNS]) {
    float sum = 0.f;
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) sum = fmaf(a[k], b[k], sum);
    return warp_sum(sum);
}

// x += by · a
__device__ __forceinline__ void add_lane(float (&x)[COLUMNS], float by, const float (&a)[COLUMNS]) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) x[k] = fmaf(by, a[k], x[k]);
}

// y and lse, with a running maximum.
//   grid (⌈T/8⌉, H, B), block 256, shared 0
extern "C" __global__ void __launch_bounds__(256)
attention_plain_forward(real* y, float* lse, const real* qkv, const u32* starts, int T, int H, int K, int D) {
    const int i = 8 * blockIdx.x + (threadIdx.x >> 5), head = blockIdx.y, kv = head / (H / K), width = (H + 2 * K) * D;
    if (i >= T) return;
    const i64 base = (i64)blockIdx.z * T, row = base + i;
    float q[COLUMNS], out[COLUMNS] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}, top = -INF, total = 0.f;
    load_lane(q, qkv + row * width + head * D, D);
    const float scale = 1.f / sqrtf((float)D);
    for (int j = starts ? starts[row] : 0; j <= i; j++) {
        const real* key = qkv + (base + j) * width + (H + kv) * D;
        float k[COLUMNS], v[COLUMNS];
        load_lane(k, key, D);
        load_lane(v, key + K * D, D);
        const float s = scale * dot(q, k), higher = s > top ? s : top == top ? top : s;
        const float shrink = __expf(top - higher), p = __expf(s - higher);
        top = higher;
        total = total * shrink + p;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) out[c] = fmaf(p, v[c], out[c] * shrink);
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) out[c] /= total;
    store_lane(y + row * H * D + head * D, out, D);
    if ((threadIdx.x & 31) == 0) lse[row * H + head] = top + logf(total);
}

// dq, and delta for the keys' gradients.
//   grid (⌈T/8⌉, H, B), block 256, shared 0
extern "C" __global__ void __launch_bounds__(256)
attention_plain_dq(real* dqkv, float* delta, const real* dy, const real* y, const real* qkv, const float* lse, const u32* starts,
                   int T, int H, int K, int D) {
    const int i = 8 * blockIdx.x + (threadIdx.x >> 5), head = blockIdx.y, kv = head / (H / K), width = (H + 2 * K) * D;
    if (i >= T) return;
    const i64 base = (i64)blockIdx.z * T, row = base + i;
    float q[COLUMNS], d[COLUMNS], out[COLUMNS], dq[COLUMNS] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    load_lane(q, qkv + row * width + head * D, D);
    load_lane(d, dy + row * H * D + head * D, D);
    load_lane(out, y + row * H * D + head * D, D);
    const float scale = 1.f / sqrtf((float)D), along = dot(d, out), log_total = lse[row * H + head];
    for (int j = starts ? starts[row] : 0; j <= i; j++) {
        const real* key = qkv + (base + j) * width + (H + kv) * D;
        float k[COLUMNS], v[COLUMNS];
        load_lane(k, key, D);
        load_lane(v, key + K * D, D);
        const float p = __expf(scale * dot(q, k) - log_total);
        add_lane(dq, p * (dot(d, v) - along) * scale, k);
    }
    store_lane(dqkv + row * width + head * D, dq, D);
    if ((threadIdx.x & 31) == 0) delta[row * H + head] = along;
}

// dk and dv of each key, over the queries that see it, head after head.
// Room for two blocks, or the compiler aims at registers for more and spills.
//   grid (⌈T/8⌉, K, B), block 256, shared 0
extern "C" __global__ void __launch_bounds__(256, 2)
attention_plain_dkv(real* dqkv, const real* dy, const real* qkv, const float* lse, const float* delta, const u32* starts, int T,
                    int H, int K, int D) {
    const int j = 8 * blockIdx.x + (threadIdx.x >> 5), kv = blockIdx.y, width = (H + 2 * K) * D;
    if (j >= T) return;
    const i64 base = (i64)blockIdx.z * T, key = (base + j) * width + (H + kv) * D;
    float k[COLUMNS], v[COLUMNS];
    float dk[COLUMNS] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}, dv[COLUMNS] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    load_lane(k, qkv + key, D);
    load_lane(v, qkv + key + K * D, D);
    const float scale = 1.f / sqrtf((float)D);
    for (int head = kv * (H / K); head < (kv + 1) * (H / K); head++) {
        for (int i = j; i < T; i++) {
            const i64 row = base + i;
            if (starts && (int)starts[row] > j) break;   // a later document, and so are all that follow
            float q[COLUMNS], d[COLUMNS];
            load_lane(q, qkv + row * width + head * D, D);
            load_lane(d, dy + row * H * D + head * D, D);
            const float p = __expf(scale * dot(q, k) - lse[row * H + head]);
            add_lane(dv, p, d);
            add_lane(dk, p * (dot(d, v) - delta[row * H + head]) * scale, q);
        }
    }
    store_lane(dqkv + key, dk, D);
    store_lane(dqkv + key + K * D, dv, D);
}
