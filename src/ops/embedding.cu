// Token (and learned position) vectors.
//
//   x[n] = wte[token n] (+ wpe[position n])
//   dtable[place n] += dx[n]                   place: the token for dwte, the position for dwpe
//
// x, dx (n, C) and wte, wpe are real; dtable is float. position n = positions[n] + offset, or n mod T + offset.

//   grid ⌈n ⌈C/8⌉ / 256⌉, block 256, shared 0; wpe and positions may be null
extern "C" __global__ void __launch_bounds__(256)
embedding_forward(real* x, const u32* tokens, const real* wte, const real* wpe, const u32* positions, int n, int C, int T,
                  int offset) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, per_row = (C + 7) / 8;
    const u32 row = at / per_row;
    const int c = 8 * (at % per_row);
    if (row >= n) return;
    const bool w = whole(C, x, wte, wpe);
    float v[8];
    load8(v, wte + (u64)tokens[row] * C + c, C - c, w);
    if (wpe) {
        float p[8];
        load8(p, wpe + (u64)((positions ? positions[row] : row % T) + offset) * C + c, C - c, w);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += p[i];
    }
    store8(x + (u64)row * C + c, v, C - c, w);
}

// dtable[places[n]] += dx[n], without atomics: `order` lists the rows 0 … n − 1 so that those of one place stand together,
// in rising order. The block at the first of them adds them all, eight strips at a time, then the strips in their order.
//   grid (n, ⌈C/256⌉), block (32, 8), shared 0
extern "C" __global__ void __launch_bounds__(256)
embedding_backward(float* dtable, const real* dx, const u32* places, const u32* order, int n, int C) {
    __shared__ float sums[8][256];
    const u32 place = places[order[blockIdx.x]];
    if (blockIdx.x > 0 && places[order[blockIdx.x - 1]] == place) return;
    const bool w = whole(C, dx);
    const int c = blockIdx.y * 256 + 8 * threadIdx.x;

    float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    if (c < C) {
        for (u32 k = blockIdx.x + threadIdx.y; k < n; k += 8) {
            const u32 row = order[k];
            if (places[row] != place) break;
            float v[8];
            load8(v, dx + (u64)row * C + c, C - c, w);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += v[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) sums[threadIdx.y][8 * threadIdx.x + i] = sum[i];
    __syncthreads();

    const int mine = 32 * threadIdx.y + threadIdx.x, col = blockIdx.y * 256 + mine;
    if (col < C) {
        float total = 0.f;
        for (int k = 0; k < 8; k++) total += sums[k][mine];
        dtable[(u64)place * C + col] += total;
    }
}

// The same by atomics (--nondeterministic): no order of the rows is needed, and no block waits for another's.
//   grid ⌈n ⌈C/8⌉ / 256⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256)
embedding_backward_any(float* dtable, const real* dx, const u32* places, int n, int C) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, per_row = (C + 7) / 8;
    const u32 row = at / per_row;
    const int c = 8 * (at % per_row);
    if (row >= n) return;
    float v[8];
    load8(v, dx + (u64)row * C + c, C - c, whole(C, dx));
    float* to = dtable + (u64)places[row] * C + c;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (c + i < C) add_in_any_order(to + i, v[i]);
}
