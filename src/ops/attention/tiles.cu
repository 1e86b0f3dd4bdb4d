// What the attention kernels are made of: tensor-core products of 16 × 16 by 16 × 8, tiles of 64 rows in shared memory,
// and copies into them that run while the warps compute. bf16 only, D = 64 and 128.
//
// A block has four warps and owns a tile of 64 rows, 16 a warp; it passes over tiles of 64 rows of the other operand. With
// g = lane / 4 and t = lane % 4 (PTX ISA, mma.m16n8k16) a lane holds, two numbers a register,
//
//   A, 16 × 16:  a0 (g, 2t)   a1 (g + 8, 2t)   a2 (g, 2t + 8)   a3 (g + 8, 2t + 8)     and the column to the right of each
//   B, 16 × 8:   b0 (2t, g)   b1 (2t + 8, g)                                           and the row beneath each
//   C, 16 × 8:   c0, c1 (g, 2t), (g, 2t + 1)   c2, c3 (g + 8, 2t), (g + 8, 2t + 1)     in float
//
// so that two neighbouring results C are, once rounded, the A of the next product: scores never leave the registers.

#define TILE 64
#define ATTENTION_THREADS 128
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

// 1/√D
template <int D>
__device__ __forceinline__ constexpr float attention_scale() {
    static_assert(D == 64 || D == 128, "attention: D is 64 or 128");
    return D == 64 ? 0.125f : 0.08838834764831845f;
}

// ---- instructions ------------------------------------------------------------------------------------------------------

// c += A B
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef HOSTSIM
    hostsim::mma_m16n8k16(c, a, b0, b1);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

#ifndef HOSTSIM
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
#endif

// Four matrices of 8 × 8. Lanes 8j … 8j + 7 name the rows of matrix j, which arrives in r[j].
__device__ __forceinline__ void load_matrices(u32 (&r)[4], const bf16* row) {
#ifdef HOSTSIM
    hostsim::ldmatrix_x4(r, row, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_transposed(u32 (&r)[4], const bf16* row) {
#ifdef HOSTSIM
    hostsim::ldmatrix_x4(r, row, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// Starts a copy of 16 bytes, of which `bytes` are read and the rest become 0.
__device__ __forceinline__ void copy_start(bf16* to, const bf16* from, u32 bytes) {
#ifdef HOSTSIM
    hostsim::cp_async_16(to, from, bytes);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
#endif
}

// Makes the copies started since the last commit a group.
__device__ __forceinline__ void copy_commit() {
#ifdef HOSTSIM
    hostsim::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's groups but the newest N. What other threads have copied is there after a barrier.
template <int N>
__device__ __forceinline__ void copy_wait() {
#ifdef HOSTSIM
    hostsim::cp_async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ---- tiles -------------------------------------------------------------------------------------------------------------

// Where (row, col) of a tile lies. Chunks of 16 bytes are permuted by the row, so that the eight rows of a matrix fall into
// different banks although rows are a multiple of 128 bytes apart.
template <int D>
__device__ __forceinline__ int place(int row, int col) {
    return row * D + (((col >> 3) ^ (row & 7)) << 3) + (col & 7);
}

// Starts the copy of the rows first … first + 63 of one head, `pitch` elements apart. Rows from T on become 0, and no
// address outside the tensor is formed for them.
template <int D>
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* head, int pitch, int first, int T) {
    for (int i = threadIdx.x; i < TILE * D / 8; i += ATTENTION_THREADS) {
        const int r = i / (D / 8), col = i % (D / 8) * 8;
        const bool inside = first + r < T;
        copy_start(tile + place<D>(r, col), head + (i64)(inside ? first + r : 0) * pitch + col, inside ? 16 : 0);
    }
}

// A at (row, col) of a tile.
template <int D>
__device__ __forceinline__ void load_a(u32 (&a)[4], const bf16* tile, int row, int col) {
    const int lane = threadIdx.x & 31;
    load_matrices(a, tile + place<D>(row + (lane & 15), col + (lane >> 4) * 8));
}

// The B of two products, columns n … n + 15 and steps k … k + 15, of a tile whose rows are n: b0, b1 and b2, b3.
template <int D>
__device__ __forceinline__ void load_b(u32 (&b)[4], const bf16* tile, int n, int k) {
    const int lane = threadIdx.x & 31;
    load_matrices(b, tile + place<D>(n + (lane & 7) + (lane >> 4) * 8, k + ((lane >> 3) & 1) * 8));
}

// The same of a tile whose rows are k.
template <int D>
__device__ __forceinline__ void load_b_across(u32 (&b)[4], const bf16* tile, int k, int n) {
    const int lane = threadIdx.x & 31;
    load_transposed(b, tile + place<D>(k + (lane & 15), n + (lane >> 4) * 8));
}

// Two neighbouring results as the A of the product over their 16 columns.
__device__ __forceinline__ void results_to_a(u32 (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack(left[0], left[1]);
    a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]);
    a[3] = pack(right[2], right[3]);
}

template <int N>
__device__ __forceinline__ void zero(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int r = 0; r < 4; r++) c[n][r] = 0.f;
}

// Writes a warp's 16 × D results to the rows row … row + 15 of one head; those from T on are left out. upper is the factor
// of this lane's row g, lower that of g + 8.
template <int D>
__device__ __forceinline__ void store_rows(bf16* head, int pitch, const float (&c)[D / 8][4], int row, int T, float upper, float lower) {
    const int lane = threadIdx.x & 31;
    row += lane >> 2;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        bf16* p = head + (i64)row * pitch + n * 8 + (lane & 3) * 2;
        if (row < T) *(u32*)p = pack(c[n][0] * upper, c[n][1] * upper);
        if (row + 8 < T) *(u32*)(p + 8 * (i64)pitch) = pack(c[n][2] * lower, c[n][3] * lower);
    }
}

// Over the four lanes that share a row of results.
__device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(FULL_WARP, v, 1));
    return fmaxf(v, __shfl_xor_sync(FULL_WARP, v, 2));
}
__device__ __forceinline__ float quad_sum(float v) { return lanes_sum(v, 4); }
