// cubin.h: what a driver reads from a binary (an ELF file) about its kernels: parameters, registers, launch bounds. The
// numbers are those of the `.nv.info` sections, which `cuobjdump -elf` prints; NVIDIA does not document them.
#pragma once
#include <elf.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

struct Kernel {
    std::string name;
    std::vector<size_t> parameters;   // bytes of each
    unsigned registers = 0, bound = 1024;
    unsigned shared = 48 * 1024;      // the most dynamic shared memory of a launch; raised by cuFuncSetAttribute
};

namespace cubin {

template <class T>
T load(const uint8_t* p) {
    T value;
    memcpy(&value, p, sizeof value);
    return value;
}

// visit(attribute, payload, bytes) for each attribute of a section.
template <class Visit>
void each_attribute(const uint8_t* p, const uint8_t* end, Visit visit) {
    constexpr uint8_t SIZED = 0x04;   // a payload follows; otherwise 16 bits of value and nothing else
    while (p + 4 <= end) {
        const uint16_t bytes = p[0] == SIZED ? load<uint16_t>(p + 2) : 0;
        visit(p[1], p + 4, bytes);
        p += 4 + bytes;
    }
}

inline std::map<std::string, Kernel> read(const void* data) {
    std::map<std::string, Kernel> kernels;
    if (memcmp(data, ELFMAG, SELFMAG) != 0) return kernels;
    const auto* image = (const uint8_t*)data;
    const auto* header = (const Elf64_Ehdr*)image;
    const auto* sections = (const Elf64_Shdr*)(image + header->e_shoff);
    const char* names = (const char*)image + sections[header->e_shstrndx].sh_offset;
    const Elf64_Sym* symbols = nullptr;
    const char* symbol_names = nullptr;
    auto each = [&](const char* prefix, auto visit) {
        for (int i = 0; i < header->e_shnum; i++) {
            const std::string name = names + sections[i].sh_name;
            if (name.rfind(prefix, 0) == 0) visit(name.substr(strlen(prefix)), image + sections[i].sh_offset, sections[i]);
        }
    };
    each(".text.", [&](const std::string& name, const uint8_t*, const Elf64_Shdr&) { kernels[name].name = name; });
    each(".symtab", [&](const std::string&, const uint8_t* at, const Elf64_Shdr& section) {
        symbols = (const Elf64_Sym*)at;
        symbol_names = (const char*)image + sections[section.sh_link].sh_offset;
    });
    each(".nv.info.", [&](const std::string& name, const uint8_t* at, const Elf64_Shdr& section) {
        each_attribute(at, at + section.sh_size, [&](uint8_t attribute, const uint8_t* payload, uint16_t bytes) {
            constexpr uint8_t MAX_THREADS = 0x05, PARAMETER = 0x17;
            if (bytes < 12) return;
            Kernel& kernel = kernels[name];
            if (attribute == PARAMETER) {
                const size_t ordinal = load<uint16_t>(payload + 4);
                if (kernel.parameters.size() <= ordinal) kernel.parameters.resize(ordinal + 1);
                kernel.parameters[ordinal] = load<uint32_t>(payload + 8) >> 18 & 0x3fff;
            }
            if (attribute == MAX_THREADS) kernel.bound = load<uint32_t>(payload) * load<uint32_t>(payload + 4) * load<uint32_t>(payload + 8);
        });
    });
    each(".nv.info", [&](const std::string& rest, const uint8_t* at, const Elf64_Shdr& section) {
        if (!rest.empty() || !symbols) return;
        each_attribute(at, at + section.sh_size, [&](uint8_t attribute, const uint8_t* payload, uint16_t bytes) {
            constexpr uint8_t REGISTERS = 0x2f;   // symbol number, registers
            if (attribute != REGISTERS || bytes < 8) return;
            const auto found = kernels.find(symbol_names + symbols[load<uint32_t>(payload)].st_name);
            if (found != kernels.end()) found->second.registers = load<uint32_t>(payload + 4);
        });
    });
    return kernels;
}

}   // namespace cubin
