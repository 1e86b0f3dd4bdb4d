#!/usr/bin/env bash
# Ours against PyTorch on this machine's processor, in alternation: a table of ratios, kept under benches/record/.
#   scripts/bench-cpu.sh            measure (about an hour) and record
#   scripts/bench-cpu.sh --check    measure, and fail (exit 1) below 97 % of the recorded best of this processor
#   scripts/bench-cpu.sh --quick    the small models, one short pair: does it work?
# PYTHON (default python3) must have torch and transformers.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import torch, transformers' 2>/dev/null; then
    echo "bench-cpu: expected torch and transformers for $PYTHON (or PYTHON=…): $PYTHON -m pip install torch transformers" >&2
    exit 2
fi
cargo build --release --quiet

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if grep -q AuthenticAMD /proc/cpuinfo && have gcc; then
    # MKL asks this before it uses AVX2 and AVX-512; PyTorch is measured with its own answer and with this one.
    echo 'int mkl_serv_intel_cpu_true(void) { return 1; }' >"$scratch/unlock.c"
    gcc -shared -fPIC -O1 -o "$scratch/unlock.so" "$scratch/unlock.c"
    export BENCH_MKL=$scratch/unlock.so
fi
"$PYTHON" benches/ratios.py "$@"
