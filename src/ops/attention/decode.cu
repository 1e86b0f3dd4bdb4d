// One new row against a cache of keys and values: generation.
//
//   s_j = q · k_j / √D      p = softmax(s)      y = Σ_j p_j v_j          j = 0 … len − 1
//
// y (1, H D) and the row qkv ((H + 2K) D) are real, as are cache_k and cache_v (len, K D). Query head h reads key/value
// head h K / H. A block takes a query head. A group of lanes holds a row of D columns, eight a lane: ⌈D/8⌉ lanes, rounded up
// to a power of two, so D is at most 256. Group g takes the keys g, g + groups, … with a running maximum and denominator;
// at the end the groups of a warp are put together, and then the warps, in their order.

// What lies `apart` lanes away joins: maxima, denominators and sums of two sets of keys.
__device__ __forceinline__ void join(float& top, float& total, float (&sum)[8], int apart) {
    const float other = __shfl_xor_sync(FULL_WARP, top, apart), higher = fmaxf(top, other);
    const float level = higher == -INF ? 0.f : higher;   // neither has seen a key
    const float mine = __expf(top - level), theirs = __expf(other - level);
    total = total * mine + __shfl_xor_sync(FULL_WARP, total, apart) * theirs;
#pragma unroll
    for (int k = 0; k < 8; k++) sum[k] = sum[k] * mine + __shfl_xor_sync(FULL_WARP, sum[k], apart) * theirs;
    top = higher;
}

//   grid (H), block 256, shared 8 (D + 2) · 4 bytes
extern "C" __global__ void __launch_bounds__(256)
attention_decode(real* y, const real* qkv, const real* cache_k, const real* cache_v, int len, int H, int K, int D) {
    DYNAMIC_SHARED(float, shares);   // of each warp: maximum, denominator, D sums
    int lanes = 1;
    while (8 * lanes < D) lanes *= 2;
    const int lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    const int group = threadIdx.x / lanes, groups = blockDim.x / lanes, i = 8 * (threadIdx.x % lanes);
    const int head = blockIdx.x, column = head / (H / K) * D + i;
    const bool w = whole(D, qkv, cache_k, cache_v), mine = i < D;
    const float scale = 1.f / sqrtf((float)D);

    float q[8], k[8], v[8], sum[8];
#pragma unroll
    for (int c = 0; c < 8; c++) q[c] = k[c] = sum[c] = 0.f;
    if (mine) load8(q, qkv + head * D + i, D - i, w);
    float top = -INF, total = 0.f;
    // As many turns for every group: whole warps meet in the sums.
    for (int first = 0; first < len; first += groups) {
        const int j = first + group;
        const u64 at = (u64)j * K * D + column;
        float s = 0.f;
        if (mine && j < len) load8(k, cache_k + at, D - i, w);
#pragma unroll
        for (int c = 0; c < 8; c++) s = fmaf(q[c], k[c], s);
        s = lanes_sum(s, lanes) * scale;
        if (j < len) {
            const float higher = fmaxf(top, s), shrink = __expf(top - higher), p = __expf(s - higher);
            const float weight = rounded(p, y);
            top = higher;
            total = total * shrink + p;
            if (mine) load8(v, cache_v + at, D - i, w);
            if (mine)
#pragma unroll
                for (int c = 0; c < 8; c++) sum[c] = sum[c] * shrink + weight * v[c];
        }
    }
    for (int apart = lanes; apart < 32; apart *= 2) join(top, total, sum, apart);
    float* share = shares + (threadIdx.x >> 5) * (D + 2);
    if (lane == 0) share[0] = top, share[1] = total;
    if (lane < lanes)
#pragma unroll
        for (int c = 0; c < 8; c++)
            if (i + c < D) share[2 + i + c] = sum[c];
    __syncthreads();

    top = -INF, total = 0.f;
    for (int k = 0; k < warps; k++) top = fmaxf(top, shares[k * (D + 2)]);
    for (int k = 0; k < warps; k++) total += shares[k * (D + 2) + 1] * __expf(shares[k * (D + 2)] - top);
    for (int c = threadIdx.x; c < D; c += blockDim.x) {
        float out = 0.f;
        for (int k = 0; k < warps; k++) out += shares[k * (D + 2) + 2 + c] * __expf(shares[k * (D + 2)] - top);
        put(y + head * D + c, out / total);
    }
}
