#!/usr/bin/env bash
# Builds the kernels of a folder of sources for the CPU, as a library that launches them by name (hostsim.h).
#   kernels.sh SRC_OPS OUT.so [flags of g++]
set -euo pipefail
ops=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
text=${out%.so}.cpp

# One text: what all files stand on, the files, and a line for each kernel with its launch bound.
files=("$ops/prelude.cu" "$ops/attention/tiles.cu")
while read -r file; do files+=("$file"); done < <(find "$ops" -name '*.cu' ! -name prelude.cu ! -name tiles.cu | LC_ALL=C sort)
files+=("$here/probes.cu")
{
    echo "#define HOSTSIM"
    for file in "${files[@]}"; do
        printf '#line 1 "%s"\n' "$file"
        cat "$file"
    done
    cat "${files[@]}" | tr '\n' ' ' | grep -oE 'extern "C" __global__ void +(__launch_bounds__\([0-9]+[^)]*\) +)?[a-z0-9_]+\(' |
        sed -E 's/.*void +(__launch_bounds__\(([0-9]+)[^)]*\) +)?([a-z0-9_]+)\(/REGISTER(\3, \2)/; s/, \)/, 1024)/'
} >"$text"
# An access that a GPU would refuse, at an address that is not a multiple of its size, ends the process.
aligned="-fsanitize=alignment -fsanitize-undefined-trap-on-error"
# shellcheck disable=SC2086
exec "${CXX:-g++}" -std=c++17 -O1 -g1 -fPIC -shared -fno-gnu-unique -fvisibility=hidden $aligned -Wall -Wno-sign-compare -Wno-unknown-pragmas \
    -Wno-unused-function -Wno-unused-variable -I"$here" "${@:3}" "$text" -o "$out"
