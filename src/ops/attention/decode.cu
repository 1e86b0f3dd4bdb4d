// One new row against a cache of keys and values: generation.
//
//   s_j = q · k_j / √D      p = softmax(s)      y = Σ_j p_j v_j          j = 0 … len − 1
//
// y (1, H D) and the row qkv ((H + 2K) D) are real, as are cache_k and cache_v (len, K D). Query head h reads key/value
// head h K / H. A block takes a query head; each of its warps the keys w, w + warps, … with a running maximum and
// denominator, and at the end the warps' shares are put together in their order. A lane holds the columns l, l + 32, …;
// D is at most 256.

//   grid (H), block 256, shared 8 (D + 2) · 4 bytes
extern "C" __global__ void __launch_bounds__(256)
attention_decode(real* y, const real* qkv, const real* cache_k, const real* cache_v, int len, int H, int K, int D) {
    DYNAMIC_SHARED(float, shares);   // of each warp: maximum, denominator, D sums
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const int head = blockIdx.x, column = head / (H / K) * D;
    const float scale = 1.f / sqrtf((float)D);
    float q[8], sum[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const int i = lane + 32 * k;
        q[k] = i < D ? to_float(qkv[head * D + i]) : 0.f;
        sum[k] = 0.f;
    }
    float top = -INF, total = 0.f;
    for (int j = warp; j < len; j += warps) {
        const u64 at = (u64)j * K * D + column;
        float s = 0.f;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int i = lane + 32 * k;
            if (i < D) s = fmaf(q[k], to_float(cache_k[at + i]), s);
        }
        s = warp_sum(s) * scale;
        const float higher = fmaxf(top, s), shrink = __expf(top - higher), p = __expf(s - higher);
        top = higher;
        total = total * shrink + p;
        const float weight = rounded(p, y);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int i = lane + 32 * k;
            if (i < D) sum[k] = sum[k] * shrink + weight * to_float(cache_v[at + i]);
        }
    }
    float* share = shares + warp * (D + 2);
    if (lane == 0) share[0] = top, share[1] = total;
#pragma unroll
    for (int k = 0; k < 8; k++)
        if (lane + 32 * k < D) share[2 + lane + 32 * k] = sum[k];
    __syncthreads();

    top = -INF, total = 0.f;
    for (int k = 0; k < warps; k++) top = fmaxf(top, shares[k * (D + 2)]);
    for (int k = 0; k < warps; k++) total += shares[k * (D + 2) + 1] * __expf(shares[k * (D + 2)] - top);
    for (int i = threadIdx.x; i < D; i += blockDim.x) {
        float out = 0.f;
        for (int k = 0; k < warps; k++) out += shares[k * (D + 2) + 2 + i] * __expf(shares[k * (D + 2)] - top);
        put(y + head * D + i, out / total);
    }
}
