// Rotary positions in the half-split form, in place on the query and key heads of qkv.
//
//   (a, b) = (x_i, x_{i + D/2})   →   (a cos − b sin, b cos + a sin)        i = 0 … D/2 − 1;   sin → sign · sin
//
// qkv (n, width) is real, its rows are (q_1…q_H | k_1…k_K | v_1…v_K) of D columns each; the table (positions, D) is float:
// D/2 cosines, then D/2 sines. sign is 1 forwards and −1 backwards. A thread turns eight pairs of one head.

// `heads` = H + K are turned. The position of row n is positions[n], or n mod T where positions is null.
//   grid ⌈n heads ⌈D/16⌉ / 256⌉, block 256, shared 0
extern "C" __global__ void __launch_bounds__(256)
rope(real* qkv, const float* table, const u32* positions, int n, int width, int heads, int D, int T, float sign) {
    const int half = D / 2;
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x, per_head = (half + 7) / 8;
    const u32 row = at / (heads * per_head);
    const int head = at / per_head % heads, i = 8 * (at % per_head);
    if (row >= n) return;
    const bool w = whole(half, qkv, table) && (width & 7) == 0;
    const int left = half - i;
    real* x = qkv + (u64)row * width + head * D + i;
    const float* angles = table + (u64)(positions ? positions[row] : row % T) * D + i;
    float a[8], b[8], cosine[8], sine[8];
    load8(a, x, left, w);
    load8(b, x + half, left, w);
    load8(cosine, angles, left, w);
    load8(sine, angles + half, left, w);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const float s = sign * sine[k], turned = a[k] * cosine[k] - b[k] * s;
        b[k] = b[k] * cosine[k] + a[k] * s;
        a[k] = turned;
    }
    store8(x, a, left, w);
    store8(x + half, b, left, w);
}
