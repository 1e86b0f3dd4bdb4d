#!/usr/bin/env python3
"""Compiles every kernel file with NVRTC, no GPU needed, and prints what each kernel takes of a multiprocessor.

    kernel-table.py FOLDER [FILE.cu ...]     FOLDER: where the wheel nvidia-cuda-nvrtc lies

Exit status 1 where a kernel spills registers, has a stack frame, makes no 16-byte access although it takes
pointers to rows, or does not say how it is launched.
"""
import ctypes
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ARCHITECTURES = ["sm_80", "sm_90a", "sm_100a"]
OPS = Path(__file__).resolve().parent.parent / "src" / "ops"
# What stands before every kernel file.
SHARED = [OPS / "prelude.cu", OPS / "attention" / "tiles.cu"]
# Kernels whose work is a few numbers or a gather of 4-byte sums: no access of 16 bytes to be had.
NARROW = {"sum_losses", "sum_partials", "judge", "post", "column_reduce", "sample"}
OPTIONS = ["--std=c++17", "--ptxas-options=-v", "--ptxas-options=-warn-spills"]
# Indexes by what only the data know: the array cannot lie in registers.
PLANTED = """extern "C" __global__ void planted(int* x) {
    int kept[64];
    for (int i = 0; i < 64; i++) kept[x[i] & 63] = i;
    x[threadIdx.x] = kept[x[threadIdx.x] & 63];
}"""


class Nvrtc:
    def __init__(self, folder):
        found = sorted(Path(folder).glob("nvidia/*/lib/libnvrtc.so.*"))
        if not found:
            sys.exit(f"kernel-table: no libnvrtc.so.* under {folder}/nvidia/*/lib; scripts/cuda-check.sh installs it there")
        self.lib = ctypes.CDLL(str(found[0]))
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        status = getattr(self.lib, name)(*arguments)
        if status:
            raise RuntimeError(f"{name}: {self.lib.nvrtcGetErrorString(status).decode()}")

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def text(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        room = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, room)
        return room.raw[: size.value].rstrip(b"\0").decode(errors="replace")

    def compile(self, source, name, options):
        """(PTX, the log with ptxas' report)"""
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        try:
            array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
            status = self.lib.nvrtcCompileProgram(program, len(options), array)
            log = self.text(program, "ProgramLog")
            if status:
                sys.exit(f"kernel-table: {name} does not compile ({' '.join(options)})\n{log}")
            return self.text(program, "PTX"), log
        finally:
            self.lib.nvrtcDestroyProgram(ctypes.byref(program))


def resources(log):
    """What ptxas reports of each kernel: registers, static shared memory, stack, spills."""
    kernels, name = {}, None
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found.group(1)
            kernels[name] = dict(registers=0, shared=0, stack=0, stores=0, loads=0)
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernels[name].update(zip(("stack", "stores", "loads"), map(int, found.groups())))
        elif found := re.search(r"Used (\d+) registers", line):
            kernels[name]["registers"] = int(found.group(1))
            if found := re.search(r"(\d+) bytes smem", line):
                kernels[name]["shared"] = int(found.group(1))
    return kernels


def wide_accesses(ptx):
    """Of each kernel, how many instructions move 16 bytes to or from memory at once."""
    counts = {}
    for part in ptx.split(".entry ")[1:]:
        name = re.match(r"\w+", part).group(0)
        counts[name] = len(re.findall(r"\b(?:ld|st)\.(?:global|shared)[.\w]*\.v4|cp\.async\.cg|ldmatrix", part))
    return counts


def launches(source):
    """What the comment before each kernel says after `grid`. One comment may serve the kernels of a whole file."""
    said = {}
    for found in re.finditer(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(', source):
        grids = re.findall(r"//.*?\bgrid (.*)", source[: found.start()])
        said[found.group(1)] = grids[-1] if grids else None
    return said


def main():
    nvrtc = Nvrtc(sys.argv[1])
    files = [Path(f).resolve() for f in sys.argv[2:]] or sorted(p for p in OPS.rglob("*.cu") if p not in SHARED)
    shared = "".join(p.read_text() for p in SHARED)
    print(f"NVRTC {nvrtc.version()}")
    print(f"{'':8} {'kernel':22} {'registers':>9} {'shared':>7} {'stack':>6} {'spills':>7} {'16 B':>5}  launch")
    wrong, kernels = [], 0
    _, log = nvrtc.compile(PLANTED, "planted.cu", OPTIONS + [f"--gpu-architecture={ARCHITECTURES[0]}"])
    if not resources(log)["planted"]["stack"]:
        wrong.append("a kernel with a stack, planted to see this check fail, is reported to have none")

    def compiled(arch, file):
        source = file.read_text()
        options = OPTIONS + [f"--gpu-architecture={arch}"]
        ptx, log = nvrtc.compile(shared + source, str(file.relative_to(OPS)), options)
        # The same text with float activations must compile too, cleanly.
        of_floats = "" if "bf16 only" in source else nvrtc.compile(shared + source, file.name, options + ["-DREAL=float"])[1]
        return source, ptx, log, of_floats

    pairs = [(arch, file) for arch in ARCHITECTURES for file in files]
    # Calls of NVRTC leave Python's lock, so files are compiled side by side.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (arch, file), (source, ptx, log, of_floats) in zip(pairs, pool.map(compiled, *zip(*pairs))):
            wrong += [f"{arch} {line}" for line in log.splitlines() if "warning" in line]
            wide, said = wide_accesses(ptx), launches(source)
            if said.keys() != resources(log).keys():
                wrong.append(f"{file.name}: {sorted(said)} in the source, {sorted(resources(log))} compiled")
            for name, r in resources(log).items():
                kernels += arch == ARCHITECTURES[0]
                spills = f"{r['stores']}/{r['loads']}"
                print(f"{arch:8} {name:22} {r['registers']:9} {r['shared']:7} {r['stack']:6} {spills:>7} {wide[name]:5}  {said[name]}")
                if r["stack"] or r["stores"] or r["loads"]:
                    wrong.append(f"{arch} {name}: stack of {r['stack']} bytes, spills {spills}")
                if not wide[name] and name not in NARROW:
                    wrong.append(f"{arch} {name}: no access of 16 bytes")
                if not said[name]:
                    wrong.append(f"{name}: its comment does not say `grid`")
            for name, r in resources(of_floats).items():
                if r["stack"] or r["stores"] or r["loads"]:
                    wrong.append(f"{arch} {name} of floats: stack of {r['stack']} bytes, spills {r['stores']}/{r['loads']}")
    print("\n".join(wrong) or f"{kernels} kernels for {', '.join(ARCHITECTURES)}: no spills, no stack")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
