// The next token from the logits of the last, as src/model/sample.rs draws it, without sorting.
//
//   p = softmax(z / temperature), of the top_k likeliest, of those the fewest whose p sum to at least top_p
//   the token at which the running sum of p passes u · Σ p
//
// Tokens stand in the order of falling logits, ties by rising number; a NaN is nowhere. All three questions are one: which
// token, in this order, is the first at which a running sum of weights reaches a target? It is answered byte by byte, as a
// radix sort would: 256 sums of weights by the leading byte, then within the byte where the target falls, and so on.
// Weights are integers, e^((z − max) / temperature) in units of 2⁻⁴⁰, so that sums by atomics are exact, whatever their
// order.

// 64 bits that rise as the order falls: the likeliest token has the highest. 0 for NaN.
__device__ __forceinline__ u64 sort_key(float z, u32 token) {
    if (z != z) return 0;
    const u32 u = __float_as_uint(z);
    const u32 rising = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (u64)rising << 32 | (0xffffffffu - token);
}

__device__ __forceinline__ u32 token_of(u64 key) { return 0xffffffffu - (u32)key; }

// The weight of each token whose key is at least `last`; of counting: 1.
struct Weights {
    const real* z;
    int V;
    float top;
    double temperature;   // 0: count
    u64 last;
    __device__ __forceinline__ u64 of(int token, u64& key) const {
        const float x = to_float(z[token]);
        key = sort_key(x, token);
        if (key == 0 || key < last) return 0;
        return temperature == 0.0 ? 1 : (u64)(exp((double)(x - top) / temperature) * 1099511627776.0);
    }
};

// The key of the first token at which the running sum of weights reaches `target` (at least 1 and at most the sum of all),
// and in `sum` that running sum. bins: 257 places of shared memory.
__device__ __forceinline__ u64 reach(const Weights& weights, u64 target, u64& sum, u64* bins) {
    u64 prefix = 0, before = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
        __syncthreads();
        for (int t = threadIdx.x; t < weights.V; t += blockDim.x) {
            u64 key;
            const u64 weight = weights.of(t, key);
            if (weight && (shift == 56 || key >> (shift + 8) == prefix)) atomicAdd(&bins[key >> shift & 255], weight);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u64 seen = before;
            int byte = 255;
            while (byte > 0 && seen + bins[byte] < target) seen += bins[byte--];
            bins[256] = byte;
            bins[0] = bins[byte];   // what the byte itself holds
            bins[1] = seen;
        }
        __syncthreads();
        prefix = prefix << 8 | bins[256];
        sum = bins[1] + bins[0];
        before = bins[1];
        __syncthreads();
    }
    return prefix;
}

// The sum of all weights, the same in every thread.
__device__ __forceinline__ u64 weight_sum(const Weights& weights, u64* part) {
    u64 sum = 0, key;
    for (int t = threadIdx.x; t < weights.V; t += blockDim.x) sum += weights.of(t, key);
    return block_sum(sum, part);
}

// token[0] from logits (V), real. temperature 0: the likeliest. top_k 0 and top_p 1: from all. u in (0, 1).
//   grid 1, block 32 … 1024, meant: 1024; shared 0
extern "C" __global__ void __launch_bounds__(1024)
sample(u32* token, const real* logits, int V, double temperature, u32 top_k, double top_p, double u) {
    __shared__ u64 bins[257], part[32];
    Weights weights = {logits, V, 0.f, 0.0, 0};
    u64 sum;
    const u64 count = weight_sum(weights, part);
    const u64 best = count ? reach(weights, 1, sum, bins) : ~0ull;   // nothing but NaN: token 0
    u64 drawn = best;
    if (count && temperature > 0.0) {
        if (top_k > 0 && top_k < count) weights.last = reach(weights, top_k, sum, bins);
        weights.temperature = temperature;
        weights.top = to_float(logits[token_of(best)]);
        u64 mass = weight_sum(weights, part);
        if (top_p < 1.0) {
            const u64 enough = (u64)ceil(top_p * (double)mass);
            weights.last = reach(weights, enough ? enough : 1, mass, bins);
        }
        const u64 aim = (u64)(u * (double)mass) + 1;
        drawn = reach(weights, aim < mass ? aim : mass, sum, bins);
    }
    if (threadIdx.x == 0) token[0] = token_of(drawn);
}
