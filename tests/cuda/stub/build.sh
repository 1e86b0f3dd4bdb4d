#!/usr/bin/env bash
# Builds the stub driver, cuBLASLt, NCCL, NVML, a profiler and a compute-sanitizer into a folder, under the names that the program's loaders look for.
#   build.sh FOLDER     nothing is done where the folder is made of just these sources
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/cuda/kept.sh
source "$here/../kept.sh"
mkdir -p "$out"
key=$(key "$here"/*.{sh,cpp,h} "$here/compute-sanitizer" --)
! kept "$out/libcuda.so.1" "$key" || exit 0
library() { # NAME SOURCE [more flags]
    "${CXX:-g++}" -std=c++17 -O3 -g1 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Wl,-soname,"$1" -o "$out/$1" "$here/$2" "${@:3}"
}
library libcuda.so.1 libcuda.cpp -ldl -lpthread
library libcublasLt.so.13 libcublaslt.cpp "$out/libcuda.so.1" -Wl,-rpath,'$ORIGIN' &
library libnccl.so.2 libnccl.cpp "$out/libcuda.so.1" -Wl,-rpath,'$ORIGIN' -lrt -lpthread &
library libnvidia-ml.so.1 libnvidia-ml.cpp &
library libprofiler.so libprofiler.cpp &
for job in $(jobs -p); do wait "$job"; done # one that fails ends this
cp "$here/compute-sanitizer" "$out/"
keep "$out/libcuda.so.1" "$key"
