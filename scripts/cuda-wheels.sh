#!/usr/bin/env bash
# Prints the folder of NVIDIA's compiler NVRTC, which it installs there by pip if need be: it needs no GPU.
set -euo pipefail
wheels=${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/wheels
found() { compgen -G "$wheels/nvidia/*/lib/libnvrtc.so.*" | head -n 1; }
if [ -z "$(found)" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$wheels" nvidia-cuda-nvrtc >&2
fi
dirname "$(found)"
