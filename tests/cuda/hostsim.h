// Runs the kernels of src/ops/*.cu on a CPU as they ship: a fiber plays each CUDA thread, blocks run one after another.
//
// Understood: threadIdx … gridDim, __shared__, DYNAMIC_SHARED, __syncthreads, __shfl_xor_sync, integer atomicAdd, and, with
// the operand layouts of the PTX ISA, mma.m16n8k16 (bf16), ldmatrix.x4 and cp.async with its groups.
//
// What it shows:
//   * a missing barrier: a warp runs on until all its lanes must wait, in several orders of warps and of blocks, and shared
//     memory is filled with 0xff (NaN as bf16, float and double) before each block;
//   * a missing cp.async wait or commit: the destination becomes NaN when a copy is started, and the data arrive in the wait
//     that covers it, never before;
//   * lanes of a warp that meet in different instructions, or not at all; a deadlock;
//   * an address that is not a multiple of the access's size (kernels.sh);
//   * wrong addresses: ldmatrix and cp.async check theirs; dynamic shared memory ends at a page that cannot be touched; the
//     rest is AddressSanitizer's, under which all of this also runs;
//   * bank conflicts of ldmatrix, which are counted.
// What it cannot show: time, other bank conflicts, registers, the order of memory below the level of barriers (fibers see every
// write at once), and how a tensor core rounds within a product.
#pragma once
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace hostsim {

constexpr size_t STACK = 64 * 1024;
// From one stack to the next: an odd number of cache lines more than a power of two, or the tops of all stacks would share one
// set of the cache.
constexpr size_t STRIDE = STACK + 17 * 64;
constexpr unsigned char POISON = 0xff;

// Which planted fault is active (mutants.rs); 0: none.
static const int mutant = getenv("HOSTSIM_MUTANT") ? atoi(getenv("HOSTSIM_MUTANT")) : 0;

// ---- numbers -----------------------------------------------------------------------------------------------------------

inline uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
inline float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
// As cvt.rn.bf16: to nearest even, a NaN becomes 0x7fff.
inline uint32_t bf16_bits(float x) {
    const uint32_t u = float_bits(x);
    return (u & 0x7fffffff) > 0x7f800000 ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

// ---- threads, warps, the block -----------------------------------------------------------------------------------------

enum class Meeting { nothing, shuffle, mma, ldmatrix, ldmatrix_transposed };

// What a lane brings to a meeting of its warp, and what it takes away.
struct Place {
    uint64_t value;
    const void* row;
    uint32_t a[4], b[2], out[4];
    float c[4], d[4];
};

struct Warp {
    // Used in turn: a lane may come to the next meeting while another has yet to leave this one. None is two ahead.
    Place places[2][32];
    Meeting meeting[32];
    bool here[32];
    unsigned arrived = 0, alive = 0, generation = 0;
};

struct Copy {
    unsigned char* to;
    const void* from;
    unsigned bytes, group;
};

struct Thread {
    void* stack = nullptr;
    unsigned id = 0, waits_for = 0;
    enum { runs, waits_for_warp, waits_for_block, done } state = runs;
    dim3 index;
    std::vector<Copy> copies;
    unsigned groups = 0;
};

struct Block {
    dim3 size, grid, index;
    unsigned threads = 0, alive = 0, arrived = 0, generation = 0;
    bool failed = false;
    const std::function<void()>* body = nullptr;
    std::vector<Thread> thread;
    std::vector<Warp> warp;
    void* scheduler = nullptr;
    char* stacks = nullptr;
    unsigned stack_count = 0;
    unsigned char *dynamic = nullptr, *dynamic_map = nullptr;
    size_t dynamic_bytes = 0, dynamic_mapped = 0;
};

static Block block;
static Thread* current = nullptr;
static int order = 0;
static unsigned conflicts = 0;   // turns that ldmatrix takes beyond one a matrix

// Saves this stack's registers and goes on where the other one was left. fresh_stack: one as if it had been left at the entry
// of `main`.
#if defined(__x86_64__) && !defined(HOSTSIM_PORTABLE)
extern "C" void hostsim_switch(void** save, void* to) __attribute__((visibility("hidden")));
asm(".text\n.hidden hostsim_switch\n.globl hostsim_switch\nhostsim_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp,(%rdi)\n  movq %rsi,%rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  popq %rcx\n  jmp *%rcx\n");   // not ret: the processor would foresee a return to the caller, and be wrong each time
inline void* fresh_stack(char* stack, void (*main)()) {
    void** top = (void**)(stack + STACK - 64);
    *--top = nullptr;   // whom main would return to
    *--top = (void*)main;
    for (int k = 0; k < 6; k++) *--top = nullptr;
    return top;
}
#else
inline void hostsim_switch(void** save, void* to) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, (ucontext_t*)to);
}
inline void* fresh_stack(char* stack, void (*main)()) {
    auto context = (ucontext_t*)(stack + STACK - (sizeof(ucontext_t) + 127) / 128 * 128);
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = (char*)context - stack;
    context->uc_link = nullptr;
    makecontext(context, main, 0);
    return context;
}
#endif

inline void yield() { hostsim_switch(&current->stack, block.scheduler); }

// A fault of the kernel: said, and the block is given up.
__attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const dim3 b = block.index, t = current->index;
    fprintf(stderr, "hostsim: block (%u, %u, %u) thread (%u, %u, %u): %s\n", b.x, b.y, b.z, t.x, t.y, t.z, text);
    block.failed = true;
    yield();   // for good
}

// ---- shared memory -----------------------------------------------------------------------------------------------------

// All __shared__ variables lie in one section of the library.
extern "C" unsigned char __start_hostsim_shared[] __attribute__((weak, visibility("hidden")));
extern "C" unsigned char __stop_hostsim_shared[] __attribute__((weak, visibility("hidden")));

inline bool in_shared(const void* p, size_t bytes) {
    const auto q = (const unsigned char*)p;
    return (q >= block.dynamic && q + bytes <= block.dynamic + block.dynamic_bytes) ||
           (q >= __start_hostsim_shared && q + bytes <= __stop_hostsim_shared);
}

// Dynamic shared memory ends at a page that cannot be touched.
inline void resize_dynamic(size_t bytes) {
    const size_t page = sysconf(_SC_PAGESIZE), room = (bytes + 127) / 128 * 128, body = (room + page - 1) / page * page;
    if (block.dynamic_map) munmap(block.dynamic_map, block.dynamic_mapped);
    block.dynamic_map = nullptr, block.dynamic = nullptr, block.dynamic_bytes = bytes;
    if (!bytes) return;
    block.dynamic_mapped = body + page;
    block.dynamic_map = (unsigned char*)mmap(nullptr, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block.dynamic_map == MAP_FAILED || mprotect(block.dynamic_map + body, page, PROT_NONE)) perror("hostsim"), abort();
    block.dynamic = block.dynamic_map + body - room;
}

// Not memset, which AddressSanitizer would stop at the gaps that it puts between variables; nor a loop that becomes one.
__attribute__((no_sanitize("address", "thread"), optimize("O3,no-tree-loop-distribute-patterns"))) inline void poison(
    unsigned char* p, unsigned char* end) {
    for (; p < end; p++) *p = POISON;
}
inline void poison_shared() {
    poison(__start_hostsim_shared, __stop_hostsim_shared);
    if (block.dynamic_bytes) memset(block.dynamic, POISON, block.dynamic_bytes);
}

// ---- instructions of a warp: each lane brings its operands, the last to come computes for all -----------------------------

// D = A B + C; the layouts stand in src/ops/attention/tiles.cu. In float, in the order of k.
__attribute__((optimize("O3"))) inline void compute_mma(Place* places) {
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const Place& p = places[lane];
        const int g = lane / 4, t = lane % 4;
        for (int r = 0; r < 4; r++) {
            const int row = g + r % 2 * 8, col = 2 * t + r / 2 * 8;
            a[row][col] = bits_float(p.a[r] << 16), a[row][col + 1] = bits_float(p.a[r] & 0xffff0000u);
            c[g + r / 2 * 8][2 * t + r % 2] = p.c[r];
        }
        for (int r = 0; r < 2; r++) {
            const int row = 2 * t + r * 8;
            b[row][g] = bits_float(p.b[r] << 16), b[row + 1][g] = bits_float(p.b[r] & 0xffff0000u);
        }
    }
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; lane++)
        for (int r = 0; r < 4; r++) places[lane].d[r] = c[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
}

// Matrix j has its rows' addresses in lanes 8j … 8j + 7. A lane gets elements (g, 2t), (g, 2t + 1) of each; transposed,
// (2t, g), (2t + 1, g).
__attribute__((optimize("O3"))) inline void compute_ldmatrix(Place* places, bool transposed) {
    for (int j = 0; j < 4; j++) {
        uint16_t m[8][8];
        unsigned turns = 0, uses[8] = {};   // of the eight groups of four banks, 16 bytes wide
        for (int row = 0; row < 8; row++) {
            const void* p = places[8 * j + row].row;
            memcpy(m[row], p, 16);
            turns = std::max(turns, ++uses[(uintptr_t)p / 16 % 8]);
        }
        conflicts += turns - 1;
        for (int lane = 0; lane < 32; lane++) {
            const int g = lane / 4, t = lane % 4 * 2;
            const uint32_t lower = transposed ? m[t][g] : m[g][t], upper = transposed ? m[t + 1][g] : m[g][t + 1];
            places[lane].out[j] = lower | upper << 16;
        }
    }
}

// All living lanes are here: compute, and let them go. Returns a complaint, or null.
inline const char* finish_meeting(Warp& w) {
    Meeting meeting = Meeting::nothing;
    for (int lane = 0; lane < 32; lane++) {
        if (!w.here[lane]) continue;
        if (meeting == Meeting::nothing) meeting = w.meeting[lane];
        if (w.meeting[lane] != meeting) return "lanes of one warp meet in different instructions";
    }
    if (w.arrived != 32) return "a warp meets with lanes missing";
    Place* places = w.places[w.generation & 1];
    if (meeting == Meeting::mma) compute_mma(places);
    if (meeting == Meeting::ldmatrix || meeting == Meeting::ldmatrix_transposed)
        compute_ldmatrix(places, meeting == Meeting::ldmatrix_transposed);
    memset(w.here, 0, sizeof w.here);
    w.arrived = 0;
    w.generation++;
    return nullptr;
}

inline Place& my_place() {
    Warp& w = block.warp[current->id / 32];
    return w.places[w.generation & 1][current->id % 32];
}

// Waits for the warp; returns the places with everyone's operands and results.
inline Place* meet(Meeting meeting) {
    Warp& w = block.warp[current->id / 32];
    const unsigned lane = current->id % 32;
    Place* places = w.places[w.generation & 1];
    w.meeting[lane] = meeting;
    w.here[lane] = true;
    if (++w.arrived == w.alive) {
        if (const char* complaint = finish_meeting(w)) fail("%s", complaint);
        return places;
    }
    current->state = Thread::waits_for_warp;
    current->waits_for = w.generation;
    while (w.generation == current->waits_for) yield();
    current->state = Thread::runs;
    return places;
}

template <class T>
inline T shuffle_xor(T x, int mask) {
    static_assert(sizeof(T) <= 8);
    Place& mine = my_place();
    memcpy(&mine.value, &x, sizeof x);
    const unsigned from = (current->id % 32) ^ mask;
    Place* places = meet(Meeting::shuffle);
    memcpy(&x, &places[from & 31].value, sizeof x);
    return x;
}

inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Place& mine = my_place();
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.c, c, sizeof c);
    mine.b[0] = b0, mine.b[1] = b1;
    memcpy(c, meet(Meeting::mma)[current->id % 32].d, sizeof c);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed) {
    if ((uintptr_t)row & 15) fail("ldmatrix: a row that does not start on 16 bytes");
    if (!in_shared(row, 16)) fail("ldmatrix: a row outside the block's shared memory");
    my_place().row = row;
    memcpy(r, meet(transposed ? Meeting::ldmatrix_transposed : Meeting::ldmatrix)[current->id % 32].out, sizeof r);
}

#ifdef TOUCHED
extern "C" void hostsim_touch(const void* p, size_t bytes, bool write);   // touched.cpp
inline void touch(const void* p, size_t bytes, bool write) { hostsim_touch(p, bytes, write); }
#else
inline void touch(const void*, size_t, bool) {}
#endif

// ---- copies in the background ------------------------------------------------------------------------------------------

inline void cp_async_16(void* to, const void* from, unsigned bytes) {
    if (((uintptr_t)to | (uintptr_t)from) & 15) fail("cp.async: an address that is not a multiple of 16");
    if (!in_shared(to, 16)) fail("cp.async: a destination outside the block's shared memory");
    memset(to, POISON, 16);
    current->copies.push_back({(unsigned char*)to, from, bytes, current->groups});
}

inline void cp_async_commit() { current->groups++; }

// The copies of all committed groups but the newest n arrive.
inline void cp_async_wait(unsigned n) {
    std::vector<Copy> left;
    for (const Copy& c : current->copies) {
        if (c.group + n < current->groups) {
            memset(c.to, 0, 16);
            if (c.bytes) touch(c.from, c.bytes, false), memcpy(c.to, c.from, c.bytes);
        } else {
            left.push_back(c);
        }
    }
    current->copies = left;
}

// ---- the block's barrier, and who runs next ----------------------------------------------------------------------------

inline void open_barrier() { block.arrived = 0, block.generation++; }

inline void barrier() {
    if (++block.arrived == block.alive) return open_barrier();
    current->state = Thread::waits_for_block;
    current->waits_for = block.generation;
    while (block.generation == current->waits_for) yield();
    current->state = Thread::runs;
}

inline void thread_main() {
    (*block.body)();
    if (!current->copies.empty()) fail("ends with %zu copies that it never waited for", current->copies.size());
    current->state = Thread::done;
    Warp& w = block.warp[current->id / 32];
    block.alive--;
    w.alive--;
    // Who has left is not waited for.
    if (block.alive && block.arrived == block.alive) open_barrier();
    if (w.alive && w.arrived == w.alive)
        if (const char* complaint = finish_meeting(w)) fail("%s", complaint);
    yield();
    __builtin_unreachable();
}

inline bool can_run(const Thread& t) {
    if (t.state == Thread::waits_for_warp) return block.warp[t.id / 32].generation != t.waits_for;
    if (t.state == Thread::waits_for_block) return block.generation != t.waits_for;
    return t.state == Thread::runs;
}

extern "C" void __asan_unpoison_memory_region(const volatile void*, size_t) __attribute__((weak));

inline void prepare() {
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(block.stacks, block.threads * STRIDE);
    block.alive = block.threads;
    block.arrived = 0;
    block.failed = false;
    poison_shared();
    for (Warp& w : block.warp) w.arrived = w.alive = w.generation = 0, memset(w.here, 0, sizeof w.here);
    for (unsigned i = 0; i < block.threads; i++) {
        Thread& t = block.thread[i];
        t = Thread();
        t.id = i;
        t.index = {i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y)};
        block.warp[i / 32].alive++;
        t.stack = fresh_stack(block.stacks + i * STRIDE, thread_main);
    }
}

// Order 0: warps and lanes rising. 1: falling. From 2: each time a random warp, by that seed.
inline bool run_block() {
    prepare();
    const unsigned warps = block.warp.size();
    uint32_t random = 2654435761u * (order + block.index.x);
    while (block.alive) {
        bool any = false;
        random = random * 1664525u + 1013904223u;
        for (unsigned i = 0; i < warps; i++) {
            const unsigned w = order == 0 ? i : order == 1 ? warps - 1 - i : ((random >> 8) + i) % warps;
            for (bool more = true; more;) {
                more = false;
                for (unsigned l = 0; l < 32; l++) {
                    const unsigned id = w * 32 + (order == 1 ? 31 - l : l);
                    if (id >= block.threads || !can_run(block.thread[id])) continue;
                    any = more = true;
                    current = &block.thread[id];
                    hostsim_switch(&block.scheduler, current->stack);
                    current = nullptr;
                    if (block.failed) return false;
                }
            }
            if (any && order > 1) break;
        }
        if (!any) {
            const dim3 b = block.index;
            fprintf(stderr, "hostsim: block (%u, %u, %u): deadlock of %u threads\n", b.x, b.y, b.z, block.alive);
            return false;
        }
    }
    return true;
}

inline bool launch(dim3 grid, dim3 size, size_t shared, const std::function<void()>& body) {
    block.size = size, block.grid = grid, block.body = &body;
    block.threads = size.x * size.y * size.z;
    block.thread.resize(block.threads);
    block.warp.resize((block.threads + 31) / 32);
    if (block.stack_count < block.threads) {
        free(block.stacks);
        block.stacks = (char*)aligned_alloc(64, block.threads * STRIDE);
        block.stack_count = block.threads;
    }
    if (block.dynamic_bytes != shared) resize_dynamic(shared);
    // Order 0: blocks rising. 1: falling. From 2: by a stride that meets each once.
    const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    uint64_t stride = order == 0 ? 1 : order == 1 ? blocks - 1 : blocks / 2 + order;
    while (std::gcd(stride, blocks) > 1) stride++;
    for (uint64_t i = 0, at = order == 1 ? blocks - 1 : 0; i < blocks; i++, at = (at + stride) % blocks) {
        block.index = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
        if (!run_block()) return false;
    }
    return true;
}

// ---- kernels by name ---------------------------------------------------------------------------------------------------

// size in bytes; kind: 'r' const pointer, 'w' pointer, 'v' value
struct Parameter {
    unsigned size;
    char kind;
};

struct Kernel {
    std::function<bool(dim3, dim3, size_t, void**)> run;
    std::vector<Parameter> parameters;
    unsigned bound;   // __launch_bounds__
};

static std::map<std::string, Kernel>& kernels() {
    static auto* all = new std::map<std::string, Kernel>;
    return *all;
}

template <class A>
constexpr Parameter parameter() {
    const bool pointer = std::is_pointer<A>::value, constant = std::is_const<std::remove_pointer_t<A>>::value;
    return {sizeof(A), pointer ? constant ? 'r' : 'w' : 'v'};
}

template <class... A, size_t... I>
inline Kernel wrap(void (*kernel)(A...), unsigned bound, std::index_sequence<I...>) {
    auto run = [kernel](dim3 grid, dim3 size, size_t shared, void** arguments) {
        return launch(grid, size, shared, [=] { kernel(*(A*)arguments[I]...); });
    };
    return {run, {parameter<A>()...}, bound};
}

template <class... A>
inline int keep(const char* name, void (*kernel)(A...), unsigned bound) {
    kernels()[name] = wrap(kernel, bound, std::index_sequence_for<A...>());
    return 0;
}

// An access outside memory, or to an address that is not a multiple of its size: which thread made it, then the end of the
// process.
inline void report_fault(int signal, siginfo_t* info, void*) {
    char text[160];
    int n = 0;
    if (current) {
        const dim3 b = block.index, t = current->index;
        const char* what = signal == SIGILL ? "its address is not a multiple of the access at" : "touches what is no memory,";
        n = snprintf(text, sizeof text, "hostsim: block (%u, %u, %u) thread (%u, %u, %u): %s %p\n", b.x, b.y, b.z, t.x, t.y,
                     t.z, what, info->si_addr);
    }
    if (write(2, text, n) < 0 || signal) _exit(139);
}

}   // namespace hostsim

// The generated end of the library names each kernel here, with its launch bound (kernels.sh).
#define EXPORT extern "C" __attribute__((visibility("default")))
#define REGISTER(name, bound) static int registered_##name = hostsim::keep(#name, name, bound);

// 0: done. 1: the kernel failed, said on stderr. −1: no such kernel. −2: more threads than its launch bound.
EXPORT int hostsim_launch(const char* name, const unsigned* grid, const unsigned* size, size_t shared, void** arguments) {
    const auto found = hostsim::kernels().find(name);
    if (found == hostsim::kernels().end()) return -1;
    if (size[0] * size[1] * size[2] > found->second.bound) return -2;
    return !found->second.run({grid[0], grid[1], grid[2]}, {size[0], size[1], size[2]}, shared, arguments);
}

// The number of parameters, of which at most `room` are written; −1: no such kernel.
EXPORT int hostsim_signature(const char* name, hostsim::Parameter* out, int room) {
    const auto found = hostsim::kernels().find(name);
    if (found == hostsim::kernels().end()) return -1;
    const auto& all = found->second.parameters;
    for (int i = 0; i < (int)all.size() && i < room; i++) out[i] = all[i];
    return all.size();
}

EXPORT void hostsim_order(int order) { hostsim::order = order; }

// Of all launches so far.
EXPORT unsigned hostsim_conflicts() { return hostsim::conflicts; }

EXPORT void hostsim_report_faults() {
    struct sigaction action = {};
    action.sa_sigaction = hostsim::report_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    sigaction(SIGILL, &action, nullptr);   // what -fsanitize=alignment ends in
}

// ---- what nvcc has built in --------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static __attribute__((section("hostsim_shared")))
#define DYNAMIC_SHARED(T, name) T* name = (T*)hostsim::block.dynamic

#define threadIdx (hostsim::current->index)
#define blockIdx (hostsim::block.index)
#define blockDim (hostsim::block.size)
#define gridDim (hostsim::block.grid)

inline void __syncthreads() { hostsim::barrier(); }
template <class T>
inline T __shfl_xor_sync(unsigned, T x, int mask) {
    return hostsim::shuffle_xor(x, mask);
}
// Blocks run one after another and threads in turn, so a plain addition is one.
template <class T>
inline T atomicAdd(T* p, T x) {
    static_assert(std::is_integral<T>::value, "no atomics on floating point: their order would show in the sum");
    return *p += x, *p - x;
}

inline float __uint_as_float(unsigned u) { return hostsim::bits_float(u); }
inline unsigned __float_as_uint(float x) { return hostsim::float_bits(x); }
inline float __expf(float x) { return expf(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
