#!/usr/bin/env bash
# Prints the folder of one of NVIDIA's libraries, which it installs there by pip if need be. Neither needs a GPU.
#   cuda-wheels.sh          NVRTC, the compiler
#   cuda-wheels.sh cudnn    cuDNN, attention: 0.5 GB to download, 0.9 GB on disk
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/llm-train
# A folder each: pip does not add to a package's folder that another package has made.
case ${1:-nvrtc} in
    nvrtc) wheels=$cache/wheels package=nvidia-cuda-nvrtc library=libnvrtc.so ;;
    cudnn) wheels=$cache/wheels-cudnn package=nvidia-cudnn-cu13 library=libcudnn.so ;;
    *) echo "cuda-wheels: expected nvrtc or cudnn, found $1" >&2 && exit 2 ;;
esac
found() { compgen -G "$wheels/nvidia/*/lib/$library.*" | head -n 1; }
if [ -z "$(found)" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$wheels" "$package" >&2
fi
dirname "$(found)"
