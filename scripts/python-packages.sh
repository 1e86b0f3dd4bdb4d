#!/usr/bin/env bash
# Prints the folder of h5py and matplotlib (for PYTHONPATH), which it installs there by pip if need be.
set -euo pipefail
packages=${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/python
works() { PYTHONPATH=$packages python3 -c 'import h5py, matplotlib' >/dev/null 2>&1; }
# Several tests may ask at once.
mkdir -p "$packages"
exec 9>"$packages/.lock"
flock 9
works || python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$packages" h5py matplotlib >&2
works
echo "$packages"
