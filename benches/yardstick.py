#!/usr/bin/env python3
"""What PyTorch does with the same work: one training run on made-up tokens, its figures in one JSON line.

A model with a config.json is transformers' LlamaForCausalLM; else it is a plain GPT-2 of the sizes given: fused q, k, v,
scaled_dot_product_attention, tanh GELU, tied head, no dropout. A step is what ours is: gradients to zero, forward, mean
cross-entropy, backward, clipping to norm 1, AdamW (fused) with decay on matrices. bf16 is autocast. --ranks N: that many
processes under DistributedDataParallel and gloo share the batch. --generate DIR: transformers' greedy generate with its
cache, of --steps tokens, in place of training.

--device cuda: the same on a GPU, products of f32 in f32 (not tf32); each step is waited for. --pure: weights, gradients and moments
in bf16 too, in place of autocast: less work than ours, and not the same numbers. --accumulate N: that many passes a step, of
--batch sequences each. --copy: in place of training, how fast the device's memory is copied.
"""
import argparse
import json
import statistics
import tempfile
import time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        batch, seq, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, seq, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, seq, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, layers, heads, width, hidden, vocab, context):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


class Llama(nn.Module):
    def __init__(self, config):
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM
        from transformers.models.llama import modeling_llama

        # Without a mask attention is causal by a word, and SDPA may take its flash kernel; traced by torch.compile, transformers would
        # build a matrix of ones and zeros, which forbids it.
        modeling_llama.create_causal_mask = lambda *_, **__: None
        self.model = LlamaForCausalLM(LlamaConfig(**config, use_cache=False))

    def forward(self, tokens):
        return self.model(tokens).logits


def generate(a):
    """Tokens a second of one continuation, the prompt's pass included, after one that warms up."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(a.generate).to(torch.bfloat16 if a.precision == "bf16" else torch.float32).eval()
    prompt = torch.tensor([[464]])
    how = {"max_new_tokens": a.steps, "min_new_tokens": a.steps, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        model.generate(prompt, **how)
        began = time.perf_counter()
        model.generate(prompt, **how)
    print(json.dumps({"tokens_per_second": a.steps / (time.perf_counter() - began), "torch": torch.__version__}))


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def copy(a):
    """Bytes a second, those read and those written, of copies that no cache holds."""
    n = (1 << 30 if a.device == "cuda" else 1 << 24) // 4
    x, y = torch.ones(n, device=a.device), torch.empty(n, device=a.device)
    times = []
    for _ in range(3 + a.steps):
        wait(a.device)
        began = time.perf_counter()
        y.copy_(x)
        wait(a.device)
        times.append(time.perf_counter() - began)
    print(json.dumps({"bytes_per_second": 2 * 4 * n / statistics.median(times[3:]), "torch": torch.__version__}))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--llama", metavar="config.json", help="transformers' Llama in place of GPT-2")
    for size in ["layers", "heads", "width", "hidden", "vocab", "context"]:
        p.add_argument(f"--{size}", type=int)
    p.add_argument("--batch", type=int, required=True)
    p.add_argument("--seq", type=int, required=True)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--warm-up", type=int, default=3)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--ranks", type=int, default=1)
    p.add_argument("--generate", metavar="DIR")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--pure", action="store_true")
    p.add_argument("--accumulate", type=int, default=1)
    p.add_argument("--copy", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.copy:
        return copy(a)
    if a.generate:
        return generate(a)
    if a.ranks > 1:
        a.batch //= a.ranks
        with tempfile.TemporaryDirectory() as folder:
            return torch.multiprocessing.spawn(train, (a, f"file://{folder}/meet"), nprocs=a.ranks)
    train(0, a, None)


def train(rank, a, meet):
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    if a.llama:
        with open(a.llama, encoding="utf-8") as file:
            config = json.load(file)
        model, vocab = Llama(config), config["vocab_size"]
    else:
        model, vocab = Gpt2(a.layers, a.heads, a.width, a.hidden, a.vocab, a.context), a.vocab
    model = model.to(a.device, torch.bfloat16 if a.pure else torch.float32)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
    run = torch.compile(model) if a.compile else model
    if meet:
        torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=a.ranks)
        run = nn.parallel.DistributedDataParallel(model)

    times = []
    for _ in range(a.warm_up + a.steps):
        rows = torch.randint(0, vocab, (a.accumulate, a.batch, a.seq + 1)).to(a.device)
        tokens, targets = rows[:, :, :-1].contiguous(), rows[:, :, 1:].contiguous()
        wait(a.device)
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        for i in range(a.accumulate):
            with torch.autocast(a.device, torch.bfloat16, enabled=a.precision == "bf16" and not a.pure):
                loss = F.cross_entropy(run(tokens[i]).flatten(0, 1).float(), targets[i].flatten()) / a.accumulate
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = loss.item() * a.accumulate  # waits for the step
        times.append(time.perf_counter() - began)
    times = times[a.warm_up:]
    if rank > 0:
        return
    print(json.dumps({
        "tokens_per_second": a.accumulate * a.batch * a.ranks * a.seq / statistics.median(times),
        "step_seconds": times,
        "loss": last,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
