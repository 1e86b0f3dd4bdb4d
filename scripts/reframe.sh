#!/usr/bin/env bash
# Prints the path of ReFrame, which it installs by pip into a venv of its own if need be.
set -euo pipefail
venv=${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/reframe
if [ ! -x "$venv/bin/reframe" ]; then
    { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check ReFrame-HPC==4.10.4; } >&2
fi
echo "$venv/bin/reframe"
