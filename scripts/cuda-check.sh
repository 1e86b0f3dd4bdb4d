#!/usr/bin/env bash
# What can be proved of the CUDA kernels without a GPU: they compile for sm_80, sm_90a and sm_100a without spills and without a
# stack (NVRTC, from its wheel), they compute what their references do (tests/cuda_kernels, on the CPU), and the whole program
# trains with them on a stub driver (tests/cuda_device).
# --table: the compiler's part alone.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/wheels
if ! compgen -G "$wheels/nvidia/*/lib/libnvrtc.so.*" >/dev/null; then
    if ! python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$wheels" nvidia-cuda-nvrtc; then
        echo "cuda-check: pip could not install nvidia-cuda-nvrtc into $wheels; without it no kernel is compiled for a GPU" >&2
        [ -z "${CI:-}" ] || exit 1
        echo "cuda-check: not in CI, so the compiler's part is left out" >&2
        wheels=
    fi
fi
[ -z "$wheels" ] || python3 scripts/kernel-table.py "$wheels"
[ "${1:-}" = --table ] || cargo test --release --test cuda_kernels --test cuda_device
