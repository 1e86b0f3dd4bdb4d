// libcuda.cpp: a libcuda.so.1 without a GPU. It poses as one H100 and runs kernels by name on the CPU, through hostsim.
//
//   STUB_KERNELS=FILE   the program's kernels, compiled for the CPU (kernels.sh); %p in it is the --precision of the command
//   STUB_DEVICES=N      GPUs (default 1)
//   STUB_DRIVER=N       version of CUDA that the driver is for (default 13000)
//   STUB_CAPABILITY=N   90 for an H100
//   STUB_TOUCHED=KERNEL with STUB_RACES: a line in the log tells how many bytes each run of this kernel wrote
// and those of streams.h, races.h and memory.h.
#include <dlfcn.h>
#include <signal.h>

#include "cubin.h"
#include "streams.h"

using namespace streams;

enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    OUT_OF_RESOURCES = 701,
};

namespace {

thread_local void* current = nullptr;
int contexts[64];

int number(const char* name, const char* otherwise) { return atoi(stub::setting(name, otherwise).c_str()); }

// ---- kernels ---------------------------------------------------------------------------------------------------------------

struct Parameter {
    unsigned size;
    char kind;   // 'r' const pointer, 'w' pointer, 'v' value
};

struct Simulator {
    int (*launch)(const char*, const unsigned*, const unsigned*, size_t, void**) = nullptr;
    int (*signature)(const char*, Parameter*, int) = nullptr;
    void (*touched_begin)(uint64_t, uint64_t) = nullptr;
    void (*touched_end)(void (*)(void*, uint64_t, size_t, bool), void*) = nullptr;
};

// What the command line says; tests of kernels have none, and say it in KERNELS_REAL.
std::string precision() {
    std::string all;
    if (FILE* line = fopen("/proc/self/cmdline", "r")) {
        for (int c; (c = fgetc(line)) != EOF;) all += c ? (char)c : ' ';
        fclose(line);
    }
    for (const char* known : {"fp32", "bf16"})
        if (all.find(std::string("--precision ") + known) != std::string::npos) return known;
    if (all.find("--precision tf32") != std::string::npos) return "fp32";   // whose kernels it uses
    return stub::setting("KERNELS_REAL", "fp32");
}

const Simulator& simulator() {
    static const Simulator loaded = [] {
        Simulator s;
        std::string file = stub::setting("STUB_KERNELS", "libkernels.so");
        if (const size_t at = file.find("%p"); at != std::string::npos) file.replace(at, 2, precision());
        void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            complain(dlerror());
            return s;
        }
        s.launch = (decltype(s.launch))dlsym(library, "hostsim_launch");
        s.signature = (decltype(s.signature))dlsym(library, "hostsim_signature");
        if (races::wanted()) {
            s.touched_begin = (decltype(s.touched_begin))dlsym(library, "hostsim_touched_begin");
            s.touched_end = (decltype(s.touched_end))dlsym(library, "hostsim_touched_end");
            if (!s.touched_end) complain("RACES cannot be seen: the kernels do not tell what they touch"), abort();
        }
        return s;
    }();
    return loaded;
}

// What an H100 refuses.
int check(const Kernel& kernel, const unsigned grid[3], const unsigned block[3], unsigned shared) {
    const uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    auto refuse = [&](int code, const char* why) {
        complain("launch of " + kernel.name + " refused: " + why);
        return code;
    };
    if (threads == 0 || (uint64_t)grid[0] * grid[1] * grid[2] == 0) return refuse(INVALID_VALUE, "empty grid or block");
    if (grid[0] > 2147483647u || grid[1] > 65535 || grid[2] > 65535) return refuse(INVALID_VALUE, "grid too large");
    if (threads > 1024 || block[2] > 64) return refuse(INVALID_VALUE, "block too large");
    if (threads > kernel.bound) return refuse(OUT_OF_RESOURCES, "block larger than the kernel's launch bounds");
    // Registers are handed out by warps, in units of 256.
    if ((kernel.registers * 32 + 255) / 256 * 256 * ((threads + 31) / 32) > 65536) return refuse(OUT_OF_RESOURCES, "too many registers");
    if (shared > kernel.shared) return refuse(INVALID_VALUE, "more dynamic shared memory than cuFuncSetAttribute allowed");
    return SUCCESS;
}

int launch(Kernel& kernel, const unsigned grid[3], const unsigned block[3], unsigned shared, void* stream, void** arguments) {
    if (int refused = check(kernel, grid, block, shared)) return refused;
    const Simulator& sim = simulator();
    Parameter parameters[64];
    const int count = sim.signature ? sim.signature(kernel.name.c_str(), parameters, 64) : -1;
    bool same = count == (int)kernel.parameters.size();
    for (int i = 0; same && i < count; i++) same = kernel.parameters[i] == parameters[i].size;
    if (!same) {
        complain("kernel " + kernel.name + ": binary and simulator differ in its parameters, or one lacks it");
        return INVALID_IMAGE;
    }
    char text[160];
    snprintf(text, sizeof text, "%s grid=%ux%ux%u block=%ux%ux%u shared=%u", kernel.name.c_str(), grid[0], grid[1], grid[2], block[0],
             block[1], block[2], shared);
    stub::Operation op;
    op.text = text;
    // Copied now: the caller's variables need not live until the kernel runs.
    auto values = std::make_shared<std::vector<std::vector<unsigned char>>>();
    Lock lock(state);
    for (int i = 0; i < count; i++) {
        const auto* bytes = (const unsigned char*)arguments[i];
        values->emplace_back(bytes, bytes + parameters[i].size);
        uint64_t value = 0;
        memcpy(&value, bytes, std::min<size_t>(8, parameters[i].size));
        if (parameters[i].kind == 'v') {
            snprintf(text, sizeof text, " 0x%lx", (unsigned long)value);
            op.text += text;
        } else {
            op.text += std::string(" ") + parameters[i].kind + ":" + memory::show(value);
        }
    }
    const std::vector<unsigned> g(grid, grid + 3), b(block, block + 3);
    op.run = [=, name = kernel.name, &sim] {
        std::vector<void*> pointers;
        for (auto& value : *values) pointers.push_back(value.data());
        if (sim.touched_begin) sim.touched_begin(memory::FIRST, memory::next_place);
        const int failed = sim.launch(name.c_str(), g.data(), b.data(), shared, pointers.data());
        if (sim.touched_end) {
            const auto keep = [](void*, uint64_t at, size_t bytes, bool written) { touched.push_back({at, bytes, written}); };
            sim.touched_end(keep, nullptr);
            if (name == stub::setting("STUB_TOUCHED", "")) {
                size_t bytes = 0;
                for (const stub::Access& access : touched) bytes += access.write ? access.bytes : 0;
                record("touched: " + name + " wrote " + std::to_string(bytes) + " bytes");
            }
        }
        if (failed) {
            complain("kernel " + name + " did not finish");
            abort();
        }
    };
    enqueue(lock, of(stream), std::move(op));
    return SUCCESS;
}

// ---- crashes ---------------------------------------------------------------------------------------------------------------

void on_bad_access(int, siginfo_t* info, void*) {
    const uint64_t at = (uint64_t)info->si_addr;
    const auto* found = memory::find(at);
    const char* why = !found ? "outside every allocation" : found->second.freed ? "freed memory" : "past an allocation's end";
    complain("bad access at " + memory::show(at) + " (" + why + ") in " + (running ? running->what.text : "host code"));
    _exit(139);
}

}   // namespace

namespace stub {

void submit(void* stream, Operation operation) {
    Lock lock(state);
    enqueue(lock, of(stream), std::move(operation));
}
void drain(void* stream) {
    Lock lock(state);
    host_waits(lock, of(stream)->last, "a library");
}
std::string show(const void* pointer) {
    Lock lock(state);
    return memory::show((uint64_t)pointer);
}

}   // namespace stub

// ---- devices ---------------------------------------------------------------------------------------------------------------

STUB_API int cuInit(unsigned) {
    if (number("STUB_DEVICES", "1") == 0) return NO_DEVICE;
    start();
    struct sigaction action = {};
    action.sa_sigaction = on_bad_access;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
    return SUCCESS;
}
STUB_API int cuDriverGetVersion(int* version) { return *version = number("STUB_DRIVER", "13000"), SUCCESS; }
STUB_API int cuDeviceGetCount(int* count) { return *count = number("STUB_DEVICES", "1"), SUCCESS; }
STUB_API int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= number("STUB_DEVICES", "1")) return INVALID_DEVICE;
    return *device = ordinal, SUCCESS;
}
STUB_API int cuDeviceGetName(char* name, int room, int) { return snprintf(name, room, "NVIDIA H100 80GB HBM3 (stub)"), SUCCESS; }
STUB_API int cuDeviceGetPCIBusId(char* text, int room, int device) { return snprintf(text, room, "0000:%02X:00.0", 0x1b + device), SUCCESS; }
STUB_API int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = memory::total(), SUCCESS; }
STUB_API int cuDeviceGetAttribute(int* value, int attribute, int) {
    const int capability = number("STUB_CAPABILITY", "90");
    switch (attribute) {
        case 16: *value = 132; break;               // MULTIPROCESSOR_COUNT
        case 75: *value = capability / 10; break;   // COMPUTE_CAPABILITY_MAJOR, MINOR
        case 76: *value = capability % 10; break;
        default: *value = 0;
    }
    return SUCCESS;
}
STUB_API int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &contexts[device % 64], SUCCESS; }
STUB_API int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
STUB_API int cuCtxSetCurrent(void* context) { return current = context, SUCCESS; }
STUB_API int cuCtxGetCurrent(void** context) { return *context = current, SUCCESS; }
// NVRTC opens libcuda by itself, where there is one, and asks for tables that are not documented.
STUB_API int cuGetExportTable(const void** table, const void*) { return *table = nullptr, NOT_FOUND; }

// ---- memory ----------------------------------------------------------------------------------------------------------------

static int take(uint64_t* out, size_t bytes, bool pinned) {
    Lock lock(state);
    *out = memory::take(bytes, pinned);
    if (*out) record("take " + std::to_string(bytes) + (pinned ? " pinned -> " : " -> ") + memory::show(*out));
    return *out ? SUCCESS : OUT_OF_MEMORY;
}
static int give_back(uint64_t at) {
    Lock lock(state);
    streams::drain(lock);   // as the real one does
    return memory::release(at) ? SUCCESS : INVALID_VALUE;
}
STUB_API int cuMemGetInfo_v2(size_t* free, size_t* total) {
    Lock lock(state);
    *total = memory::total();
    *free = *total - memory::used;
    return SUCCESS;
}
STUB_API int cuMemAlloc_v2(uint64_t* out, size_t bytes) { return take(out, bytes, false); }
STUB_API int cuMemFree_v2(uint64_t at) { return give_back(at); }
STUB_API int cuMemHostAlloc(void** out, size_t bytes, unsigned) { return take((uint64_t*)out, bytes, true); }
STUB_API int cuMemFreeHost(void* p) { return give_back((uint64_t)p); }

// Pinned host memory is read when the copy runs, so that a program which overwrites it too early gets the wrong bytes here as
// on a GPU; other memory is read before the call returns.
STUB_API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    Lock lock(state);
    const bool pinned = memory::is_pinned(from);
    stub::Operation op = {"upload " + std::to_string(bytes) + " w:" + memory::show(to), {stub::writes((void*)to, bytes)}, nullptr};
    if (pinned) op.accesses.push_back(stub::reads(from, bytes));
    auto kept = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + (pinned ? 0 : bytes));
    op.run = [=] { memcpy((void*)to, pinned ? from : kept->data(), bytes); };
    enqueue(lock, of(stream), std::move(op));
    if (!pinned) record("host waits: upload");   // for room in a buffer of the driver's, where others came before
    return SUCCESS;
}
STUB_API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    Lock lock(state);
    const bool pinned = memory::is_pinned(to);
    stub::Operation op = {"download " + std::to_string(bytes) + " r:" + memory::show(from), {stub::reads((void*)from, bytes)}, nullptr};
    if (pinned) op.accesses.push_back(stub::writes(to, bytes));
    op.run = [=] { memcpy(to, (void*)from, bytes); };
    OpPtr queued = enqueue(lock, of(stream), std::move(op));
    if (!pinned) host_waits(lock, queued, "download");
    return SUCCESS;
}
STUB_API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    Lock lock(state);
    std::string text = "copy " + std::to_string(bytes) + " w:" + memory::show(to) + " r:" + memory::show(from);
    enqueue(lock, of(stream), {text, {stub::writes((void*)to, bytes), stub::reads((void*)from, bytes)}, [=] { memmove((void*)to, (void*)from, bytes); }});
    return SUCCESS;
}
STUB_API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
    Lock lock(state);
    std::string text = "fill " + std::to_string(bytes) + " w:" + memory::show(to) + " value=" + std::to_string(value);
    enqueue(lock, of(stream), {text, {stub::writes((void*)to, bytes)}, [=] { memset((void*)to, value, bytes); }});
    return SUCCESS;
}

// ---- streams and events ----------------------------------------------------------------------------------------------------

struct Event {
    bool timed;
    OpPtr recorded;   // null: never recorded, which counts as complete
};

STUB_API int cuStreamCreate(void** out, unsigned) {
    Lock lock(state);
    all.emplace_back(new Stream{(int)all.size(), {}, nullptr, {}});
    return *out = all.back().get(), SUCCESS;
}
STUB_API int cuStreamDestroy_v2(void*) { return SUCCESS; }   // what is queued runs on
STUB_API int cuStreamSynchronize(void* stream) {
    Lock lock(state);
    host_waits(lock, of(stream)->last, "stream");
    return SUCCESS;
}
STUB_API int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    Lock lock(state);
    // What counts is what the event holds now; recording it again does not change this wait.
    wait_for(lock, of(stream), ((Event*)event)->recorded);
    return SUCCESS;
}
STUB_API int cuEventCreate(void** out, unsigned flags) {
    constexpr unsigned DISABLE_TIMING = 2;
    return *out = new Event{!(flags & DISABLE_TIMING), nullptr}, SUCCESS;
}
// Two streams have no times that could be compared; ours asks of one alone.
STUB_API int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    Lock lock(state);
    const Event &a = *(Event*)start, &b = *(Event*)end;
    if (!a.timed || !b.timed || !a.recorded || !b.recorded) return INVALID_HANDLE;
    if (!a.recorded->done || !b.recorded->done) return NOT_READY;
    if (a.recorded->stream != b.recorded->stream || b.recorded->number < a.recorded->number) return INVALID_VALUE;
    return *milliseconds = b.recorded->when - a.recorded->when, SUCCESS;
}
STUB_API int cuEventDestroy_v2(void* event) { return delete (Event*)event, SUCCESS; }
STUB_API int cuEventRecord(void* event, void* stream) {
    Lock lock(state);
    ((Event*)event)->recorded = enqueue(lock, of(stream), {"event", {}, nullptr});
    return SUCCESS;
}
STUB_API int cuEventSynchronize(void* event) {
    Lock lock(state);
    host_waits(lock, ((Event*)event)->recorded, "event");
    return SUCCESS;
}
// Runs nothing: in the orders that put work off, `keep_going` does, in time.
STUB_API int cuEventQuery(void* event) {
    Lock lock(state);
    OpPtr op = ((Event*)event)->recorded;
    if (!op) return SUCCESS;
    if (!op->done) return NOT_READY;
    return SUCCESS;   // the thread that asks is not the one that submits: its knowledge orders nothing
}

// ---- modules ---------------------------------------------------------------------------------------------------------------

STUB_API int cuModuleLoadData(void** out, const void* image) {
    auto* kernels = new std::map<std::string, Kernel>(cubin::read(image));
    return *out = kernels, kernels->empty() ? INVALID_IMAGE : SUCCESS;
}
STUB_API int cuModuleUnload(void*) { return SUCCESS; }
STUB_API int cuModuleGetFunction(void** out, void* module, const char* name) {
    auto& kernels = *(std::map<std::string, Kernel>*)module;
    const auto found = kernels.find(name);
    if (found == kernels.end()) return NOT_FOUND;
    return *out = &found->second, SUCCESS;
}
STUB_API int cuFuncSetAttribute(void* function, int attribute, int value) {
    constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8, OPT_IN = 232448;
    if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES) return SUCCESS;
    if (value < 0 || value > OPT_IN) return INVALID_VALUE;
    ((Kernel*)function)->shared = value;
    return SUCCESS;
}
STUB_API int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                            void* stream, void** arguments, void**) {
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    return launch(*(Kernel*)function, grid, block, shared, stream, arguments);
}
