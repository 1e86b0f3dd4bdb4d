#!/usr/bin/env python3
"""Ours against PyTorch on this machine's GPU, in alternation, and against what no run can beat; scripts/bench-gpu.sh starts it.

    ratio        the median over the pairs of ours / theirs, in tokens/s; theirs is the fastest way of PyTorch
    roofline     predict_gpu.py's step, for the two ceilings that are measured first: the best matrix product of
                 `llm-train bench gemm` (bf16), and how fast memory is copied

PyTorch trains the same model on the same number of tokens a step: flash SDPA, fused AdamW, clipping, bf16 by autocast with f32
weights, as ours. Where it has not the memory it is given half the sequences in twice the passes, or a third, or a quarter. Figures of other
programs on this card come by --other. The table is kept in benches/record/<GPU>.md, each row's best ratio in the .json beside it.
"""
import argparse
import datetime
import glob
import json
import os
import re
import sys
import tempfile

from predict_gpu import Model
from ratios import HERE, PROGRAM, file_name, keep, measured, ours, planned, read, row, said, sizes

PUBLISHED = "HPC book, H100-64GB, published"

# name, preset, sequences of a pass, of a step, least ratio to PyTorch, figures of others and the least ratio to each
WORK = [
    ("gpt2-124M", "gpt2", 32, 64, 1.1, {}),
    ("gpt2-1.5B", "gpt2-xl", 16, 64, 1.1, {}),
    ("Llama-3.2-1B", "llama3.2-1b", 16, 64, 1.1, {}),
    ("Llama-3.2-1B, B = 37", "llama3.2-1b", 37, 37, 1.3, {PUBLISHED: (48_081, 1.4)}),
]
SEQ, STEPS = 1024, 10
SHARE = 0.92  # of the roofline, at least
OTHER = 1.1  # times another program's figure, at least

# The same work in miniature, for trying the script out.
SMALL = ["--layers", "2", "--width", "64", "--heads", "1", "--kv-heads", "1", "--head-dim", "64", "--hidden", "64", "--vocab", "256"]


def refuse(sentence):
    print(f"bench-gpu: {sentence}", file=sys.stderr)
    sys.exit(2)


def json_of(command):
    """What a command of ours writes for machines."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "found.json")
        measured([PROGRAM, *command, "--json", file])
        return read(file)


def yardstick(*options, may_fail=False):
    found = measured([sys.executable, os.path.join(HERE, "yardstick.py"), *map(str, options)], may_fail=may_fail)
    return found and json.loads(found[0].splitlines()[-1]) | {"memory": found[1]}


def llama(config, seq, folder):
    """config.json of transformers for a model of ours."""
    file = os.path.join(folder, "llama.json")
    with open(file, "w", encoding="utf-8") as out:
        json.dump({
            "vocab_size": config["vocab"], "hidden_size": config["width"], "intermediate_size": config["hidden"],
            "num_hidden_layers": config["layers"], "num_attention_heads": config["heads"], "num_key_value_heads": config["kv_heads"],
            "head_dim": config["head_dim"], "max_position_embeddings": seq, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        }, out)
    return file


class Bench:
    def __init__(self, a):
        self.a, self.seq, self.steps = a, 16 if a.small else SEQ, 2 if a.small else STEPS
        self.device, self.more = ("cpu", SMALL) if a.small else ("cuda", [])
        self.threads = len(os.sched_getaffinity(0))

    def ceilings(self):
        gemm = json_of(["bench", "gemm", "--device", self.device, "--precision", "bf16", "--model", "gpt2-xl", *self.more,
                        "--seq-len", str(self.seq), "--micro-batch", "2" if self.a.small else "8"])
        copied = yardstick("--copy", "--device", self.device, "--batch", 1, "--seq", 1, "--threads", self.threads)
        return gemm["device"], 1e9 * gemm["best_gflops"], copied["bytes_per_second"]

    def theirs(self, model, micro, batch, way, folder):
        """One run of PyTorch, in as few passes a step as its memory allows; None where it fits in none of four tries. Where passes of
        equal size do not add up to the batch, a sequence or two are left out: what counts is tokens a second."""
        config = planned(model, self.more)
        what = ["--llama", llama(config, self.seq, folder)] if model.startswith("llama") else sizes(model, self.more)
        more = (["--compile"] if "compile" in way else []) + (["--pure"] if "pure" in way else [])
        for part in [1, 2, 3, 4]:
            fewer = micro // part
            if fewer == 0:
                break
            found = yardstick(*what, "--device", self.device, "--precision", "bf16", "--batch", fewer, "--accumulate", batch // fewer,
                              "--seq", self.seq, "--steps", self.steps, "--warm-up", 3, "--threads", self.threads, *more, may_fail=True)
            if found:
                return found | {"sequences": fewer}
        return None

    def ways(self):
        compiled = ["eager"] if self.a.small else ["compile", "eager"]
        return [f"{how}, {numbers}" for how in compiled for numbers in ["autocast"] + ["pure bf16"] * self.a.pure]

    def row(self, work, ceilings, folder):
        name, model, micro, batch, least, others = work
        if self.a.small:
            micro, batch = min(micro, 2), 4
        mine = lambda: ours(model, batch, "bf16", self.steps, 1, self.threads, self.seq, micro, ["--device", self.device, *self.more])
        yours = {way: lambda way=way: self.theirs(model, micro, batch, way, folder) for way in self.ways()}
        found = row(name, self.a.pairs, mine, yours, least)
        c = planned(model, self.more)
        shape = Model(name, c["layers"], c["width"], c["heads"], c["kv_heads"], c["hidden"], c["vocab"], not model.startswith("llama"),
                      micro, self.seq)
        found["roofline"] = batch * self.seq / sum(shape.step(*ceilings, step=batch * self.seq).values())
        found["share"] = found["ours"] / found["roofline"]
        given = {n: (rate, OTHER) for of, n, rate in self.a.other if of in (None, name)}
        found["others"] = {n: {"rate": rate, "bar": bar, "ratio": found["ours"] / rate} for n, (rate, bar) in (others | given).items()}
        return found


def met(ratio, bar):
    return f"\u2265 {bar}: {'met' if ratio >= bar else 'missed'}"


def page(found, about):
    lines = [
        f"# {about['gpu']}", "",
        f"{about['date']}, git {about['revision']}, PyTorch {about['torch']}; `scripts/bench-gpu.sh`, {about['pairs']} pairs in alternation, "
        f"T = {about['seq']}, bf16, tokens/s (medians).", "",
        f"Measured ceilings: matrix products {about['flops'] / 1e12:,.4g} TFLOP/s, memory {about['memory'] / 1e9:,.4g} GB/s. The roofline is "
        "`benches/predict_gpu.py`'s for these: no launch costs anything, operations follow one another.", "",
        "| work | ours | PyTorch | ratio (spread) | bar | roofline | share | bar | others | measured |", "|" + "---|" * 10]
    for r in found:
        theirs = "; ".join(f"{way} {x:,.0f}" for way, x in r["theirs"].items()) or "fails"
        ratio, bar = "", "not measured"
        if r["ratio"] is not None:
            ratio, bar = f"{r['ratio']:.3f} ({min(r['ratios']):.3f} to {max(r['ratios']):.3f})", met(r["ratio"], r["bar"])
        others = "; ".join(f"{name} {o['rate']:,.0f}: {o['ratio']:.3f}, {met(o['ratio'], o['bar'])}" for name, o in r["others"].items())
        lines.append(f"| {r['row']} | {r['ours']:,.0f} | {theirs} | {ratio} | {bar} | {r['roofline']:,.0f} | {r['share']:.3f} | "
                     f"{met(r['share'], SHARE)} | {others} | {r['date']}, {r['revision']} |")
    return "\n".join(lines) + "\n\nThe fastest way of PyTorch counts. Best so far: the `.json` beside this.\n"


def other(text):
    """[ROW:]NAME=TOKENS_PER_SECOND"""
    found = re.fullmatch(r"(?:([^:=]+):)?([^:=]+)=([0-9][0-9_,.]*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected [ROW:]NAME=TOKENS_PER_SECOND, found {text}")
    return found[1], found[2], float(re.sub("[_,]", "", found[3]))


def main():
    p = argparse.ArgumentParser(prog="scripts/bench-gpu.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--rows", default="", metavar="REGEX", help="only the rows whose names match")
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--pure", action="store_true", help="also PyTorch with weights and moments in bf16")
    p.add_argument("--other", type=other, action="append", default=[], metavar="[ROW:]NAME=TOKENS_PER_SECOND",
                   help="another program's figure on this card")
    p.add_argument("--record", default=os.path.join(HERE, "record"), metavar="DIR")
    p.add_argument("--small", action="store_true", help="the same in miniature on the processor: does it work?")
    a = p.parse_args()
    work = [w for w in WORK if re.search(a.rows, w[0])]
    if not work:
        refuse(f"--rows: expected part of one of {', '.join(w[0] for w in WORK)}, found {a.rows}")
    if a.pairs < 1:
        refuse(f"--pairs: expected at least 1, found {a.pairs}")
    unknown = next((of for of, _, _ in a.other if of and of not in [w[0] for w in WORK]), None)
    if unknown:
        refuse(f"--other: expected one of {', '.join(w[0] for w in WORK)} before the colon, found {unknown}")

    import torch
    if not a.small and not torch.cuda.is_available():
        refuse(f"PyTorch {torch.__version__} sees no GPU (--small tries the script out without one)")
    # NVIDIA's libraries that came with PyTorch, for a program whose loader knows of none.
    came = [folder for place in sys.path for folder in sorted(glob.glob(os.path.join(place, "nvidia", "*", "lib")))]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), *came]))
    bench = Bench(a)
    gpu, flops, memory = bench.ceilings()
    print(f"{gpu}: matrix products {flops / 1e12:.4g} TFLOP/s, memory {memory / 1e9:.4g} GB/s", flush=True)
    about = {
        "gpu": gpu, "flops": flops, "memory": memory, "pairs": a.pairs, "seq": bench.seq, "date": datetime.date.today().isoformat(),
        "revision": said("git", "rev-parse", "--short", "HEAD"), "torch": torch.__version__,
    }
    os.makedirs(a.record, exist_ok=True)
    path = os.path.join(a.record, file_name(gpu))
    with tempfile.TemporaryDirectory() as folder:
        for w in work:
            found = bench.row(w, (flops, memory), folder)
            keep(path, [found], about, page)  # row by row: what is measured is kept if the next one fails
    with open(path + ".md", encoding="utf-8") as file:
        print("\n" + file.read())
    print(f"bench-gpu: recorded in {path}.md")


if __name__ == "__main__":
    main()
