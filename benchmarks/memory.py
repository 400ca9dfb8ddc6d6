"""Peak memory of one training step of ResNet-8 at batch 128, tinyconv beside PyTorch.

    python benchmarks/memory.py [--batch 128] [--json FILE]

Each side runs in a process of its own: the step is run three times, the high-water mark of the
resident set is reset before the third (Linux: /proc/self/clear_refs), and what counts is the peak
over what was resident before the first step: the libraries and the process itself are not counted.
Goal: at most 1.2 times PyTorch's.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

SIDES = {"tinyconv": "tinyconv_step", "PyTorch": "torch_step"}


def status(field: str) -> float:
    """A field of /proc/self/status in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(side: str, n: int) -> None:
    import networks

    make = getattr(networks, SIDES[side])
    make(1)()  # whatever is loaded or allocated once
    step = make(n)
    before = status("VmRSS")
    for _ in range(3):
        Path("/proc/self/clear_refs").write_text("5")
        step()
    print(json.dumps({"peak": status("VmHWM") - before, "before": before}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of one training step of ResNet-8.")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help="measure one side in this process")
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.side:
        measure(options.side, options.batch)
        return
    peaks: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--batch", str(options.batch)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks[side].append(json.loads(done.stdout)["peak"])
    ours, peer = (sorted(peaks[side])[options.rounds // 2] for side in SIDES)
    met = "met" if ours <= 1.2 * peer else "NOT met"
    print(
        f"ResNet-8 step, batch {options.batch}, peak memory: tinyconv {ours:.0f} MiB, "
        f"PyTorch {peer:.0f} MiB, ratio {ours / peer:.2f}, goal <= 1.2: {met}"
    )
    if options.json:
        Path(options.json).write_text(
            json.dumps({"ours": ours, "peer": peer, "ratio": ours / peer})
        )


if __name__ == "__main__":
    main()
