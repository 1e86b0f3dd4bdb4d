#!/usr/bin/env python3
"""Ours against PyTorch on this machine, in alternation; scripts/bench-cpu.sh starts it.

    first pair   ours, then every way of PyTorch (eager, compile; MKL stock and unlocked on AMD): the two fastest stay
    later pairs  ours, then those; the faster by its median counts
    ratio        the median over the pairs of ours / theirs, in tokens/s

A row's best ratio is kept by processor model in benches/record/<processor>.json, the latest table in the .md beside it.
--check records nothing and fails where a ratio lies below 97 % of the best; --compare RECORD FOUND does only that.
"""
import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

KEPT = 0.97  # of the recorded best: what --check asks for
HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.environ.get("BENCH_PROGRAM") or os.path.join(HERE, "..", "target", "release", "llm-train")
LLAMA = os.path.join(HERE, "llama-nano.json")

# name, model, sequences, steps, bars: (fp32, bf16 with AMX, bf16 with AVX-512 BF16), of memory: at most (fp32, bf16)
WORK = [
    ("nano", "nano", 8, 10, (1.2, 2.0, 1.35), (0.6, 0.6)),
    ("gpt2-124M", "gpt2", 4, 5, (1.1, 2.0, 1.35), (0.75, 0.8)),
    ("llama-nano", LLAMA, 8, 10, (1.2, 2.0, 1.35), (None, None)),
]
SEQ = 256
RANKS = {"fp32": 0.95, "bf16": 0.85}  # bars of 2 ranks × 1 thread against 1 rank × 2 threads
SHARDED = 0.6  # memory of both of these ranks, at most, against PyTorch's two under gloo
GENERATION, TOKENS = 1.5, 128  # bar and length of a greedy continuation by gpt2-124M
LENGTHS = [256, 1024, 4096]  # of sequences, 4,096 tokens a step: attention's rate must not fall with them


def refuse(sentence):
    print(f"bench-cpu: {sentence}", file=sys.stderr)
    sys.exit(2)


def flags():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        text = file.read()
    return set(re.search(r"^flags\s*:(.*)$", text, re.M).group(1).split()), "AuthenticAMD" in text


def bar(bars, precision):
    """What the row is to reach here; None where bf16 has no instructions of its own."""
    have, _ = flags()
    if precision == "fp32":
        return bars[0]
    return bars[1] if "amx_bf16" in have else bars[2] if "avx512_bf16" in have else None


def measured(command, env=None, together=False, may_fail=False):
    """None where it fails and may. Else the program's stdout and the most memory it and its children had, in MiB: each process by itself, or, of ranks that share
    memory, all together every half second, a page that several have counted once (PSS)."""
    with tempfile.TemporaryFile("w+") as out:
        child, most, looked = subprocess.Popen(command, stdout=out, env={**os.environ, **(env or {})}), {}, 0.0
        while child.poll() is None:
            if not together:
                for pid in family(child.pid):
                    most[pid] = max(most.get(pid, 0), kib(pid, "status", "VmHWM"))
            elif time.monotonic() - looked >= 0.5:
                looked = time.monotonic()
                most[0] = max(most.get(0, 0), sum(kib(pid, "smaps_rollup", "Pss") for pid in family(child.pid)))
            time.sleep(0.1)
        if child.returncode and may_fail:
            return None
        if child.returncode:
            sys.exit(f"bench: {' '.join(command)}: exit code {child.returncode}")
        out.seek(0)
        return out.read(), sum(most.values()) / 1024


def family(pid):
    """A process and all that it began."""
    found = [pid]
    for parent in found:
        try:
            with open(f"/proc/{parent}/task/{parent}/children", encoding="utf-8") as file:
                found += map(int, file.read().split())
        except OSError:
            pass
    return found


def kib(pid, file, name):
    """What the system says of a process's memory; 0 when it has gone."""
    try:
        with open(f"/proc/{pid}/{file}", encoding="utf-8") as text:
            return int(re.search(rf"^{name}:\s*(\d+)", text.read(), re.M).group(1))
    except (OSError, AttributeError):
        return 0


def ours(model, batch, precision, steps, ranks, threads, seq=SEQ, micro=None, more=("--device", "cpu")):
    """`micro`: sequences of a rank's pass, where they are not all of its part of the batch."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "step.json")
        launcher = ["mpirun", "-n", str(ranks), "--bind-to", "none"] if ranks > 1 else []
        command = launcher + [
            PROGRAM, "bench", "step", "--model", model, "--micro-batch", str(micro or batch // ranks), "--global-batch", str(batch),
            *more, "--seq-len", str(seq), "--precision", precision, "--threads", str(threads // ranks), "--zero", "1",
            "--warm-up", "2", "--steps", str(steps), "--json", file]
        _, memory = measured(command, together=ranks > 1)
        with open(file, encoding="utf-8") as found:
            return {**json.load(found), "memory": memory}


def planned(model, more=()):
    """The sizes of a preset, as llm-train has it."""
    with tempfile.NamedTemporaryFile("r") as file:
        subprocess.run([PROGRAM, "plan", "--model", model, *more, "--json", file.name], check=True, stdout=subprocess.DEVNULL)
        return json.load(file)["config"]["model"]


def sizes(model, more=()):
    config = planned(model, more)
    return [x for key in ["layers", "heads", "width", "hidden", "vocab", "context"] for x in (f"--{key}", str(config[key]))]


def theirs(model, batch, precision, steps, threads, way, ranks=1):
    what = ["--llama", model] if model.endswith(".json") else sizes(model)
    command = [sys.executable, os.path.join(HERE, "yardstick.py"), *what, "--batch", str(batch), "--seq", str(SEQ),
               "--precision", precision, "--steps", str(steps), "--warm-up", str(min(2, steps)), "--threads", str(threads // ranks),
               "--ranks", str(ranks)]
    env = {"OMP_NUM_THREADS": str(threads // ranks), "MKL_NUM_THREADS": str(threads // ranks)}
    if "unlocked" in way:
        env["LD_PRELOAD"] = os.environ["BENCH_MKL"]
    out, memory = measured(command + (["--compile"] if "compile" in way else []), env, together=ranks > 1)
    return {**json.loads(out.splitlines()[-1]), "memory": memory}


def generation(threads, pairs, precision):
    """Greedy continuations by a gpt2-124M that has seen one step."""
    with tempfile.TemporaryDirectory() as folder:
        out, file = os.path.join(folder, "run"), os.path.join(folder, "text.json")
        subprocess.run([PROGRAM, "--model", "gpt2", "--synthetic-data", "--seq-len", "32", "--micro-batch", "1", "--global-batch", "1",
                        "--steps", "1", "--warmup-steps", "0", "--device", "cpu", "--out", out, "--quiet"], check=True)
        model = os.path.join(out, "checkpoints", "latest")
        tokenizer = os.path.join(HERE, "..", "tests", "fixtures", "gpt2_tokenizer.json")

        def mine():
            _, memory = measured([PROGRAM, "generate", "--model", model, "--tokenizer", tokenizer, "--prompt", "The", "--temperature", "0",
                                  "--device", "cpu", "--max-tokens", str(TOKENS), "--threads", str(threads), "--precision", precision, "--json", file])
            with open(file, encoding="utf-8") as found:
                return {**json.load(found), "memory": memory}

        def yours():
            text, memory = measured([sys.executable, os.path.join(HERE, "yardstick.py"), "--generate", model, "--steps", str(TOKENS),
                                     "--batch", "1", "--seq", "1", "--threads", str(threads), "--precision", precision])
            return {**json.loads(text.splitlines()[-1]), "memory": memory}

        return row(f"gpt2-124M generates {TOKENS} tokens, {precision}", pairs, mine, {"transformers": yours}, GENERATION)


def lengths(threads, pairs):
    """Attention's rate at longer sequences against the shortest, by the same ops: its share grows no faster than its FLOPs."""
    def rate_at(seq, folder):
        with open(LLAMA, encoding="utf-8") as file:
            config = {**json.load(file), "max_position_embeddings": seq}
        model, found = os.path.join(folder, "config.json"), os.path.join(folder, "step.json")
        with open(model, "w", encoding="utf-8") as file:
            json.dump(config, file)
        measured([PROGRAM, "bench", "step", "--model", model, "--micro-batch", str(LENGTHS[-1] // seq), "--global-batch",
                  str(LENGTHS[-1] // seq), "--seq-len", str(seq), "--threads", str(threads), "--warm-up", "1", "--steps", "2",
                  "--roofline", "--json", found])
        with open(found, encoding="utf-8") as file:
            ops = [op for op in json.load(file)["roofline"]["ops"] if op["name"].startswith("attention")]
        return sum(op["flops"] for op in ops) / sum(op["seconds"] for op in ops)

    found = []
    with tempfile.TemporaryDirectory() as folder:
        rates = [[rate_at(seq, folder) for seq in LENGTHS] for _ in range(pairs)]
    for i, seq in enumerate(LENGTHS[1:], 1):
        ratios = [r[i] / r[0] for r in rates]
        middle = lambda i: statistics.median(r[i] for r in rates) / 1e9
        found.append({"row": f"attention, T = {seq}, GFLOP/s", "way": f"T = {LENGTHS[0]}", "bar": 1.0, "ratio": statistics.median(ratios),
                      "ratios": ratios, "ours": middle(i), "theirs": {f"T = {LENGTHS[0]}": middle(0)}, "torch": None})
    return found


def ways():
    """Of PyTorch. BENCH_MKL: a library that tells MKL that it runs on an Intel processor."""
    on_amd = os.environ.get("BENCH_MKL") and flags()[1]
    return [f"{how}, {mkl}" for how in ["eager", "compile"] for mkl in (["stock", "unlocked"] if on_amd else ["stock"])]


def row(name, pairs, a, others, least, most=None):
    """Runs of `a` and of each of `others` in turn; in later pairs only the two fastest of these."""
    left, right, stay = [], {}, list(others)
    for pair in range(pairs):
        left.append(a())
        for way in list(stay):
            run = others[way]()
            if run is None:  # it does not work here, say for want of memory
                print(f"{name}: {way} fails", flush=True)
                stay.remove(way)
                continue
            right.setdefault(way, []).append(run)
            rates = f"{rate(left[-1]):.0f} against {rate(right[way][-1]):.0f}"
            print(f"{name}, pair {pair + 1}: {rates} tokens/s ({way})", flush=True)
        stay.sort(key=lambda way: -statistics.median(map(rate, right[way])))
        stay = stay[:2]
    middle = statistics.median
    if not stay:
        return {"row": name, "way": None, "bar": least, "ratio": None, "ratios": [], "ours": middle(map(rate, left)), "theirs": {}, "torch": None}
    best = stay[0]
    ratios = [rate(x) / rate(y) for x, y in zip(left, right[best])]
    return {
        "row": name, "way": best, "bar": least, "memory_bar": most, "ratio": middle(ratios), "ratios": ratios,
        "ours": middle(map(rate, left)), "theirs": {way: middle(map(rate, runs)) for way, runs in right.items()},
        "memory": middle(x["memory"] for x in left), "their_memory": middle(x["memory"] for x in right[best]),
        "torch": next((x["torch"] for x in right[best] if "torch" in x), None),
    }


def processor():
    """As the program names it."""
    with tempfile.NamedTemporaryFile("r") as file:
        subprocess.run([PROGRAM, "bench", "step", "--model", "nano", "--micro-batch", "1", "--global-batch", "1", "--seq-len", "8", "--warm-up",
                        "1", "--steps", "1", "--json", file.name], check=True, stdout=subprocess.DEVNULL)
        return json.load(file)["processor"]


def rate(run):
    found = run["tokens_per_second"]
    return found["median"] if isinstance(found, dict) else found


def table(found):
    lines = ["| work | ours | theirs | ratio (spread) | bar | memory, MiB | ratio | measured |", "|---|---|---|---|---|---|---|---|"]
    for r in found:
        ways_ = "; ".join(f"{way} {x:,.0f}" for way, x in r["theirs"].items())
        met = "measured only" if r["bar"] is None else f"≥ {r['bar']}: {'met' if r['ratio'] >= r['bar'] else 'missed'}"
        memory = share = ""
        if r.get("memory_bar"):
            most = r["memory_bar"]
            met_too = "met" if r["memory"] <= most * r["their_memory"] else "missed"
            memory = f"{r['memory']:,.0f} against {r['their_memory']:,.0f}"
            share = f"{r['memory'] / r['their_memory']:.2f}, ≤ {most}: {met_too}"
        spread = f"{r['ratio']:.3f} ({min(r['ratios']):.3f} to {max(r['ratios']):.3f})"
        lines.append(f"| {r['row']} | {r['ours']:,.0f} | {ways_} | {spread} | {met} | {memory} | {share} | {r.get('date', 'now')}, {r.get('revision', '')} |")
    return "\n".join(lines) + "\n"


def compare(record, found):
    """A line for each row below KEPT of its recorded best."""
    best = record["best"]
    return [
        f"{r['row']}: recorded {best[r['row']]['ratio']:.3f} ({best[r['row']]['date']}), found {r['ratio']:.3f}, "
        f"{100 * r['ratio'] / best[r['row']]['ratio']:.1f} %"
        for r in found if r["row"] in best and r["ratio"] < KEPT * best[r["row"]]["ratio"]
    ]


def judge(record, found):
    below = compare(record, found)
    for line in below:
        print(f"bench-cpu: below {KEPT:.0%} of the record: {line}", file=sys.stderr)
    known = sum(r["row"] in record["best"] for r in found)
    if not known:
        refuse("the record has none of the rows found; run it without --check first")
    print(f"bench-cpu: {known - len(below)} of {known} rows are at {KEPT:.0%} of the record or above")
    sys.exit(1 if below else 0)


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def keep(path, found, about, page):
    """The latest figures, and of each row the best there has been; `page`: how they are written for people."""
    record = read(path + ".json") if os.path.exists(path + ".json") else {"best": {}}
    for r in found:
        old = record["best"].get(r["row"])
        if r["ratio"] is not None and (old is None or r["ratio"] > old["ratio"]):
            record["best"][r["row"]] = {key: r[key] for key in ["ratio", "ours", "way"]} | {key: about[key] for key in ["date", "revision"]}
    new = {r["row"]: r | {"date": about["date"], "revision": about["revision"]} for r in found}
    old = {r["row"]: r for r in record.get("latest", [])}
    record |= {"about": about, "latest": list((old | new).values())}
    with open(path + ".json", "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2, ensure_ascii=False)
        file.write("\n")
    with open(path + ".md", "w", encoding="utf-8") as file:
        file.write(page(record["latest"], about))


def page(found, about):
    return (f"# {about['processor']}, {about['cores']} cores, {about['threads']} used\n\n"
            f"{about['date']}, git {about['revision']}, PyTorch {about['torch']}, transformers {about['transformers']}, "
            f"{about['mpi']}; `scripts/bench-cpu.sh`, {about['pairs']} pairs in alternation, T = {SEQ}, tokens/s (medians).\n\n"
            + table(found) + "\nThe fastest way of PyTorch counts; beyond the two fastest each was run once. Best so far: the `.json` beside this.\n")


def file_name(machine):
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip().split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main():
    p = argparse.ArgumentParser(prog="scripts/bench-cpu.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--check", action="store_true", help="hold the ratios to the record; exit 1 below it")
    p.add_argument("--quick", action="store_true", help="one pair of two steps, the small models only, nothing recorded")
    p.add_argument("--rows", default="", metavar="REGEX", help="only the rows whose names match")
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--threads", type=int, default=2, help="cores used by either side")
    p.add_argument("--compare", nargs=2, metavar=("RECORD", "FOUND"), help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.compare:
        record, found = map(read, a.compare)
        judge(record, found["latest"])

    pairs, found = (1 if a.quick else a.pairs), []
    for name, model, batch, steps, bars, most in WORK:
        steps = 2 if a.quick else steps
        for precision, most in zip(["fp32", "bf16"], most):
            title = f"{name} {precision}, B = {batch}"
            if (a.quick and model == "gpt2") or not re.search(a.rows, title):
                continue
            least = bar(bars, precision)
            # Without instructions for it bf16 takes PyTorch minutes a step: looked at once, and not held to anything.
            those, times, count = (ways(), pairs, steps) if least else (ways()[:1], 1, 1)
            mine = lambda: ours(model, batch, precision, count, 1, a.threads)
            yours = {way: lambda way=way: theirs(model, batch, precision, count, a.threads, way) for way in those}
            found.append(row(title, times, mine, yours, least, most))
    for precision, least in RANKS.items():
        model, batch, steps = ("nano", 8, 2) if a.quick else ("gpt2", 4, 5)
        title = f"{'nano' if a.quick else 'gpt2-124M'} {precision}, 2 ranks against 1"
        if re.search(a.rows, title):
            one = {"1 rank": lambda: ours(model, batch, precision, steps, 1, a.threads)}
            pair = row(title, pairs, lambda: ours(model, batch, precision, steps, 2, a.threads), one, least)
            if precision == "fp32" and not a.quick:
                pair |= {"their_memory": theirs(model, batch, precision, 1, a.threads, "eager", 2)["memory"], "memory_bar": SHARDED}
            found.append(pair)
    if not a.quick and re.search(a.rows, "generation"):
        found += [generation(a.threads, pairs, precision) for precision in ["fp32", "bf16"]]
    if not a.quick and re.search(a.rows, "attention"):
        found += lengths(a.threads, pairs)
    if not found:
        refuse(f"--rows: no row matches {a.rows}")

    import transformers
    about = {
        "processor": processor(), "cores": len(os.sched_getaffinity(0)), "threads": a.threads, "pairs": pairs,
        "date": datetime.date.today().isoformat(), "revision": said("git", "rev-parse", "--short", "HEAD"),
        "torch": next((r["torch"] for r in found if r["torch"]), "not run"), "transformers": transformers.__version__,
        "mpi": said("mpirun", "--version"),
    }
    print("\n" + page(found, about))
    slug = file_name(about["processor"])
    path = os.path.join(HERE, "record", slug)
    if a.check:
        if not os.path.exists(path + ".json"):
            refuse(f"benches/record/{slug}.json: no record of this processor; run it without --check first")
        judge(read(path + ".json"), found)
    if not a.quick:
        keep(path, found, about, page)
        print(f"bench-cpu: recorded in benches/record/{slug}.md")


if __name__ == "__main__":
    main()
