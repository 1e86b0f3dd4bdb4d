#!/usr/bin/env python3
"""Start-up: files opened and bytes read by a rank (strace), and the time from launch to the end of the first step, ours beside torchrun.

    python3 benches/startup.py [--program FILE] [--ranks 1,4] [--repeat 5] [--no-torch]

Run with a Python that has torch and transformers for the comparison. Files under /proc, /sys and /dev, and what the launcher keeps for
the session, do not count: they are no file system's. Bytes read are those of read(2) and pread(2); bytes of files are the sizes of all
files opened once each, which is the most that mapping them can bring in.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "--model nano --vocab 512 --seq-len 64 --micro-batch 1 --synthetic-data --threads 1 --device cpu --no-save-at-end --resume never"
THEIRS = """
import torch, transformers, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
config = transformers.GPT2Config(n_layer=4, n_embd=256, n_head=4, vocab_size=512, n_positions=64)
model = torch.nn.parallel.DistributedDataParallel(transformers.GPT2LMHeadModel(config))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
tokens = torch.randint(0, 512, (1, 64))
model(input_ids=tokens, labels=tokens).loss.backward()
optimizer.step()
if dist.get_rank() == 0:
    print("step 1/1", flush=True)
dist.destroy_process_group()
"""
NOT_A_FILE = re.compile(r"^(/proc|/sys|/dev|/run)\b|ompi\.|pmix_dstor|^(pipe|socket|anon_inode)|/startup-")


def environment():
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.getuid() == 0 else {}
    return os.environ | root | {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}


def traced(command, ranks_launcher, folder):
    """(files opened, their bytes, bytes read) of each process that traces itself into `folder`."""
    strace = ["strace", "-ff", "-y", "-qq", "-e", "trace=openat,open,read,pread64", "-o", f"{folder}/trace"]
    subprocess.run(ranks_launcher + strace + command, check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files, read = set(), 0
    for trace in Path(folder).glob("trace.*"):
        for line in trace.read_text(errors="replace").splitlines():
            opened = re.search(r"open(?:at)?\(.*\) = \d+<([^>]*)>$", line)
            if opened and not NOT_A_FILE.search(opened[1]) and os.path.isfile(opened[1]):
                files.add(opened[1])
            got = re.match(r"(?:read|pread64)\(\d+<([^>]*)>.* = (\d+)$", line)
            if got and not NOT_A_FILE.search(got[1]):
                read += int(got[2])
    return len(files), sum(os.path.getsize(f) for f in files), read


def until_first_step(command):
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    took = None
    for line in process.stdout:
        if took is None and line.startswith("step 1/"):
            took = time.monotonic() - began
    if process.wait() or took is None:
        sys.exit(f"startup: {' '.join(command)} ended with {process.returncode}, without a first step")
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default=str(ROOT / "target/release/llm-train"))
    parser.add_argument("--ranks", default="1,4")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-torch", action="store_true")
    asked = parser.parse_args()
    processor = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    family = dict(l.split(":")[0:2] for l in open("/proc/cpuinfo").read().split("\n\n")[0].replace("\t", "").splitlines() if ":" in l)
    number = f"family {family.get('cpu family', '?').strip()}, model {family.get('model', '?').strip()}"
    print(f"{processor}, {number}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.1f} before")
    if not asked.no_torch:
        versions = "import torch, transformers; print(f'torch {torch.__version__}, transformers {transformers.__version__}')"
        print(subprocess.run([sys.executable, "-c", versions], capture_output=True, text=True, check=True).stdout.strip())
    with tempfile.TemporaryDirectory(prefix="startup-") as scratch:
        script = Path(scratch) / "theirs.py"
        script.write_text(THEIRS)
        for ranks in map(int, asked.ranks.split(",")):
            ours = [asked.program, *MODEL.split(), "--global-batch", str(ranks), "--steps", "1", "--out", f"{scratch}/out"]
            launcher = ["mpirun", "-n", str(ranks), "--bind-to", "none"]
            kinds = [("llm-train", launcher + ours, ours)]
            if not asked.no_torch:
                torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
                kinds.append(("torchrun", torchrun, [sys.executable, str(script)]))
            times = {name: [] for name, *_ in kinds}
            for _ in range(asked.repeat + 1):  # in alternation; the first of each fills the page cache
                for name, command, _ in kinds:
                    times[name].append(until_first_step(command))
            for name, command, alone in kinds:
                warm = times[name][1:]
                spread = f"{min(warm):.2f} to {max(warm):.2f}, standard deviation {statistics.stdev(warm) if len(warm) > 1 else 0:.2f}"
                print(f"{name:10} {ranks} ranks: first step after {statistics.median(warm):.2f} s ({spread}, n = {len(warm)})")
            folder = Path(scratch) / f"startup-{ranks}"
            folder.mkdir()
            for name, _, alone in kinds:
                each = folder / name
                each.mkdir()
                if name == "llm-train":
                    # the last of the ranks is traced, the others run as they are
                    others = ["mpirun", "--bind-to", "none"] + (["-n", str(ranks - 1), *alone, ":"] if ranks > 1 else [])
                    opened = traced(alone, others + ["-n", "1"], each)
                elif ranks == 1:
                    env = ["env", "RANK=0", "WORLD_SIZE=1", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=0"]
                    opened = traced(alone, env, each)
                else:
                    continue
                print(f"{name:10} {ranks} ranks: a rank opens {opened[0]} files of {opened[1] / 1e6:.1f} MB, and reads {opened[2] / 1e6:.1f} MB by read(2)")
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
