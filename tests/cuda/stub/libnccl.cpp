// libnccl.cpp: NCCL's collectives between the processes of a machine, through POSIX shared memory.
//
// The unique id names a segment with a barrier and a window of bytes for each rank. A collective goes window by window:
// everyone copies a piece into its own; barrier; everyone takes what it needs from the others'; barrier. Sums run over the
// ranks in order, in float, and are rounded once: the real library's order depends on the topology.
//
// As in the real library the exchange happens when the stream gets there. Every rank writes down what it is about to do: a
// difference is said instead of hanging.
//
//   STUB_NCCL_TIMEOUT=SECONDS   until a missing rank is said and the communicator fails (default 60)
//   STUB_NCCL_FAIL=N            the N-th collective of a rank (from 1) fails, asynchronously
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

#include "driver.h"

namespace {

enum Result : int { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };
enum Type : int { FLOAT32 = 7, BFLOAT16 = 9 };
enum Kind : int { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER };
const char* const NAMES[] = {"all-reduce", "reduce-scatter", "all-gather"};

constexpr int RANKS = 64;
constexpr size_t WINDOW = 1 << 20;   // bytes a rank; any size works

struct Intent {
    uint64_t number, count;
    int kind, type;
};

struct Segment {
    std::atomic<uint32_t> arrived, generation, failed;
    Intent intent[RANKS];
    // the windows follow
};

struct Comm {
    int rank, ranks;
    Segment* segment = nullptr;
    uint64_t number = 0;               // collectives submitted
    std::atomic<int> state{IN_PROGRESS};
    void* last_stream = nullptr;
    char* window(int r) { return (char*)(segment + 1) + (size_t)r * WINDOW; }
};
using CommPtr = std::shared_ptr<Comm>;   // queued operations keep it alive

struct UniqueId {
    char text[128];
};

size_t size_of(int type) { return type == BFLOAT16 ? 2 : 4; }

double seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// False where the communicator has failed: someone gave up, or a rank did not come.
bool barrier(Comm& comm, const char* what) {
    static const double timeout = atof(stub::setting("STUB_NCCL_TIMEOUT", "60").c_str());
    Segment& s = *comm.segment;
    const uint32_t generation = s.generation;
    if (s.arrived.fetch_add(1) + 1 == (uint32_t)comm.ranks) {
        s.arrived = 0;
        s.generation++;
        return true;
    }
    const double start = seconds();
    for (uint64_t spins = 0; s.generation == generation; spins++) {
        if (s.failed || seconds() - start > timeout) {
            if (!s.failed) fprintf(stderr, "stub libnccl: rank %d waited %.0f s in %s\n", comm.rank, timeout, what);
            s.failed = 1;
            comm.state = REMOTE_ERROR;
            return false;
        }
        if (spins < 100) sched_yield();
        else usleep(50);
    }
    return true;
}

bool agree(Comm& comm, const Intent& mine) {
    comm.segment->intent[comm.rank] = mine;
    if (!barrier(comm, NAMES[mine.kind])) return false;
    for (int r = 0; r < comm.ranks; r++) {
        const Intent& theirs = comm.segment->intent[r];
        if (memcmp(&theirs, &mine, sizeof mine) == 0) continue;
        fprintf(stderr, "stub libnccl: rank %d does %s #%lu of %lu, rank %d %s #%lu of %lu\n", comm.rank, NAMES[mine.kind], (unsigned long)mine.number,
                (unsigned long)mine.count, r, NAMES[theirs.kind], (unsigned long)theirs.number, (unsigned long)theirs.count);
        comm.segment->failed = 1;
        comm.state = REMOTE_ERROR;
        return false;
    }
    return true;
}

void sum(const std::vector<const char*>& from, char* to, size_t n, int type) {
    for (size_t i = 0; i < n; i++) {
        float total = 0;
        for (const char* source : from) total += type == FLOAT32 ? ((const float*)source)[i] : stub::widen(((const uint16_t*)source)[i]);
        if (type == FLOAT32) ((float*)to)[i] = total;
        else ((uint16_t*)to)[i] = stub::narrow(total);
    }
}

// count: elements in all for an all-reduce; of one rank's block for the others.
void exchange(Comm& comm, const Intent& intent, const char* send, char* receive) {
    if (!agree(comm, intent)) return;
    const size_t element = size_of(intent.type), blocks = intent.kind == REDUCE_SCATTER ? comm.ranks : 1;
    const size_t most = WINDOW / element / blocks;
    for (size_t done = 0; done < intent.count; done += most) {
        const size_t n = std::min(most, intent.count - done), bytes = n * element;
        for (size_t b = 0; b < blocks; b++) memcpy(comm.window(comm.rank) + b * bytes, send + (b * intent.count + done) * element, bytes);
        if (!barrier(comm, NAMES[intent.kind])) return;
        std::vector<const char*> sources;
        for (int r = 0; r < comm.ranks; r++) sources.push_back(comm.window(r) + (intent.kind == REDUCE_SCATTER ? comm.rank * bytes : 0));
        if (intent.kind == ALL_GATHER)
            for (int r = 0; r < comm.ranks; r++) memcpy(receive + (r * intent.count + done) * element, sources[r], bytes);
        else
            sum(sources, receive + done * element, n, intent.type);
        if (!barrier(comm, NAMES[intent.kind])) return;   // nobody overwrites a window that someone still reads
    }
}

// Between ncclGroupStart and ncclGroupEnd nothing reaches a stream.
thread_local int group_depth = 0;
thread_local std::vector<std::pair<void*, stub::Operation>> group;

int collective(CommPtr* handle, int kind, const void* send, void* receive, size_t count, int type, void* stream) {
    CommPtr comm = *handle;
    if (comm->state) return comm->state;
    if (type != FLOAT32 && type != BFLOAT16) return INVALID_ARGUMENT;
    const Intent intent = {++comm->number, count, kind, type};
    const size_t bytes = count * size_of(type), all = bytes * comm->ranks;
    stub::Operation op;
    op.text = std::string("nccl ") + NAMES[kind] + " count=" + std::to_string(count) + (type == BFLOAT16 ? " bf16" : " f32") + " w:" + stub::show(receive) +
              " r:" + stub::show(send);
    op.accesses = {stub::reads(send, kind == REDUCE_SCATTER ? all : bytes), stub::writes(receive, kind == ALL_GATHER ? all : bytes)};
    comm->last_stream = stream;
    static const uint64_t fails = strtoull(stub::setting("STUB_NCCL_FAIL", "0").c_str(), nullptr, 10);
    op.run = [=] {
        if (comm->number == fails) comm->state = REMOTE_ERROR, comm->segment->failed = 1;
        else if (!comm->state) exchange(*comm, intent, (const char*)send, (char*)receive);
    };
    if (group_depth > 0) group.emplace_back(stream, std::move(op));
    else stub::submit(stream, std::move(op));
    return SUCCESS;
}

Segment* attach(const char* name, size_t bytes) {
    // Whoever comes first makes it; a new segment is all zero, which is the right start for every field.
    const int file = shm_open(name, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0) return perror("stub libnccl: shared memory"), nullptr;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return memory == MAP_FAILED ? nullptr : (Segment*)memory;
}

}   // namespace

STUB_API int ncclGetVersion(int* version) { return *version = 23000, SUCCESS; }
STUB_API const char* ncclGetErrorString(int code) { return code == REMOTE_ERROR ? "remote process exited or there was a network error" : "see the number"; }
STUB_API int ncclGetUniqueId(UniqueId* id) {
    memset(id, 0, sizeof *id);
    timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return snprintf(id->text, sizeof id->text, "/stub-nccl-%d-%ld", (int)getpid(), (long)t.tv_nsec), SUCCESS;
}

// Only what ncclConfig_t has had from its first version on.
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

STUB_API int ncclCommInitRankConfig(CommPtr** out, int ranks, UniqueId id, int rank, const Config* config) {
    if (ranks < 1 || ranks > RANKS || rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
    if (!config || config->magic != 0xcafebeef || config->size < sizeof(Config)) return INVALID_ARGUMENT;
    auto comm = std::make_shared<Comm>();
    comm->rank = rank;
    comm->ranks = ranks;
    comm->segment = attach(id.text, sizeof(Segment) + (size_t)ranks * WINDOW);
    if (!comm->segment) return SYSTEM_ERROR;
    auto meet = [comm, name = std::string(id.text)] {
        const bool complete = barrier(*comm, "ncclCommInitRankConfig");
        if (comm->rank == 0 || !complete) shm_unlink(name.c_str());   // all hold it now, or never will
        if (complete) comm->state = SUCCESS;
    };
    *out = new CommPtr(comm);
    if (config->blocking == 0) return std::thread(meet).detach(), IN_PROGRESS;
    return meet(), comm->state.load();
}
STUB_API int ncclCommGetAsyncError(CommPtr* comm, int* error) { return *error = (*comm)->state, SUCCESS; }
STUB_API int ncclCommFinalize(CommPtr* comm) {
    if ((*comm)->last_stream) stub::drain((*comm)->last_stream);
    return SUCCESS;
}
STUB_API int ncclCommDestroy(CommPtr* comm) { return delete comm, SUCCESS; }
STUB_API int ncclCommAbort(CommPtr* comm) {
    (*comm)->segment->failed = 1;
    (*comm)->state = REMOTE_ERROR;
    return delete comm, SUCCESS;
}
STUB_API int ncclGroupStart() { return group_depth++, SUCCESS; }
STUB_API int ncclGroupEnd() {
    if (group_depth == 0) return INVALID_USAGE;
    if (--group_depth > 0) return SUCCESS;
    auto ready = std::move(group);
    group.clear();
    for (auto& entry : ready) stub::submit(entry.first, std::move(entry.second));
    return SUCCESS;
}
STUB_API int ncclAllReduce(const void* send, void* receive, size_t count, int type, int reduction, CommPtr* comm, void* stream) {
    return reduction == 0 ? collective(comm, ALL_REDUCE, send, receive, count, type, stream) : INVALID_ARGUMENT;
}
STUB_API int ncclReduceScatter(const void* send, void* receive, size_t count, int type, int reduction, CommPtr* comm, void* stream) {
    return reduction == 0 ? collective(comm, REDUCE_SCATTER, send, receive, count, type, stream) : INVALID_ARGUMENT;
}
STUB_API int ncclAllGather(const void* send, void* receive, size_t count, int type, CommPtr* comm, void* stream) {
    return collective(comm, ALL_GATHER, send, receive, count, type, stream);
}
