// memory.h: "device" memory is mapped host memory: filled with NaN when allocated, with a page behind it that cannot be
// touched, unreadable once freed and never given out again. All of it, pinned memory too, lies one behind the other, so that an
// address shows whether it is meant.
//
//   STUB_MEMORY=BYTES   what the GPU has (default: an H100's 80 GB)
#pragma once
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "driver.h"

namespace memory {

constexpr size_t PAGE = 4096;
constexpr uint64_t FIRST = 0x200000000000, LAST = 0x300000000000;   // where Linux puts nothing by itself

struct Allocation {
    uint64_t number;
    size_t bytes, mapped;
    bool pinned, freed;
};

inline std::map<uint64_t, Allocation> all;
inline uint64_t next = 1;
inline size_t used = 0;
inline uint64_t next_place = FIRST;

inline size_t total() {
    static const size_t bytes = strtoull(stub::setting("STUB_MEMORY", "85017755648").c_str(), nullptr, 10);
    return bytes;
}

inline const std::pair<const uint64_t, Allocation>* find(uint64_t at) {
    auto after = all.upper_bound(at);
    if (after == all.begin()) return nullptr;
    auto found = std::prev(after);
    return at < found->first + found->second.mapped ? &*found : nullptr;
}

inline bool is_pinned(const void* p) {
    const auto* found = find((uint64_t)p);
    return found && found->second.pinned;
}

inline std::string show(uint64_t at) {
    if (at == 0) return "null";
    const auto* found = find(at);
    if (!found) return "host";
    char text[64];
    const unsigned long offset = at - found->first, number = found->second.number;
    snprintf(text, sizeof text, offset ? "#%lu+0x%lx" : "#%lu", number, offset);
    return text;
}

// 0 where there is no more.
inline uint64_t take(size_t bytes, bool pinned) {
    if (!pinned && used + bytes > total()) return 0;
    const size_t mapped = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    if (next_place + mapped > LAST) return 0;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void* base = mmap((void*)next_place, mapped, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base != (void*)next_place) return 0;
    next_place += mapped;
    mprotect((char*)base + mapped - PAGE, PAGE, PROT_NONE);
    memset(base, 0xff, bytes);
    all[(uint64_t)base] = {next++, bytes, mapped, pinned, false};
    if (!pinned) used += bytes;
    return (uint64_t)base;
}

inline bool release(uint64_t at) {
    auto found = all.find(at);
    if (found == all.end() || found->second.freed) return false;
    mmap((void*)at, found->second.mapped, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    found->second.freed = true;
    if (!found->second.pinned) used -= found->second.bytes;
    return true;
}

}   // namespace memory
