"""One training step of ResNet-8 at batch 128: tinyconv, PyTorch eager, DeZero, in turn.

    python benchmarks/resnet_step.py [--batch 128] [--threads N] [--rounds 11] [--json FILE]

Goals without a compiler: at most 2.0 times PyTorch eager's time, at most a quarter of DeZero's.
"""

import argparse

import torch
from networks import dezero_step, tinyconv_step, torch_step
from timing import compare, report

import tinyconv as tc


def main() -> None:
    parser = argparse.ArgumentParser(description="One training step of ResNet-8.")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=tc.get_num_threads())
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tc.set_num_threads(options.threads)
    n = options.batch
    label = f"ResNet-8 step, batch {n}, {options.threads} threads"
    ours = tinyconv_step(n)
    rows = [
        compare(label, ours, peer, goal=goal, rounds=rounds, warmup=2, peer_name=name)
        for name, peer, goal, rounds in (
            ("PyTorch eager", torch_step(n), 2.0, options.rounds),
            ("PyTorch channels_last", torch_step(n, channels_last=True), 2.0, options.rounds),
            ("DeZero", dezero_step(n), 0.25, max(3, options.rounds // 3)),
        )
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
