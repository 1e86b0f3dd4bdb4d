// The wrappers of tensor-core instructions by themselves. Elements are placed and taken by the formulas of the PTX ISA
// (Matrix Fragments for mma.m16n8k16; ldmatrix), written down here a second time, one element after another: an error made
// alike in the kernels and in the simulator shows here.

// d = a b + c for a (16, 16), b (16, 8), c and d (16, 8), by one warp.
//   grid 1, block 32, shared 0
extern "C" __global__ void __launch_bounds__(32) probe_multiply(float* d, const bf16* a, const bf16* b, const float* c) {
    const int groupID = threadIdx.x >> 2, threadID_in_group = threadIdx.x % 4;
    u32 fragment_a[4] = {0, 0, 0, 0}, fragment_b[2] = {0, 0};
    float fragment_c[4];
    for (int i = 0; i < 8; i++) {
        const int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? groupID : groupID + 8;
        const int col = threadID_in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        fragment_a[i / 2] |= (u32)a[row * 16 + col].bits << 16 * (i % 2);
    }
    for (int i = 0; i < 4; i++) {
        const int row = threadID_in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0), col = groupID;
        fragment_b[i / 2] |= (u32)b[row * 8 + col].bits << 16 * (i % 2);
    }
    for (int i = 0; i < 4; i++)
        fragment_c[i] = c[(i < 2 ? groupID : groupID + 8) * 8 + threadID_in_group * 2 + (i & 1)];
    multiply(fragment_c, fragment_a, fragment_b[0], fragment_b[1]);
    for (int i = 0; i < 4; i++)
        d[(i < 2 ? groupID : groupID + 8) * 8 + threadID_in_group * 2 + (i & 1)] = fragment_c[i];
}

// Four matrices of 8 × 8, one below the other, through ldmatrix and back.
//   grid 1, block 32, shared 512
extern "C" __global__ void __launch_bounds__(32) probe_matrices(bf16* plain, bf16* transposed, const bf16* rows) {
    DYNAMIC_SHARED(bf16, shared);
    const int lane = threadIdx.x;
    for (int col = 0; col < 8; col++) shared[lane * 8 + col] = rows[lane * 8 + col];
    __syncthreads();
    u32 r[4], t[4];
    load_matrices(r, shared + lane * 8);
    load_transposed(t, shared + lane * 8);
    for (int j = 0; j < 4; j++) {
        for (int e = 0; e < 2; e++) {
            const int at = (8 * j + lane / 4) * 8 + lane % 4 * 2 + e;
            plain[at].bits = (unsigned short)(r[j] >> 16 * e);
            transposed[at].bits = (unsigned short)(t[j] >> 16 * e);
        }
    }
}

// Copies 16 bytes a thread through shared memory. mistake 1: no wait; 2: no commit.
//   grid 1, block 32, shared 512
extern "C" __global__ void __launch_bounds__(32) probe_copies(bf16* out, const bf16* in, int mistake) {
    DYNAMIC_SHARED(bf16, shared);
    copy_start(shared + threadIdx.x * 8, in + threadIdx.x * 8, 16);
    if (mistake != 2) copy_commit();
    if (mistake != 1) copy_wait<0>();
    for (int i = 0; i < 8; i++) out[threadIdx.x * 8 + i] = shared[threadIdx.x * 8 + i];
}

// mistake 1: a barrier that half of the block waits at, twice; 2: a shuffle without the last lane.
//   grid 1, block 64, shared 0
extern "C" __global__ void __launch_bounds__(64) probe_meetings(float* out, int mistake) {
    float x = threadIdx.x;
    if (mistake == 2 && threadIdx.x == 63) return;
    x += __shfl_xor_sync(FULL_WARP, x, 1);
    if (mistake == 1 && threadIdx.x < 32) {
        __syncthreads();
        x = warp_sum(x);
    }
    if (mistake == 1 && threadIdx.x >= 32) x += __shfl_xor_sync(FULL_WARP, x, threadIdx.x == 40 ? 0 : 2);
    if (mistake == 1 && threadIdx.x == 40) __syncthreads();
    if (mistake == 1) x = warp_sum(x);
    out[threadIdx.x] = x;
}
