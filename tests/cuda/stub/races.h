// races.h: operations on the same bytes that nothing orders, found when the later one has run. A copy, a product or a message
// says what it touches; of a kernel it is seen (touched.cpp), byte by byte: all tensors lie in one allocation.
//
// For each granule of 16 bytes: who wrote it last, and who of each stream has read it since. By vector clocks, so that it does not
// matter in which order the operations happened to run.
//
//   STUB_RACES=1       looks for them; the kernels must have been compiled with -DTOUCHED
#pragma once
#include <array>
#include <memory>
#include <set>
#include <unordered_map>

#include "memory.h"

namespace races {

using Clock = std::vector<uint64_t>;   // a vector clock: one entry a stream

constexpr uint64_t GRANULE = 16, PAGE = 4096, GRANULES = PAGE / GRANULE;
constexpr int STREAMS = 4;

struct Known {
    int stream;
    uint64_t tick;
    std::string text;
};

// Indices into `known`; 0: nobody.
struct Shadow {
    uint32_t writer = 0, readers[STREAMS] = {};
};

inline std::vector<Known> known(1);
inline std::unordered_map<uint64_t, std::unique_ptr<std::array<Shadow, GRANULES>>> pages;
inline std::set<std::pair<uint32_t, uint32_t>> told;

inline bool wanted() {
    static const bool wanted = stub::setting("STUB_RACES", "0") != "0";
    return wanted;
}

inline void look(int stream, const Clock& clock, const std::string& text, const std::vector<stub::Access>& accesses) {
    if (stream >= STREAMS) fprintf(stderr, "stub driver: RACES of more than %d streams are not looked for\n", STREAMS), abort();
    const uint32_t me = known.size();
    known.push_back({stream, clock[stream], text});
    auto against = [&](uint32_t other, uint64_t at) {
        const Known& before = known[other];
        if (other == 0 || (before.stream < (int)clock.size() && clock[before.stream] >= before.tick)) return;
        if (!told.insert({other, me}).second) return;
        fprintf(stderr, "stub driver: rank %d: RACE at %s: [%d] %s and [%d] %s: no event orders them\n", stub::rank(),
                memory::show(at).c_str(), before.stream, before.text.c_str(), stream, text.c_str());
    };
    for (const stub::Access& now : accesses) {
        if (now.bytes == 0 || !memory::find(now.at)) continue;
        for (uint64_t granule = now.at / GRANULE; granule <= (now.at + now.bytes - 1) / GRANULE; granule++) {
            auto& page = pages[granule / GRANULES];
            if (!page) page.reset(new std::array<Shadow, GRANULES>);
            Shadow& shadow = (*page)[granule % GRANULES];
            if (shadow.writer != me) against(shadow.writer, granule * GRANULE);
            if (now.write) {
                // Whoever races with a reader of before races with this write too, or comes after both.
                for (uint32_t& reader : shadow.readers) {
                    if (reader != me) against(reader, granule * GRANULE);
                    reader = 0;
                }
                shadow.writer = me;
            } else {
                shadow.readers[stream] = me;
            }
        }
    }
}

}   // namespace races
