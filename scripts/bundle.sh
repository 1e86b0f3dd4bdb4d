#!/usr/bin/env bash
# Makes a folder that holds llm-train and every library it needs but the C library and the driver, to be copied to the nodes' own
# disks: a thousand ranks then read nothing of it from the shared file system.
#
#   scripts/bundle.sh [--program FILE] [--gpu-check] DIR        also writes DIR.tar, with --gpu-check DIR.tar.gz
#
#   DIR/bin/llm-train        start this one: it tells the loader and MPI where they are, wherever DIR lies
#   DIR/bin/mpirun           of Open MPI, for a machine that has none
#   DIR/bin/gpu-check        with --gpu-check: what only a GPU can show (scripts/gpu-check.sh); its tests and data lie in DIR/check
#   DIR/lib                  libraries; Open MPI's, UCX's and libfabric's plugins too, since those are loaded by name
#   DIR/share/openmpi, DIR/etc/openmpi        what Open MPI says when something goes wrong; its settings
#
# FILE is target/release/llm-train unless given. The bundle holds the MPI library of this machine: make it where the program was
# built, for a cluster of the same kind. CUDA's libraries are the node's (LD_LIBRARY_PATH), unless --with-libraries "FILE …" adds them.
set -euo pipefail
refuse() { echo "bundle: $*" >&2; exit 2; }

program="" out="" more="" checks=""
while [ $# -gt 0 ]; do
    case "$1" in
        --program) program=${2:?bundle: --program needs a value} && shift 2 ;;
        --with-libraries) more=${2:?bundle: --with-libraries needs a value} && shift 2 ;;
        --gpu-check) checks=yes && shift ;;
        -h | --help) sed -n '2,16s/^# \{0,1\}//p' "$0" && exit 0 ;;
        -*) refuse "expected --program FILE, --gpu-check, --with-libraries or a folder, found $1" ;;
        *) out=$1 && shift ;;
    esac
done
[ -n "$out" ] || refuse "expected the folder to make, found none"
root=$(cd "$(dirname "$0")/.." && pwd)
program=${program:-$root/target/release/llm-train}
[ -x "$program" ] || refuse "$program: expected the program; cargo build --release makes it"
[ ! -e "$out" ] || [ -z "$(ls -A "$out")" ] || refuse "$out: expected an empty folder or none"
mkdir -p "$out/bin" "$out/lib" "$out/libexec"
out=$(cd "$out" && pwd)
install -m 755 "$program" "$out/libexec/llm-train"

# Libraries of the system's C library and of the GPU's driver belong to the node.
nodes_own='/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util|nsl|anl|cuda|nvidia-[^/]*))\.so[^/]*$'
needed_by() { # FILE…: the libraries that the loader finds for them
    local found
    found=$(ldd "$@" 2>/dev/null || true)
    awk '$2 == "=>" && $3 ~ /^\// { print $3 }' <<<"$found" | sort -u | grep -Ev "$nodes_own" || true
}
export PATH=$PATH:/usr/sbin:/sbin # ldconfig's, which a user's own path may lack
place() { # NAME: where the loader finds the library. It reads to the end: who writes into a closed pipe dies, and the script with it.
    ldconfig -p | awk -v name="$1" '!found && $1 == name { found = 1; print $NF }'
}
take() { # FILE…: into lib, under the name that it is asked for by
    local file
    for file in "$@"; do [ -e "$out/lib/$(basename "$file")" ] || install -m 644 "$file" "$out/lib/$(basename "$file")"; done
}
plugins() { # FOLDER as it lies here, FOLDER of the bundle, [PATTERN]: its plugins, and what they need
    local file
    [ -d "$1" ] || return 0
    mkdir -p "$2"
    for file in "$1"/${3:-*.so}; do
        [ -e "$file" ] || continue
        install -m 644 "$file" "$2/"
        # shellcheck disable=SC2046
        take $(needed_by "$file")
    done
}

missing=$(ldd "$program" | awk '/not found/ { print $1 }' | paste -sd ' ')
[ -z "$missing" ] || refuse "$program: the loader does not find $missing; load the modules that it was built with"
# shellcheck disable=SC2046
take $(needed_by "$program")
for file in $more; do
    take "$file"
    # shellcheck disable=SC2046
    take $(needed_by "$file")
done

executables=""
if [ -n "$checks" ]; then
    # The tests' executables, and what they read. Their debugging lines stay behind: what travels may have to be small.
    built=$(cd "$root" && cargo test --release --no-run --test cuda_device --test cuda_kernels 2>&1) || refuse "the tests cannot be built: $built"
    for name in cuda_device cuda_kernels; do
        file=$(sed -n "s/^ *Executable tests\/$name\/main.rs (\(.*\))$/\1/p" <<<"$built")
        [ -x "$root/$file" ] || [ -x "$file" ] || refuse "cargo: expected the executable of $name, found none in: $built"
        [ -x "$file" ] || file=$root/$file
        mkdir -p "$out/check"
        install -m 755 "$file" "$out/libexec/$name"
        # shellcheck disable=SC2046
        take $(needed_by "$file")
        executables+=" check/$name"
    done
    for file in llm-train cuda_device cuda_kernels; do strip --strip-debug "$out/libexec/$file"; done
    (cd "$root" && find src/ops -name '*.cu' -print0 && printf '%s\0' tests/cuda/probes.cu tests/fixtures/corpora/kjv_nanogpt.bin &&
        find tests/golden -type f -print0) | (cd "$root" && tar c --null -T - -f -) | tar x -C "$out/check" -f -
    install -m 755 "$root/scripts/gpu-check.sh" "$out/bin/gpu-check"
fi

environment=""
mpi=$(ldd "$program" | awk '/libmpi\.so/ { print $3 }')
if [ -n "$mpi" ] && strings_of=$(grep -ac OPAL_PREFIX "$(dirname "$mpi")"/libopen-pal.so* 2>/dev/null | grep -v ':0' || true) && [ -n "$strings_of" ]; then
    # Open MPI. Its folders, as it knows them itself; from OPAL_PREFIX on they lie as they did below its own prefix.
    info=$(command -v ompi_info) || refuse "ompi_info is missing: expected it beside Open MPI"
    folder() { "$info" --path "$1" --parsable | awk -F : '{ print $3 }'; }
    from=$(folder prefix)
    below() { case "$1" in "$from"/*) printf '%s' "${1#"$from"/}" ;; *) printf '%s' "${1#/}" ;; esac; }
    plugins "$(folder pkglibdir)" "$out/$(below "$(folder pkglibdir)")"
    mkdir -p "$out/share" "$out/etc"
    cp -RL "$(folder pkgdatadir)" "$out/share/openmpi"
    [ ! -d "$(folder sysconfdir)" ] || cp -RL "$(folder sysconfdir)" "$out/etc/openmpi"
    # mpirun and its daemon, which belong to the library.
    for name in mpirun orted; do
        file=$(command -v "$(dirname "$info")/$name" || command -v "$name") || refuse "$name is missing: expected it beside ompi_info"
        install -m 755 "$(readlink -f "$file")" "$out/libexec/$name"
        # shellcheck disable=SC2046
        take $(needed_by "$file")
        executables+=" bin/$name"
    done
    environment='export OPAL_PREFIX=$here OPAL_SYSCONFDIR=$here/etc/openmpi OPAL_PKGDATADIR=$here/share/openmpi'
    environment+=$'\n# A container may have no way to other machines: Open MPI would refuse to start for want of ssh.\n'
    environment+='command -v ssh >/dev/null || command -v rsh >/dev/null || command -v srun >/dev/null || export OMPI_MCA_plm=${OMPI_MCA_plm:-isolated}'
    environment+=$'\n'"export OPAL_PKGLIBDIR=\$here/$(below "$(folder pkglibdir)")"
fi
# What UCX, libfabric and PMIx load by name, beside their libraries.
for library in libucs.so.0:ucx:UCX_MODULE_DIR libfabric.so.1:libfabric:FI_PROVIDER_PATH; do
    IFS=: read -r name folder variable <<<"$library"
    [ -e "$out/lib/$name" ] || continue
    path=$(place "$name")
    [ -n "$path" ] && [ -d "$(dirname "$path")/$folder" ] || continue
    plugins "$(dirname "$path")/$folder" "$out/lib/$folder"
    environment+=$'\n'"export $variable=\$here/lib/$folder"
done
# hwloc's plugin that asks for PCI devices; those for displays, OpenCL and CUDA would load all of these at each start, and XML, which
# it reads without libxml2 too, would take 36 MB of libraries along.
path=$(place libhwloc.so.15)
if [ -e "$out/lib/libhwloc.so.15" ] && [ -d "$(dirname "$path")/hwloc" ]; then
    plugins "$(dirname "$path")/hwloc" "$out/lib/hwloc" 'hwloc_pci.so'
    environment+=$'\nexport HWLOC_PLUGINS_PATH=$here/lib/hwloc'
fi
path=$(compgen -G '/usr/lib*/*/pmix2/lib/pmix' || compgen -G '/usr/lib*/pmix' || true)
if [ -n "$path" ]; then
    plugins "${path%%$'\n'*}" "$out/lib/pmix"
    environment+=$'\nexport PMIX_PKGLIBDIR=$here/lib/pmix'
fi

for name in bin/llm-train $executables; do
    cat >"$out/$name" <<WRAPPER
#!/bin/sh
# Starts the program of this folder with the libraries of this folder, wherever it lies.
here=\$(cd "\$(dirname "\$0")/.." && pwd -P)
export LD_LIBRARY_PATH=\$here/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
$environment
exec "\$here/libexec/${name#*/}" "\$@"
WRAPPER
    chmod 755 "$out/$name"
done
archive=$out.tar
tar c -C "$(dirname "$out")" --sort=name --owner=0 --group=0 -f "$archive" "$(basename "$out")"
if [ -n "$checks" ]; then
    gzip -f "$archive"
    archive=$archive.gz
fi
echo "$out: $(du -sh "$out" | cut -f 1) in $(find "$out" -type f | wc -l) files, and $archive of $(du -h "$archive" | cut -f 1)"
