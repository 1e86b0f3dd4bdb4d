#!/usr/bin/env bash
# Prints the folder of h5py and matplotlib (for PYTHONPATH), which it installs there by pip if need be; as root on Debian and Ubuntu
# also pip itself.
set -euo pipefail
packages=${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/python
works() { PYTHONPATH=$packages python3 -c 'import h5py, matplotlib' >/dev/null 2>&1; }
pip() { python3 -m pip "$@"; }
# Several tests may ask at once.
mkdir -p "$packages"
exec 9>"$packages/.lock"
flock 9
if ! works; then
    if ! pip --version >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-pip >&2
    fi
    pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$packages" h5py matplotlib >&2
    works
fi
echo "$packages"
