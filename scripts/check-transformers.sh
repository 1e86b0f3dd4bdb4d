#!/usr/bin/env bash
# Whether Hugging Face transformers opens our checkpoints unchanged and computes our loss, for each family of
# tests/golden: one optimizer step on two ranks, a checkpoint, `llm-train eval` of it against AutoModelForCausalLM. In fp32, and with weights in
# bf16 alone, whose checkpoint must open as bf16; both losses are computed in fp32.
# Installs torch and transformers once, into VENV (default ~/.cache/llm-train/transformers); BINARY is what is checked.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh

VENV=${VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-train/transformers}
if ! "$VENV/bin/python" -c 'import torch, transformers' 2>/dev/null; then
    echo "check-transformers: installing torch and transformers into $VENV"
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install --quiet torch transformers safetensors numpy
fi
if [ -z "${BINARY:-}" ]; then
    cargo build --release --quiet
    BINARY=target/release/llm-train
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

seq=48 sequences=3 # the goldens' batch
families=(gpt2 llama llama3 qwen2 qwen3 opt)
for family in "${families[@]}"; do
    for precision in fp32 bf16-true; do
        golden=tests/golden/$family out=$scratch/$family-$precision
        mpirun -n 2 --bind-to none "$BINARY" --model "$golden" --init pretrained --data "$golden/tokens.bin" --seq-len $seq \
            --micro-batch 2 --global-batch $sequences --steps 1 --save-every 1 --lr 1e-3 --warmup-steps 0 --zero 1 \
            --precision $precision --device cpu --out "$out" --quiet
        "$BINARY" eval --model "$out/checkpoints/step-00000001" --data "$golden/tokens.bin" --seq-len $seq --eval-batches 0 \
            --json "$out/eval.json" >/dev/null
    done
done

HF_HUB_OFFLINE=1 "$VENV/bin/python" - "$scratch" $seq "${families[@]}" <<'PYTHON'
import json, sys
import numpy, torch
from transformers import AutoModelForCausalLM

scratch, seq, families = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
failed, runs = 0, [(family, dtype) for family in families for dtype in (torch.float32, torch.bfloat16)]
for family, dtype in runs:
    tokens = numpy.fromfile(f"tests/golden/{family}/tokens.bin", dtype="<u2").astype("int64")
    rows = torch.from_numpy(numpy.stack([tokens[i:i + seq + 1] for i in range(0, len(tokens) - seq, seq)]))
    out = f"{scratch}/{family}-{'fp32' if dtype == torch.float32 else 'bf16-true'}"
    path = f"{out}/checkpoints/step-00000001"
    model, about = AutoModelForCausalLM.from_pretrained(path, torch_dtype="auto", output_loading_info=True)
    unlike = {kind: sorted(map(str, names)) for kind, names in about.items() if names}
    found = model.dtype
    with torch.no_grad():
        logits = model.float().eval()(rows[:, :-1]).logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten()).item()
    ours = json.load(open(f"{out}/eval.json"))["loss"]
    well = abs(ours - theirs) < 1e-5 and not unlike and found == dtype
    failed += not well
    print(f"{'PASS' if well else 'FAIL'} {family}: loss {ours:.6f}, transformers {theirs:.6f}", found, unlike or "")
print(f"{len(runs) - failed} passed, {failed} failed")
sys.exit(failed > 0)
PYTHON
