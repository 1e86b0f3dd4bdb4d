#!/usr/bin/env bash
# What can be proved of the CUDA kernels without a GPU: they compile for sm_80, sm_90a and sm_100a without spills and without a
# stack (NVRTC, from its wheel), they compute what their references do (tests/cuda_kernels, on the CPU), and the whole program
# trains with them on a stub driver (tests/cuda_device, where cuDNN's plans are made too).
# --table: the compiler's part alone.
set -euo pipefail
cd "$(dirname "$0")/.."

if scripts/cuda-wheels.sh >/dev/null; then
    python3 scripts/kernel-table.py "${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/wheels"
else
    echo "cuda-check: pip could not install nvidia-cuda-nvrtc; without it no kernel is compiled for a GPU" >&2
    [ -z "${CI:-}" ] || exit 1
    echo "cuda-check: not in CI (\$CI is empty), so the compiler's part is left out" >&2
fi
[ "${1:-}" = --table ] || cargo test --release --test cuda_kernels --test cuda_device
