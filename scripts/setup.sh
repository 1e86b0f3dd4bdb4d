#!/usr/bin/env bash
# Finds what the build needs: MPI, libclang (bindings to MPI), HDF5, pkg-config. Sourced by the other scripts.
# On Debian and Ubuntu, as root or with sudo, it installs what is missing; elsewhere it names the packages or the
# environment modules to load and ends with exit code 2.

missing=()
have() { command -v "$1" >/dev/null 2>&1; }

have cargo || { echo "setup: cargo is missing; install Rust 1.89 or newer from https://rustup.rs or load a Rust module" >&2; exit 2; }
have cc || have gcc || missing+=(gcc libc6-dev)
[ -z "${TESTS:-}" ] || have g++ || missing+=(g++) # the kernels run on the CPU
if [ -n "${TESTS:-}" ] && [ "$(id -u)" -eq 0 ] && have apt-get; then # the jobs' tests run a real Slurm, which needs root
    [ -x /usr/sbin/slurmctld ] && [ -x /usr/sbin/slurmd ] || missing+=(slurm-wlm)
    [ -x /usr/sbin/munged ] || missing+=(munge)
    have shellcheck || missing+=(shellcheck)
    have jube || missing+=(jube)
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
fi
have pkg-config || missing+=(pkg-config)
have mpicc && have mpirun || missing+=(libopenmpi-dev openmpi-bin)
# libclang, and the headers that it reads C with.
any() { for pattern; do compgen -G "$pattern" >/dev/null && return 0; done; return 1; }
have ldconfig || PATH=$PATH:/usr/sbin:/sbin
libclang() { any "/usr/lib/llvm-*/lib/libclang*.so*" "/usr/lib/*/libclang*.so*" "/usr/lib64/libclang*.so*" || ldconfig -p 2>/dev/null | grep libclang >/dev/null; }
headers() { any "/usr/lib/llvm-*/lib/clang/*/include/stddef.h" "/usr/lib*/clang/*/include/stddef.h"; }
[ -n "${LIBCLANG_PATH:-}" ] || have clang || { libclang && headers; } || missing+=(libclang-dev clang)
if [ -n "${HDF5_DIR:-}" ] && [ ! -f "$HDF5_DIR/include/hdf5.h" ]; then
    echo "setup: HDF5_DIR: expected a folder with include/hdf5.h, found none in $HDF5_DIR" >&2
    exit 2
fi
[ -n "${HDF5_DIR:-}" ] || pkg-config --exists hdf5 2>/dev/null || pkg-config --exists hdf5-serial 2>/dev/null ||
    have h5cc || missing+=(libhdf5-dev)
# Only for tests, and only where they can be installed: elsewhere those tests say that they were left out.
for_tests() { [ -n "${TESTS:-}" ] && [ "$(id -u)" -eq 0 ] && have apt-get; }
if for_tests; then
    have mpicc.mpich && have mpirun.mpich || missing+=(mpich libmpich-dev)
    [ -d /usr/share/lmod ] || missing+=(lmod)
    have zstd || missing+=(zstd)
    have pgrep || missing+=(procps)
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi

if [ ${#missing[@]} -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then have sudo && sudo -n true 2>/dev/null && as_root=(sudo) || as_root=(false); fi
    if have apt-get && [ "${as_root[0]:-}" != false ]; then
        echo "setup: installing ${missing[*]}"
        "${as_root[@]}" apt-get update -qq
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "setup: missing here: ${missing[*]} (Debian's names)." >&2
        echo "setup: install them, or on a cluster load modules such as:  module load openmpi hdf5 llvm" >&2
        exit 2
    fi
fi

# Open MPI refuses root and more ranks than cores unless told; ranks that wait must leave the cores to the others.
if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
