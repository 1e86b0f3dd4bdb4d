#!/usr/bin/env bash
# The program as another site would install it, for real: from the archive of scripts/vendor.sh, with the network cut off, against
# MPICH, with HDF5 built in, for this processor, with GPU kernels in it. Three ranks then train and say what the ranks of the usual
# build say (PROGRAM, default target/release/llm-train, under its own mpirun); a rank that is killed ends the job.
# Unpacked, the archive finds its crates by itself, as recipes build it. EasyBuild and, where there is one, Spack read their recipes.
#   scripts/site-check.sh           all of it: five minutes on two cores; compiled with few optimisations to be no more
#   scripts/site-check.sh --recipes the archive and the recipes alone
set -euo pipefail
cd "$(dirname "$0")/.."
TESTS=1 source scripts/setup.sh

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
venv() { # NAME PACKAGE…: a Python environment, kept
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/$1
    [ -e "$folder/made" ] || { python3 -m venv "$folder" && "$folder/bin/pip" install --quiet --disable-pip-version-check "${@:2}" && touch "$folder/made"; } >&2
    echo "$folder"
}
no() { # what cannot be had: said here, a failure in CI
    echo "site-check: NOT TESTED: $*" >&2
    [ -z "${CI:-}" ] || exit 1
}
fail() { echo "site-check: $*" >&2 && exit 1; }

cut=()
if [ "$(id -u)" -eq 0 ] && unshare -n true 2>/dev/null; then cut=(unshare -n); else echo "site-check: the network is not cut off: that takes root and namespaces"; fi

scripts/vendor.sh "$scratch/llm-train-vendored.tar.zst"

# ---- unpacked, it needs nothing from outside: as EasyBuild, Spack and `tar xf; scripts/install.sh` build it
mkdir "$scratch/unpacked" "$scratch/no-crates"
tar xf "$scratch/llm-train-vendored.tar.zst" -C "$scratch/unpacked" --strip-components 1
resolves() { (cd "$scratch/unpacked" && CARGO_HOME=$scratch/no-crates "${cut[@]}" cargo metadata --offline --locked --format-version 1) >/dev/null 2>"$scratch/resolve.log"; }
resolves || { cat "$scratch/resolve.log" && fail "the unpacked archive does not find its own crates"; }
# Does that say anything? Without the lines that name vendor/ it must not.
sed -i '/^\[source/,/^$/d' "$scratch/unpacked/.cargo/config.toml"
! resolves || fail "crates are found without .cargo/config.toml: the check of the archive shows nothing"
rm -r "$scratch/unpacked"
echo "unpacked: the archive finds its crates without a network and with an empty CARGO_HOME"

# ---- recipes
if easybuild=$(venv easybuild easybuild pycodestyle); then
    eb() { EB_PYTHON=$easybuild/bin/python PATH=$easybuild/bin:$PATH HOME=$scratch "$easybuild/bin/eb" --allow-use-as-root-and-accept-consequences --prefix "$scratch/eb" --modules-tool "${MODULES_TOOL:-Lmod}" "$@"; }
    # Lmod's program as EasyBuild looks for it
    lmod=$(compgen -G '/usr/share/lmod/*/libexec/lmod' | head -n 1 || true)
    [ -z "$lmod" ] || export LMOD_CMD=$lmod PATH=$(dirname "$lmod"):$PATH
    recipe=$(echo "$scratch"/llm-train-*.eb)
    eb --dry-run "$recipe" --robot="$scratch" >"$scratch/eb.log" 2>&1 || { cat "$scratch/eb.log" && fail "EasyBuild does not take $recipe"; }
    grep -q 'module: llm-train/.*-gompi-2025b' "$scratch/eb.log" && grep -q 'HDF5/' "$scratch/eb.log" || { cat "$scratch/eb.log" && fail "EasyBuild resolved something else"; }
    eb --check-style "$recipe" >"$scratch/eb.log" 2>&1 || { cat "$scratch/eb.log" && fail "EasyBuild's style"; }
    echo "EasyBuild: resolved with $(grep -c '^ \* \[' <<<"$(eb --dry-run "$recipe" --robot="$scratch" 2>&1)") modules"
else
    no "EasyBuild cannot be installed"
fi
python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' "$scratch/spack/packages/llm-train/package.py"
if have spack; then
    export SPACK_USER_CONFIG_PATH=$scratch/spack-config SPACK_USER_CACHE_PATH=$scratch/spack-cache
    spack repo add "$scratch/spack" >/dev/null
    spack info llm-train >"$scratch/spack.log" 2>&1 && grep -q rust "$scratch/spack.log" || { cat "$scratch/spack.log" && fail "Spack does not take the package"; }
    echo "Spack: read the package"
else
    echo "Spack: not here; the package was only parsed"
fi
[ "${1:-}" != --recipes ] || exit 0

# ---- another site's build
have mpicc.mpich && have mpirun.mpich || { no "MPICH is not installed" && exit 0; }
cmake=$(venv cmake cmake) || { no "CMake cannot be installed" && exit 0; }
embed=()
if nvrtc=$(scripts/cuda-wheels.sh 2>/dev/null); then
    embed=(--embed-cubin)
    export LD_LIBRARY_PATH=$nvrtc${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
began=$SECONDS
CARGO_TARGET_DIR=$scratch/target CARGO_HOME=$scratch/empty MPICC=mpicc.mpich CMAKE=$cmake/bin/cmake CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=false \
    "${cut[@]}" scripts/install.sh --prefix "$scratch/site" --offline "$scratch/llm-train-vendored.tar.zst" --static-hdf5 --target-cpu native "${embed[@]}" \
    >"$scratch/build.log" 2>&1 || { tail -n 40 "$scratch/build.log" && fail "the build without a network failed"; }
echo "built and installed without a network in $((SECONDS - began)) s"
site=$scratch/site/bin/llm-train
"$site" --version | tee "$scratch/version"
grep -q '^MPI .*MPICH' "$scratch/version" || fail "not MPICH"
grep -q '^HDF5 *2\.' "$scratch/version" || fail "not the HDF5 that was built in"
! ldd "$site" | grep -q libhdf5 || fail "HDF5 is not in the program"
[ ${#embed[@]} -eq 0 ] || grep -q '^GPU kernels *in the program for sm_80, sm_90a, sm_100a' "$scratch/version" || fail "no kernels in the program"

program=${PROGRAM:-target/release/llm-train}
[ -x "$program" ] || cargo build --release --locked --quiet

# ---- its GPU kernels, on a stub driver (tests/cuda/stub), where no NVRTC is found and no cache has anything
if [ ${#embed[@]} -gt 0 ]; then
    stubs=${CARGO_TARGET_DIR:-target}/tmp/cuda-stub # tests/cuda_device keeps them there
    tests/cuda/stub/build.sh "$stubs"
    tests/cuda/kernels.sh src/ops "$stubs/libkernels-fp32.so" -DREAL=float -O2
    on_stub() { # PROGRAM OUT
        env LD_LIBRARY_PATH="$stubs" STUB_KERNELS="$stubs/libkernels-fp32.so" XDG_CACHE_HOME="$scratch/no-cache" "$1" --model nano --layers 2 --width 32 \
            --heads 2 --vocab 200 --seq-len 16 --global-batch 4 --micro-batch 1 --synthetic-data --steps 2 --precision fp32 --device cuda --threads 1 \
            --no-save-at-end --out "$2" >"$2.log" 2>&1
    }
    on_stub "$site" "$scratch/stub-site" || { cat "$scratch/stub-site.log" && fail "the kernels in the program are not used"; }
    ! on_stub "$program" "$scratch/stub-usual" || fail "the usual program found kernels without NVRTC"
    grep -q nvrtc "$scratch/stub-usual.log" || fail "the usual program says something else: $(cat "$scratch/stub-usual.log")"
    echo "without NVRTC the GPU kernels in the program start; a program without them says that NVRTC is missing"
fi

# ---- three ranks of each MPI
run="--model nano --layers 2 --width 64 --heads 2 --vocab 512 --seq-len 32 --micro-batch 1 --global-batch 6 --synthetic-data --zero 1 --threads 1 --device cpu"
# shellcheck disable=SC2086
mpirun -n 3 --bind-to none "$program" $run --steps 8 --log-every 1 --out "$scratch/open" >"$scratch/open.log"
# shellcheck disable=SC2086
mpirun.mpich -n 3 "$site" $run --steps 8 --log-every 1 --out "$scratch/mpich" >"$scratch/mpich.log"
losses() { awk '/^step / { print $2, $4 }' "$1"; }
[ "$(losses "$scratch/open.log" | wc -l)" -eq 8 ] || fail "expected 8 steps: $(cat "$scratch/open.log")"
diff <(losses "$scratch/open.log") <(losses "$scratch/mpich.log") || fail "the losses of three ranks differ between MPICH and Open MPI"
echo "three ranks under MPICH: the losses of Open MPI"

# One of them is killed: the job ends soon, and not well.
# shellcheck disable=SC2086
mpirun.mpich -n 3 "$site" $run --steps 1000000 --save-every 1000000 --log-every 1 --out "$scratch/killed" >"$scratch/killed.log" 2>&1 &
job=$!
for _ in $(seq 300); do grep -q '^step 20/' "$scratch/killed.log" && break || sleep 0.1; done
mapfile -t ranks < <(pgrep -f "$site .*$scratch/killed" -d $'\n' | while read -r pid; do [ "$(readlink "/proc/$pid/exe")" = "$site" ] && echo "$pid"; done)
[ ${#ranks[@]} -eq 3 ] || fail "expected three ranks at work, found ${#ranks[@]}: $(cat "$scratch/killed.log")"
kill -KILL "${ranks[1]}"
began=$SECONDS status=0
wait "$job" || status=$?
[ "$status" -ne 0 ] && [ $((SECONDS - began)) -le 10 ] || fail "a killed rank: expected the end of the job within 10 s, found code $status after $((SECONDS - began)) s"
! pgrep -f "$site .*$scratch/killed" >/dev/null || fail "ranks of the killed job are left"
echo "a killed rank ended the job within $((SECONDS - began)) s, with code $status"
echo "site-check: all well"
