// streams.h: streams are queues of operations; a wait for an event binds an operation of one to those of another. When
// queued work runs is chosen by STUB_ORDER:
//
//   eager      at once, in the order of the program
//   lazy       only when the host waits for it, and then only what that wait needs
//   reverse    when the host waits, of all work that may run, that of the youngest stream first
//   random:N   when the host waits, any work that may run, chosen with seed N
//
// A GPU may run work in any of these orders: events, the order within a stream and the host's waits are the only limits. So a
// missing event shows as NaN, or as other bits, in one of them.
//
//   STUB_FORGET=K,L    the K-th wait of a stream for an event (from 1; 0: none) is left out by rank 0, the L-th by rank 1, and so on
//   STUB_CLOCK=ops     an operation takes a millisecond, whatever it does, and nothing else takes any: times are counts
//   STUB_LOG=FILE      a line for each operation, and for each time that the host waits; %r in the name becomes the rank that the launcher gives
#pragma once
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "races.h"

namespace streams {

using races::Clock;

struct Op {
    uint64_t number;
    int stream;
    stub::Operation what;
    std::vector<std::shared_ptr<Op>> needs;   // work of other streams that must have run
    Clock clock;                              // what is certain to have run before, and itself
    bool done = false;
    double when = 0;                          // milliseconds, once it is done
};
using OpPtr = std::shared_ptr<Op>;

struct Stream {
    int id;
    std::deque<OpPtr> queue;
    OpPtr last;
    Clock clock;
};

inline std::mutex state;   // guards everything below, and memory.h
inline std::condition_variable changed;
inline bool executing = false, ended = false;
inline std::vector<std::unique_ptr<Stream>> all;
inline Clock host;         // what the host has waited for
inline uint64_t next_op = 1, waits = 0, seed = 1;
inline std::chrono::steady_clock::time_point last_call;
inline thread_local const Op* running = nullptr;   // for the message of a crash
inline thread_local std::vector<stub::Access> touched;   // by the kernel that runs

using Lock = std::unique_lock<std::mutex>;

inline const std::string& order() {
    static const std::string order = stub::setting("STUB_ORDER", "eager");
    return order;
}

inline void record(const std::string& line) {
    static FILE* const file = [] {
        std::string path = stub::setting("STUB_LOG", "");
        if (const size_t at = path.find("%r"); at != std::string::npos) path.replace(at, 2, std::to_string(stub::rank()));
        return path.empty() ? nullptr : fopen(path.c_str(), "w");
    }();
    if (!file) return;
    fprintf(file, "%s\n", line.c_str());
    fflush(file);   // the recording must survive a crash
}

inline void complain(const std::string& what) { fprintf(stderr, "stub driver: %s\n", what.c_str()); }

inline void join(Clock& into, const Clock& other) {
    if (into.size() < other.size()) into.resize(other.size());
    for (size_t i = 0; i < other.size(); i++) into[i] = std::max(into[i], other[i]);
}

inline double now() {
    static const bool counts = stub::setting("STUB_CLOCK", "") == "ops";
    static double passed = 0;
    if (counts) return passed++;
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The lock is released while an operation runs: a collective waits for other processes, and this one goes on submitting.
inline void execute(Lock& lock, OpPtr op) {
    executing = true;
    lock.unlock();
    running = op.get();
    touched.clear();
    if (op->what.run) op->what.run();
    running = nullptr;
    lock.lock();
    if (races::wanted()) {
        op->what.accesses.insert(op->what.accesses.end(), touched.begin(), touched.end());
        races::look(op->stream, op->clock, op->what.text, op->what.accesses);
    }
    op->done = true;
    op->when = now();
    op->needs.clear();
    op->what.run = nullptr;
    all[op->stream]->queue.pop_front();
    executing = false;
    changed.notify_all();
}

inline OpPtr missing(const Op& op) {
    for (const OpPtr& need : op.needs)
        if (!need->done) return need;
    return nullptr;
}

// What must run first on the way to `goal`.
inline OpPtr towards(OpPtr goal) {
    for (;;) {
        OpPtr head = all[goal->stream]->queue.front();
        OpPtr need = missing(*head);
        if (!need) return head;
        goal = need;
    }
}

inline OpPtr choose(OpPtr goal) {
    if (order() == "eager" || order() == "lazy") return towards(goal);
    std::vector<OpPtr> heads;
    for (auto& stream : all)
        if (!stream->queue.empty() && !missing(*stream->queue.front())) heads.push_back(stream->queue.front());
    if (order() == "reverse") return heads.back();
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return heads[(seed >> 33) % heads.size()];
}

inline void complete(Lock& lock, OpPtr goal) {
    while (goal && !goal->done) {
        if (executing) changed.wait(lock);
        else execute(lock, choose(goal));
    }
}

// Whatever the host submits from now on comes after `op`. A line tells of each wait, by the call that it is for and how much lies
// behind the operation in its stream: unless the host has waited for something later, and so would not on any GPU.
inline void host_waits(Lock& lock, OpPtr op, const char* call) {
    if (!op) return;
    const size_t stream = op->stream;
    if (stream >= host.size() || host[stream] < op->clock[stream]) {
        const uint64_t behind = all[stream]->clock[stream] - op->clock[stream];
        record("host waits: " + std::string(call) + " for [" + std::to_string(stream) + "], " + std::to_string(behind) + " operations ago");
    }
    complete(lock, op);
    join(host, op->clock);
}

inline OpPtr enqueue(Lock& lock, Stream* stream, stub::Operation what, OpPtr awaited = nullptr) {
    last_call = std::chrono::steady_clock::now();
    auto op = std::make_shared<Op>();
    op->number = next_op++;
    op->stream = stream->id;
    op->what = std::move(what);
    if (awaited) {
        join(stream->clock, awaited->clock);
        if (!awaited->done) op->needs.push_back(awaited);
    }
    join(stream->clock, host);
    if (stream->clock.size() <= (size_t)stream->id) stream->clock.resize(stream->id + 1);
    stream->clock[stream->id]++;
    op->clock = stream->clock;
    record("[" + std::to_string(stream->id) + "] " + op->what.text);
    stream->queue.push_back(op);
    stream->last = op;
    if (order() == "eager") complete(lock, op);
    return op;
}

inline void wait_for(Lock& lock, Stream* stream, OpPtr awaited) {
    static const uint64_t forget = [] {
        std::string mine = stub::setting("STUB_FORGET", "0");
        for (int before = stub::rank(); before > 0; before--) {
            const size_t comma = mine.find(',');
            mine = comma == std::string::npos ? "0" : mine.substr(comma + 1);
        }
        return strtoull(mine.c_str(), nullptr, 10);
    }();
    if (++waits == forget || !awaited) return;
    enqueue(lock, stream, {"wait for [" + std::to_string(awaited->stream) + "]", {}, nullptr}, awaited);
}

inline void drain(Lock& lock) {
    for (size_t i = 0; i < all.size(); i++) host_waits(lock, all[i]->last, "all");
}

inline Stream* of(void* handle) { return handle ? (Stream*)handle : all[0].get(); }

// A GPU works on while the host does something else, say waits in MPI for a rank whose collective needs ours: queued work
// starts by itself once the host has submitted nothing for a while.
inline void keep_going() {
    using namespace std::chrono;
    for (;;) {
        std::this_thread::sleep_for(milliseconds(5));
        Lock lock(state);
        if (ended) return;
        for (size_t i = 0; i < all.size() && !executing && steady_clock::now() - last_call > milliseconds(20); i++)
            if (!all[i]->queue.empty()) execute(lock, towards(all[i]->queue.front()));
    }
}

inline void start() {
    static std::once_flag once;
    std::call_once(once, [] {
        all.emplace_back(new Stream{0, {}, nullptr, {}});
        last_call = std::chrono::steady_clock::now();
        if (order().rfind("random:", 0) == 0) seed = 2 * strtoull(order().c_str() + 7, nullptr, 10) + 1;
        if (order() != "eager") std::thread(keep_going).detach();
        atexit([] {   // before what is above goes away
            Lock lock(state);
            ended = true;
        });
    });
}

}   // namespace streams
