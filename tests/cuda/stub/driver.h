// driver.h: what the stub driver offers to the other stub libraries (cuBLASLt, NCCL).
//
// A library hands over an operation: a line for the recording, the bytes that it reads and writes, and a closure. The
// driver decides when the closure runs (streams.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace stub {

struct Access {
    uint64_t at;
    size_t bytes;
    bool write;
};

struct Operation {
    std::string text;
    std::vector<Access> accesses;
    std::function<void()> run;
};

inline Access reads(const void* p, size_t n) { return {(uint64_t)p, n, false}; }
inline Access writes(const void* p, size_t n) { return {(uint64_t)p, n, true}; }

inline std::string setting(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value && *value ? value : otherwise;
}

// That the launcher gives.
inline int rank() { return atoi(setting("OMPI_COMM_WORLD_RANK", "0").c_str()); }

#define STUB_API extern "C" __attribute__((visibility("default")))
#define STUB_SHARED __attribute__((visibility("default")))

// Appends an operation to a stream.
STUB_SHARED void submit(void* stream, Operation operation);
// Runs what is needed until everything in the stream so far has run.
STUB_SHARED void drain(void* stream);
// "#3+0x100": number of the allocation, and offset: the same in every run.
STUB_SHARED std::string show(const void* pointer);

// bf16 is the upper half of a float; rounding is to nearest even.
inline float widen(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
inline uint16_t narrow(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}   // namespace stub
