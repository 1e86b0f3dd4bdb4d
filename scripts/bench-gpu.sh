#!/usr/bin/env bash
# Ours against PyTorch on this machine's GPU, in alternation, and against the roofline: a table, kept under benches/record/.
#   scripts/bench-gpu.sh                                  measure (about half an hour on an H100) and record
#   scripts/bench-gpu.sh --rows gpt2-124M --pairs 5       one row, five pairs
#   scripts/bench-gpu.sh --other gpt2-124M:NAME=180000    beside another program's tokens/s on this card
#   scripts/bench-gpu.sh --small --record DIR             in miniature, on the processor: does it work?
# PYTHON (default python3) must have torch and transformers. BENCH_PROGRAM: another llm-train than the one that is built here.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import torch, transformers' 2>/dev/null; then
    echo "bench-gpu: expected torch and transformers for $PYTHON (or PYTHON=…): $PYTHON -m pip install torch transformers" >&2
    exit 2
fi
if [ -z "${BENCH_PROGRAM:-}" ]; then
    # shellcheck source=scripts/setup.sh
    source scripts/setup.sh
    cargo build --release --quiet
fi
"$PYTHON" benches/ratios_gpu.py "$@"
