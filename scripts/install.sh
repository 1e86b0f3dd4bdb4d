#!/usr/bin/env bash
# Builds llm-train and installs it, one installation for each MPI library:
#
#   scripts/install.sh --prefix DIR [--depends "openmpi/4.1 hdf5"] [--target-cpu NAME] [--static-hdf5] [--embed-cubin]
#                      [--offline ARCHIVE] [--program FILE]
#
#   DIR/bin/llm-train                            the program
#   DIR/share/man/man1/                          man pages; beside them completions for bash, zsh and fish
#   DIR/share/llm-train/{jobs,data}              example jobs, the corpus that ships and its tokenizer; beside them plot_metrics.py
#   DIR/modulefiles/llm-train/VERSION[.lua]      for  module use DIR/modulefiles  (Lmod, and Environment Modules)
#
# --depends "A B"    modules that the modulefile loads with it: those of the MPI and HDF5 libraries built against
# --target-cpu NAME  compiles all code for this processor (rustc's names: native, znver3, sapphirerapids, …). Without it the program
#                    runs on any processor of the architecture and picks its kernels at run time: one installation serves all nodes
# --static-hdf5      builds HDF5 from source into the program, for sites without a usable one (needs CMake 3.26)
# --embed-cubin      puts GPU kernels for A100, H100 and B200 into the program, so that nodes need no NVRTC (this machine needs it)
# --offline ARCHIVE  crates from the archive that scripts/vendor.sh made: no network is asked for
# --program FILE     installs this program, built before, and builds nothing: needs neither Rust nor any of what a build needs
#
# MPICC names the MPI compiler (mpicc.mpich), HDF5_DIR the HDF5 to build against, CARGO_TARGET_DIR the folder to build in.
set -euo pipefail

usage() {
    sed -n '2,23s/^# \{0,1\}//p' "$0"
}
refuse() {
    echo "install: $*" >&2
    exit 2
}

prefix="" depends="" target_cpu="" archive="" features=() embed="" program=""
while [ $# -gt 0 ]; do
    case "$1" in
        --prefix | --depends | --target-cpu | --offline | --program)
            [ $# -ge 2 ] || refuse "$1 needs a value"
            option=$1 value=$2
            shift 2
            ;;
        --prefix=* | --depends=* | --target-cpu=* | --offline=* | --program=*) option=${1%%=*} value=${1#*=} && shift ;;
        --static-hdf5) option=$1 && shift ;;
        --embed-cubin) option=$1 && shift ;;
        -h | --help) usage && exit 0 ;;
        *) refuse "expected --prefix, --depends, --target-cpu, --static-hdf5, --embed-cubin, --offline or --program, found $1" ;;
    esac
    case "$option" in
        --prefix) prefix=$value ;;
        --depends) depends=$value ;;
        --target-cpu) target_cpu=$value ;;
        --offline) archive=$value ;;
        --program) program=$value ;;
        --static-hdf5) features=(--features static-hdf5) ;;
        --embed-cubin) embed=1 ;;
    esac
done
[ -n "$prefix" ] || refuse "--prefix DIR is missing"
[ -z "$archive" ] || [ -r "$archive" ] || refuse "--offline $archive: expected the archive that scripts/vendor.sh made, found no such file"
if [ -n "$program" ]; then
    of_ours() { [ -f "$program" ] && [ -x "$program" ] && case $("$program" -V 2>/dev/null) in "llm-train "*) ;; *) false ;; esac; }
    case $program in */*) ;; *) program=./$program ;; esac
    of_ours || refuse "--program ${program#./}: expected a program, an llm-train that was built before, found none"
fi
if ! mkdir -p "$prefix" || [ ! -w "$prefix" ]; then refuse "$prefix cannot be written"; fi
prefix=$(cd "$prefix" && pwd)
[ -z "$program" ] || program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
[ -z "$archive" ] || archive=$(cd "$(dirname "$archive")" && pwd)/$(basename "$archive")

cd "$(dirname "$0")/.."
umask 022 # what is installed is for everyone on the machine
# A program that was built before takes nothing to build.
# shellcheck source=scripts/setup.sh
[ -n "$program" ] || source scripts/setup.sh

if [ ${#features[@]} -gt 0 ] && [ -z "$program" ]; then
    found=$("${CMAKE:-cmake}" --version 2>/dev/null | awk 'NR == 1 { print $3 }') || true # none
    [ "$(printf '%s\n' 3.26 "${found:-0}" | sort -V | head -n 1)" = 3.26 ] ||
        refuse "--static-hdf5: expected CMake 3.26 or newer, found ${found:-none}; load a module, or: pip install cmake, and CMAKE=…/bin/cmake"
fi
target=${CARGO_TARGET_DIR:-$PWD/target}
sources=()
if [ -n "$archive" ] && [ -z "$program" ]; then
    # The crates alone: what is built is what lies here. Cargo refuses where the two do not fit (--locked).
    mkdir -p "$target/vendored"
    tar xf "$archive" -C "$target/vendored" --strip-components 1 --wildcards '*/vendor'
    sources=(--offline --config 'source.crates-io.replace-with="vendored"' --config "source.vendored.directory=\"$target/vendored/vendor\"")
fi
if [ -n "$target_cpu" ] && [ -z "$program" ]; then
    rustc --print target-cpus | awk -v name="$target_cpu" '$1 == name { found = 1 } END { exit !found }' ||
        refuse "--target-cpu: expected a name of rustc --print target-cpus, found $target_cpu"
    export RUSTFLAGS="${RUSTFLAGS:-} -C target-cpu=$target_cpu"
fi

# Cargo does not notice that another wrapper, which is another library, is to be built against.
if [ -z "$program" ]; then
    wrapper() { readlink -f "$(command -v "$1")" || true; }
    mpi=$(wrapper "${MPICC:-mpicc}")
    [ -n "$mpi" ] || refuse "MPICC: expected MPI's compiler, found no ${MPICC:-mpicc}"
    built_with=$(cat "$target/mpicc" 2>/dev/null || wrapper mpicc)
    if [ -d "$target/release" ] && [ "$mpi" != "$built_with" ]; then
        cargo clean --quiet --release "${sources[@]}" -p mpi-sys
    fi
    mkdir -p "$target"
    echo "$mpi" >"$target/mpicc"
fi

build() { cargo build --release --locked --bin llm-train "${sources[@]}" "${features[@]}"; }
[ -n "$program" ] || build
built=$target/release/llm-train
if [ -n "$embed" ] && [ -z "$program" ]; then
    # The program compiles the kernels that it holds as text, and is built again around what came out.
    cubins=$target/cubins
    rm -rf "$cubins"
    if ! "$built" compile-kernels --to "$cubins" >/dev/null 2>&1; then
        nvrtc=$(scripts/cuda-wheels.sh) || refuse "--embed-cubin: NVRTC was not found: load a CUDA module, or put its folder into LD_LIBRARY_PATH"
        LD_LIBRARY_PATH=$nvrtc${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$built" compile-kernels --to "$cubins" >/dev/null
    fi
    LLM_TRAIN_CUBINS=$cubins build
fi
program=${program:-$built}
version=$("$program" -V | awk '{ print $2 }')

install -D -m 755 "$program" "$prefix/bin/llm-train"
"$prefix/bin/llm-train" install-pages --to "$prefix" >/dev/null
share=$prefix/share/llm-train
mkdir -p "$share"
cp -R jobs data "$share/"
install -m 755 scripts/plot_metrics.py "$share/"

modulefiles=$prefix/modulefiles/llm-train
mkdir -p "$modulefiles"
lua="" tcl=""
for module in $depends; do
    lua="$lua${lua:+, }\"$module\""
    tcl="$tcl $module"
done
# A prefix may hold what sed would take for its own: & \ and |.
quoted=$(printf '%s' "$prefix" | sed 's/[&\\|]/\\&/g')
sed -e "s|@PREFIX@|$quoted|" -e "s|^--@DEPENDS@\$|${lua:+depends_on($lua)}|" modules/llm-train/modulefile.lua >"$modulefiles/$version.lua"
sed -e "s|@PREFIX@|$quoted|" -e "s|@VERSION@|$version|" -e "s|@DEPENDS@|${tcl# }|" modules/llm-train/modulefile.tcl >"$modulefiles/$version"

echo "installed llm-train $version:"
echo "  $prefix/bin/llm-train"
echo "  $prefix/share/man, and completions for bash, zsh and fish"
echo "  $share/jobs $share/data $share/plot_metrics.py"
echo "  $modulefiles/$version.lua and $version   (module use $prefix/modulefiles)"
