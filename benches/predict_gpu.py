#!/usr/bin/env python3
"""What a step on a GPU takes at best: each kernel's FLOPs and bytes over the data sheet's ceilings. A PREDICTION.

    predict_gpu.py              a table of models and GPUs, in Markdown

`Model.step` takes any two ceilings: scripts/bench-gpu.sh gives it those that it has measured.

An op takes max(FLOPs / arithmetic, bytes / memory), and ops follow one another. Bytes are what the kernels in src/ops/*.cu
ask of memory, each operand once (a second pass over a row finds it in a cache): activations and working weights bf16,
gradients of weights, masters and moments f32. FLOPs of attention are those of our own kernels, whose backward computes the
scores twice: 7 products where the forward has 2, half of each above the diagonal and left out. No launch, tail or barrier
costs anything here, and no ceiling is reached in practice: what is measured can only be slower.
"""
from dataclasses import dataclass

# NVIDIA's data sheets: dense bf16 FLOP/s, bytes/s of memory.
GPUS = {"H100 SXM": (989.4e12, 3.35e12), "A100 SXM 80 GB": (312e12, 2.039e12)}
STEP = 65_536  # tokens a step


@dataclass
class Model:
    name: str
    layers: int
    width: int
    heads: int
    kv: int
    hidden: int
    vocab: int
    biases: bool  # and learned positions, LayerNorm, GELU; otherwise rotary, RMSNorm, SwiGLU
    sequences: int  # of a micro-batch
    length: int = 1024

    def ops(self, step=STEP):
        """(part, FLOPs, bytes) of every op of one step."""
        n, c, f, t = self.sequences * self.length, self.width, self.hidden, self.length
        d = c // self.heads
        w, up = (self.heads + 2 * self.kv) * d, f if self.biases else 2 * f
        passes, v = step / n, -(-self.vocab // 128) * 128
        ops = []

        def add(part, times, flops, elements, halves=2):
            ops.append((part, times * flops, times * halves * elements))

        def linear(times, inputs, outputs):
            flops = 2 * n * inputs * outputs
            operands = n * (inputs + outputs) + inputs * outputs
            add("products", times, flops, operands)  # y
            add("products", times, flops, operands)  # dx
            add("products", times, flops, n * (inputs + outputs) + 4 * inputs * outputs)  # dW, added to in f32

        blocks = passes * self.layers
        for inputs, outputs in [(c, w), (c, c), (c, up), (f, c)]:
            linear(blocks, inputs, outputs)
        add("products", blocks, 0, 2 * n * c)  # the residual stream read by the out and down products
        for times in [2 * blocks, passes]:  # forward: x, y; backward: dy, x, dx twice
            add("norms", times, 0, n * c * (2 + 4))
        if not self.biases:
            add("rotary positions", blocks, 0, 2 * 2 * n * (self.heads + self.kv) * d)
        pairs = 2 * n * t / 2 * c  # FLOPs of one product of attention
        add("attention", blocks, 2 * pairs, n * (w + c))
        add("attention", blocks, 0, 2 * n * c)  # delta
        add("attention", blocks, 3 * pairs, n * (w + c + c))  # dq
        add("attention", blocks, 4 * pairs, n * (w + c + (w - c)))  # dk, dv
        if self.biases:  # GELU and biases' gradients end a product, which keeps its input and reads it in the backward
            add("products", blocks, 0, 2 * n * f)
        else:
            add("activation", blocks, 0, n * (up + f) + n * (f + 2 * up))
        linear_head = 2 * n * c * v
        for _ in range(3):
            add("products", passes, linear_head, n * (c + v) + c * v * (4 if _ == 2 else 1))
        add("loss", passes, 0, 2 * n * v)  # read, and written as the gradient
        add("embedding", passes, 0, n * c * (2 + 1) + n * c * 4)  # dwte: f32, read and written
        add("optimizer", 1, 0, self.parameters(), 24 + 4 + 2)  # w, m, v twice; g; the bf16 copy
        add("optimizer", 1, 0, self.parameters(), 4 + 4)  # the norm, and zeroing
        return ops

    def step(self, arithmetic, memory, step=STEP):
        """Seconds of each part of a step of so many tokens."""
        times = {}
        for part, flops, moved in self.ops(step):
            times[part] = times.get(part, 0.0) + max(flops / arithmetic, moved / memory)
        return times

    def parameters(self):
        c, f = self.width, self.hidden
        d = c // self.heads
        w, up = (self.heads + 2 * self.kv) * d, f if self.biases else 2 * f
        return self.layers * (c * w + c * c + c * up + f * c) + c * self.vocab + (c * self.length if self.biases else 0)


MODELS = [
    Model("gpt2-124M, B = 32", 12, 768, 12, 12, 3072, 50257, True, 32),
    Model("gpt2-1.5B, B = 16", 48, 1600, 25, 25, 6400, 50257, True, 16),
    Model("Llama-3.2-1B, B = 16", 16, 2048, 32, 8, 8192, 128256, False, 16),
]


def main():
    parts = ["products", "attention", "norms", "activation", "rotary positions", "loss", "embedding", "optimizer"]
    print(f"| ms of a step of {STEP:,} tokens, T = 1024 | {' | '.join(parts)} | step | tokens/s |")
    print("|---" * (len(parts) + 3) + "|")
    for gpu, (arithmetic, memory) in GPUS.items():
        for model in MODELS:
            times = model.step(arithmetic, memory)
            step = sum(times.values())
            cells = " | ".join(f"{1e3 * times[p]:.1f}" if p in times else "" for p in parts)
            print(f"| {gpu}, {model.name} | {cells} | {1e3 * step:.0f} | {round(STEP / step, -2):,.0f} |")


if __name__ == "__main__":
    main()
