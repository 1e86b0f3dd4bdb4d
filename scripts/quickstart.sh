#!/usr/bin/env bash
# From a fresh clone to a trained model: installs what is missing, builds, makes a corpus of the King James text, trains a small
# model on two ranks for about two minutes, and lets it write. Run again, it says what is there; remove runs/quickstart to
# start over.
set -euo pipefail
case "${1:-}" in
    "") ;;
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) echo "quickstart: expected no arguments, found $1" >&2 && exit 2 ;;
esac
cd "$(dirname "$0")/.."
source scripts/setup.sh
out=runs/quickstart
program=${CARGO_TARGET_DIR:-target}/release/llm-train

say() { printf '\n== %s\n' "$*"; }

if [ -x "$program" ] && [ -z "$(find src Cargo.toml Cargo.lock build.rs -newer "$program" -print -quit)" ]; then
    say "built already: $program"
else
    say "building $program (some minutes the first time)"
    cargo build --release
fi

if [ -f "$out/kjv.idx" ] && [ -f "$out/kjv-val.idx" ]; then
    say "tokenized already: $out/kjv"
else
    say "tokenizing the King James text; the last 5 % are held out"
    mkdir -p "$out"
    "$program" tokenize --input data/kjv.txt.gz --split paragraph --append-eod --val-fraction 0.05 \
        --tokenizer data/kjv.tokenizer.json --output "$out/kjv"
fi

if [ -n "$(ls -d "$out"/checkpoints/step-00000800 2>/dev/null)" ]; then
    say "trained already: $out/checkpoints/step-00000800; \"rm -r $out\" and run again to start over"
    "$program" report "$out"
else
    say "training: mpirun -n 2 $program --config jobs/quickstart/run.toml"
    mpirun -n 2 --bind-to none "$program" --config jobs/quickstart/run.toml --json "$out/result.json"
fi

say "what the model writes after \"And God said\":"
"$program" generate --model "$out/checkpoints/latest" --prompt "And God said" --max-tokens 100 --temperature 0.8 --seed 1

say "there to look at"
echo "metrics     $out/metrics.h5"
echo "checkpoint  $(readlink -f "$out/checkpoints/latest")"
echo "page        $out/report.html"
