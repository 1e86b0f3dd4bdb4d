// libprofiler.cpp: what a profiler hands to NVTX_INJECTION64_PATH. Writes a line for each range that begins and ends, with its
// thread, into the file STUB_RANGES.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <unistd.h>
#include <sys/syscall.h>

#define STUB_API extern "C" __attribute__((visibility("default")))

struct Callbacks {
    size_t size;
    int (*function_table)(unsigned module, void**** table, unsigned* size);
};
struct Version {
    size_t size;
    unsigned version;
};

static std::mutex one;
static FILE* file() {
    static FILE* opened = [] {
        const char* path = getenv("STUB_RANGES");
        return path ? fopen(path, "a") : stderr;
    }();
    return opened;
}
static void line(char sign, const char* name) {
    const std::lock_guard<std::mutex> lock(one);
    fprintf(file(), "%ld %c %s\n", syscall(SYS_gettid), sign, name);
    fflush(file());
}
static int push(const char* name) {
    line('+', name);
    return 0;
}
static int pop() {
    line('-', "");
    return 0;
}

STUB_API int InitializeInjectionNvtx2(const void* (*export_table)(unsigned)) {
    const auto* version = (const Version*)export_table(3);
    const auto* callbacks = (const Callbacks*)export_table(1);
    if (!version || version->version != 3 || !callbacks || callbacks->size < sizeof(Callbacks)) return 0;
    void*** table = nullptr;
    unsigned size = 0;
    // As Score-P does: sizes first, without a table.
    if (!callbacks->function_table(5, nullptr, &size) || size != 16) return 0;
    if (!callbacks->function_table(1, &table, &size) || !table || size != 16) return 0;
    *table[9] = (void*)push;
    *table[11] = (void*)pop;
    return 1;
}
