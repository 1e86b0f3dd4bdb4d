#!/usr/bin/env python3
"""Draws a run, or several over one another, from metrics.h5: a starting point for plots of your own.

    pip install h5py matplotlib
    plot_metrics.py runs/first [runs/second …] [--output curves.png]

It lies in scripts/ of the sources, and in $LLM_TRAIN_ROOT/share/llm-train of an installation.

Works on a run that is still going (SWMR). Every dataset says what it holds: dict(h5["train/loss"].attrs).
"""
import argparse
import os
import pathlib

os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")  # parallel file systems often have no locks

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs, or their metrics.h5")
parser.add_argument("--output", default="curves.png", help="curves.png, .pdf or .svg")
arguments = parser.parse_args()
try:  # after the options, so that --help works without
    import h5py
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError as missing:
    parser.exit(2, f"{parser.prog}: expected h5py and matplotlib, found no {missing.name}: pip install h5py matplotlib\n")

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
                     "axes.axisbelow": True, "axes.prop_cycle": plt.cycler(color=["#2e62a8", "#d76728", "#3a9169", "#be3455", "#7e57a0"])})
drawn = []
figure, ((loss, rate), (norm, time)) = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
for number, run in enumerate(arguments.runs):
    file = run / "metrics.h5" if run.is_dir() else run
    if not file.is_file():
        parser.error(f"{file}: expected the metrics.h5 of a run, found no such file")
    with h5py.File(file, "r", swmr=True) as h5:
        train = {name: column[:] for name, column in h5["train"].items()}
        held_out = {name: (group["step"][:], group["loss"][:]) for name, group in h5["eval"].items()}
    rows = min(map(len, train.values()))  # a writer may be in the middle of a row
    if rows == 0:
        parser.error(f"{run}: no step is done yet")
    train, color = {name: column[:rows] for name, column in train.items()}, f"C{number}"
    step, name = train["step"], run.name if run.is_dir() else str(run)
    loss.plot(step, train["loss"], color=color, alpha=0.75, linewidth=1, label=name)
    for i, (corpus, (at, value)) in enumerate(held_out.items()):
        loss.plot(at, value, color=color, marker="osD^"[i % 4], markersize=4, linestyle="--", label=f"{name}, {corpus}")
    rate.plot(step, train["tokens_per_second"], color=color, linewidth=1)
    norm.semilogy(step, train["grad_norm"], color=color, linewidth=1)
    drawn.append(f"{rows} steps of {name}, last loss {train['loss'][-1]:.4f}")
parts = ["data_time", "forward_time", "backward_time", "comm_exposed_time", "optimizer_time"]
colors = ["#c8aa3c", "#7aaad7", "#386aa8", "#cd5c46", "#6ea578"]
time.stackplot(step, [1e3 * train[part] for part in parts], labels=[p[:-5].replace("_", ", ") for p in parts], colors=colors)

for axes, title in [(loss, "loss (nats per token)"), (rate, "tokens/s, all ranks"), (norm, "gradient norm"),
                    (time, f"time of a step (ms), {name}")]:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
rate.set_ylim(bottom=0)
norm.yaxis.set_major_formatter("{x:g}"), norm.yaxis.set_minor_formatter("{x:g}")
time.set_ylim(0, 1.5 * sorted(1e3 * train["step_time"])[int(0.95 * (rows - 1))])  # the slowest would press the others flat
loss.legend(frameon=False), time.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
figure.savefig(arguments.output, dpi=150)
print(f"{arguments.output}: {'; '.join(drawn)}")
