"""What `import tinyconv` takes beyond NumPy's own import, in new processes by turns."""

import argparse
import statistics
import subprocess
import sys

from timing import machine

GOAL = 0.3  # seconds
CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    command = [sys.executable, "-c", CODE.format(module)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    seconds("tinyconv")  # its files are read, its bytecode is written
    pairs = [(seconds("numpy"), seconds("tinyconv")) for _ in range(rounds)]
    numpy, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    beyond = sorted(b - a for a, b in pairs)
    middle = statistics.median(beyond)
    print(f"machine: {machine()}")
    print(f"import numpy {numpy:.3f} s, import tinyconv {ours:.3f} s, {middle:.3f} s beyond it "
          f"({beyond[rounds // 4]:.3f}-{beyond[-1 - rounds // 4]:.3f}), "
          f"goal <= {GOAL}: {'met' if middle <= GOAL else 'NOT met'}")  # fmt: skip


if __name__ == "__main__":
    main()
