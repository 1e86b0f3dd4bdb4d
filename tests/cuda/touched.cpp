// Which bytes of the GPU's memory a kernel touches: linked to kernels that g++ has compiled with -fsanitize=thread, which calls
// a function before each access of theirs (kernels.sh, with -DTOUCHED). ThreadSanitizer itself is not there.
//
//   hostsim_touched_begin(first, last)     a launch begins; what lies between the two addresses is of interest
//   hostsim_touched_end(visit, of)         visit(of, at, bytes, written) for each piece that it has touched
//
// A piece is made of whole granules of 16 bytes: the longest access, and the shortest distance of what several streams share.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

constexpr uint64_t GRANULE = 16, PAGE = 4096, GRANULES = PAGE / GRANULE, WORDS = GRANULES / 64;

struct Page {
    uint64_t number, bits[2][WORDS];   // read, written
};

uint64_t low = 0, high = 0;
std::vector<std::unique_ptr<Page>> pages;   // by number
std::vector<Page*> dirty;

inline void touch(const void* p, size_t bytes, bool write) {
    const uint64_t at = (uint64_t)p - low;
    if ((uint64_t)p < low || (uint64_t)p >= high) return;
    for (uint64_t granule = at / GRANULE; granule <= (at + bytes - 1) / GRANULE; granule++) {
        const uint64_t number = granule / GRANULES, within = granule % GRANULES;
        if (pages.size() <= number) pages.resize(number + 1);
        auto& page = pages[number];
        if (!page) dirty.push_back((page.reset(new Page{number, {}}), page.get()));
        page->bits[write][within / 64] |= 1ull << within % 64;
    }
}

}   // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))
#define HIDDEN extern "C" __attribute__((visibility("hidden")))

EXPORT void hostsim_touched_begin(uint64_t first, uint64_t last) { low = first / PAGE * PAGE, high = last; }

EXPORT void hostsim_touched_end(void (*visit)(void* of, uint64_t at, size_t bytes, bool written), void* of) {
    for (Page* page : dirty) {
        for (int write = 0; write < 2; write++) {
            for (uint64_t i = 0, start = 0; i <= GRANULES; i++) {
                const bool set = i < GRANULES && page->bits[write][i / 64] >> i % 64 & 1;
                if (set) continue;
                if (start < i) visit(of, low + page->number * PAGE + start * GRANULE, (i - start) * GRANULE, write);
                start = i + 1;
            }
        }
        pages[page->number].reset();
    }
    dirty.clear();
    low = high = 0;
}

// For what libc copies, unseen by the compiler.
HIDDEN void hostsim_touch(const void* p, size_t bytes, bool write) { touch(p, bytes, write); }

#define ACCESS(n)                                                           \
    HIDDEN void __tsan_read##n(void* p) { touch(p, n, false); }             \
    HIDDEN void __tsan_write##n(void* p) { touch(p, n, true); }             \
    HIDDEN void __tsan_unaligned_read##n(void* p) { touch(p, n, false); }   \
    HIDDEN void __tsan_unaligned_write##n(void* p) { touch(p, n, true); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
HIDDEN void __tsan_read_range(void* p, size_t bytes) { if (bytes) touch(p, bytes, false); }
HIDDEN void __tsan_write_range(void* p, size_t bytes) { if (bytes) touch(p, bytes, true); }
HIDDEN void __tsan_init() {}
HIDDEN void __tsan_func_entry(void*) {}
HIDDEN void __tsan_func_exit() {}
HIDDEN void __tsan_vptr_update(void**, void*) {}
HIDDEN void __tsan_vptr_read(void**) {}
HIDDEN uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
