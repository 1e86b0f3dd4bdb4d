#!/usr/bin/env bash
# Prints the path of a python with MLPerf's compliance checker, which it installs by pip into a venv of its own if need be.
set -euo pipefail
venv=${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/mlperf
python=$venv/bin/python
# Several tests may ask at once.
mkdir -p "$venv"
exec 9>"$venv.lock"
flock 9
if ! "$python" -c 'import mlperf_logging, yaml' 2>/dev/null; then
    # Without what only its other tools need: pandas, scipy.
    { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps mlperf-logging==4.1.68 PyYAML; } >&2
fi
echo "$python"
