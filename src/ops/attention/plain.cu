// Causal attention row by row: for float activations, and for heads that the tiles of tensor cores do not fit.
//
//   s_ij = q_i · k_j / √D      start_i ≤ j ≤ i        p_ij = e^(s_ij − lse_i)        y_i = Σ_j p_ij v_j
//   δ_i = dy_i · y_i           ds_ij = p_ij (dy_i · v_j − δ_i) / √D
//   dq_i = Σ_j ds_ij k_j       dk_j = Σ_i ds_ij q_i       dv_j = Σ_i p_ij dy_i
//
// Rows of qkv and dqkv (B T, (H + 2K) D) are (q_1…q_H | k_1…k_K | v_1…v_K); y and dy (B T, H D); lse and delta (B T, H) are
// float, all else is real. Query head h reads key/value head h K / H. starts (B T), or null for 0. A group of `lanes` lanes
// (⌈D/8⌉ rounded up to a power of two, at most 32; D is at most 256) takes a row of a head, eight columns a lane; the rows of
// a block pass over the other rows together, and each counts those that it sees. Every sum has one order.

#define ROW_THREADS 128   // of a block

// A lane's place: row `at` of its sequence, and columns `col` to `col + 8` of a head. Behind the end it computes the last row
// again, and writes nothing: no thread leaves, since whole warps meet in sums.
struct Seat {
    int at, col, first, last;   // first, last: the rows of its block
    bool inside;                // whether there is such a row
};

__device__ __forceinline__ Seat seat(int T, int lanes) {
    const int rows = ROW_THREADS / lanes, first = blockIdx.x * rows, at = first + threadIdx.x / lanes;
    return {min(at, T - 1), 8 * (int)(threadIdx.x % lanes), first, min(first + rows, T) - 1, at < T};
}

// a · b over the group.
__device__ __forceinline__ float dot(const float (&a)[8], const float (&b)[8], int lanes) {
    float sum = 0.f;
#pragma unroll
    for (int k = 0; k < 8; k++) sum = fmaf(a[k], b[k], sum);
    return lanes_sum(sum, lanes);
}

// x += by · a
__device__ __forceinline__ void add_to(float (&x)[8], float by, const float (&a)[8]) {
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = fmaf(by, a[k], x[k]);
}

// y and lse, with a running maximum.
//   grid (⌈T lanes / 128⌉, H, B), block 128, shared 0
extern "C" __global__ void __launch_bounds__(128)
attention_plain_forward(real* y, float* lse, const real* qkv, const u32* starts, int T, int H, int K, int D, int lanes) {
    const Seat s = seat(T, lanes);
    const int head = blockIdx.y, width = (H + 2 * K) * D, left = D - s.col;
    const i64 base = (i64)blockIdx.z * T, row = base + s.at;
    const real* keys = qkv + base * width + (H + head / (H / K)) * D + s.col;
    const bool w = whole(D, y, qkv);
    float q[8], out[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}, top = -INF, total = 0.f;
    load8(q, qkv + row * width + head * D + s.col, left, w && left > 0);
    const float scale = 1.f / sqrtf((float)D);
    const int start = starts ? starts[row] : 0;
    for (int j = starts ? starts[base + s.first] : 0; j <= s.last; j++) {
        float k[8], v[8];
        load8(k, keys + (i64)j * width, left, w && left > 0);
        load8(v, keys + (i64)j * width + K * D, left, w && left > 0);
        const float score = scale * dot(q, k, lanes);
        if (j < start || j > s.at) continue;
        const float higher = score <= top ? top : score;   // a NaN stays
        const float shrink = __expf(top - higher), p = __expf(score - higher);
        top = higher;
        total = total * shrink + p;
#pragma unroll
        for (int c = 0; c < 8; c++) out[c] = fmaf(p, v[c], out[c] * shrink);
    }
#pragma unroll
    for (int c = 0; c < 8; c++) out[c] /= total;
    if (s.inside && left > 0) store8(y + row * H * D + head * D + s.col, out, left, w);
    if (s.inside && s.col == 0) lse[row * H + head] = top + logf(total);
}

// dq, and delta for the keys' gradients.
//   grid (⌈T lanes / 128⌉, H, B), block 128, shared 0
extern "C" __global__ void __launch_bounds__(128)
attention_plain_dq(real* dqkv, float* delta, const real* dy, const real* y, const real* qkv, const float* lse, const u32* starts,
                   int T, int H, int K, int D, int lanes) {
    const Seat s = seat(T, lanes);
    const int head = blockIdx.y, width = (H + 2 * K) * D, left = D - s.col;
    const i64 base = (i64)blockIdx.z * T, row = base + s.at, place = row * H * D + head * D + s.col;
    const real* keys = qkv + base * width + (H + head / (H / K)) * D + s.col;
    const bool w = whole(D, dqkv, dy, y, qkv), v16 = w && left > 0;
    float q[8], d[8], out[8], dq[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    load8(q, qkv + row * width + head * D + s.col, left, v16);
    load8(d, dy + place, left, v16);
    load8(out, y + place, left, v16);
    const float scale = 1.f / sqrtf((float)D), along = dot(d, out, lanes), log_total = lse[row * H + head];
    const int start = starts ? starts[row] : 0;
    for (int j = starts ? starts[base + s.first] : 0; j <= s.last; j++) {
        float k[8], v[8];
        load8(k, keys + (i64)j * width, left, v16);
        load8(v, keys + (i64)j * width + K * D, left, v16);
        const float score = scale * dot(q, k, lanes), dp = dot(d, v, lanes);
        if (j >= start && j <= s.at) add_to(dq, __expf(score - log_total) * (dp - along) * scale, k);
    }
    if (s.inside && left > 0) store8(dqkv + row * width + head * D + s.col, dq, left, w);
    if (s.inside && s.col == 0) delta[row * H + head] = along;
}

// dk and dv of each key, over the queries that see it, head after head.
//   grid (⌈T lanes / 128⌉, K, B), block 128, shared 0
extern "C" __global__ void __launch_bounds__(128)
attention_plain_dkv(real* dqkv, const real* dy, const real* qkv, const float* lse, const float* delta, const u32* starts, int T,
                    int H, int K, int D, int lanes) {
    const Seat s = seat(T, lanes);
    const int kv = blockIdx.y, width = (H + 2 * K) * D, left = D - s.col;
    const i64 base = (i64)blockIdx.z * T, key = (base + s.at) * width + (H + kv) * D + s.col;
    const bool w = whole(D, dqkv, dy, qkv), v16 = w && left > 0;
    float k[8], v[8];
    float dk[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}, dv[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    load8(k, qkv + key, left, v16);
    load8(v, qkv + key + K * D, left, v16);
    const float scale = 1.f / sqrtf((float)D);
    for (int head = kv * (H / K); head < (kv + 1) * (H / K); head++) {
        for (int i = s.first; i < T; i++) {
            const i64 row = base + i;
            const int start = starts ? starts[row] : 0;
            if (start > s.last) break;   // a later document, and so are all that follow
            float q[8], d[8];
            load8(q, qkv + row * width + head * D + s.col, left, v16);
            load8(d, dy + row * H * D + head * D + s.col, left, v16);
            const float score = scale * dot(q, k, lanes), dp = dot(d, v, lanes);
            if (s.at < start || s.at > i) continue;
            const float p = __expf(score - lse[row * H + head]);
            add_to(dv, p, d);
            add_to(dk, p * (dp - delta[row * H + head]) * scale, q);
        }
    }
    if (s.inside && left > 0) store8(dqkv + key, dk, left, w);
    if (s.inside && left > 0) store8(dqkv + key + K * D, dv, left, w);
}
