#!/usr/bin/env bash
# The daily check, under a minute when warm: format, lints, unit tests, one run of two ranks.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
export CARGO_INCREMENTAL=1 # only what changed is compiled again

cargo fmt --all -- --check
cargo clippy --release --all-targets --quiet -- -D warnings
cargo test --release --quiet --lib
cargo build --release --quiet
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mpirun -n 2 --bind-to none target/release/llm-train --model nano --synthetic-data --seq-len 32 --micro-batch 1 \
    --global-batch 2 --steps 3 --zero 1 --device cpu --out "$out" --quiet
echo "check: all well"
