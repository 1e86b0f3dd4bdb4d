#!/usr/bin/env bash
# Builds the kernels of a folder of sources for the CPU, as a library that launches them by name (hostsim.h).
#   kernels.sh SRC_OPS OUT.so [flags of g++]
# With -DTOUCHED a launch also tells which bytes it has touched (touched.cpp). Nothing is done where OUT.so is made of just this.
set -euo pipefail
ops=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/cuda/kept.sh
source "$here/kept.sh"
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
key=$(key "$text" "$here"/{hostsim.h,touched.cpp,kernels.sh} -- "${@:3}")
! kept "$out" "$key" || exit 0
# An access that a GPU would refuse, at an address that is not a multiple of its size, ends the process.
aligned="-fsanitize=alignment -fsanitize-undefined-trap-on-error"
common="-std=c++17 -O1 -g1 -fPIC -fno-gnu-unique -fvisibility=hidden $aligned -Wall -Wno-sign-compare -Wno-unknown-pragmas
    -Wno-unused-function -Wno-unused-variable"
# shellcheck disable=SC2086 # several flags
case " ${*:3} " in
    *" -DTOUCHED "*)
        "${CXX:-g++}" $common -fsanitize=thread -I"$here" "${@:3}" -c "$text" -o "${out%.so}.o"
        "${CXX:-g++}" -std=c++17 -O2 -g1 -fPIC -fvisibility=hidden -Wall -c "$here/touched.cpp" -o "${out%.so}-touched.o"
        "${CXX:-g++}" -shared "${out%.so}.o" "${out%.so}-touched.o" -o "$out"
        ;;
    *) "${CXX:-g++}" $common -shared -I"$here" "${@:3}" "$text" -o "$out" ;;
esac
keep "$out" "$key"
