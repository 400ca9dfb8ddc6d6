"""All that needs a GPU, in one go: does it compute right, and how fast beside PyTorch?

    benchmarks/gpu_check.sh                            # makes or finds an environment first
    python benchmarks/gpu_check.py [--out gpu_check.json] [--budget 460] [--part NAME ...]
    python benchmarks/gpu_check.py --list              # the parts
    python benchmarks/gpu_check.py --table FILE.json   # its tables, for docs/performance.md

Each part runs in a process of its own and has a share of the time; a part or a row that fails, or
for which no time is left, is reported, and the others go on.  The JSON file is always complete.
The exit status is 1 if anything failed.  Times are of CUDA events, all sides in turn in one process
(A B C A B C ...), medians over the rounds; both libraries compute in the precision that is named.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from gpucheck import correct, machine, speed, suite  # noqa: F401  the parts register themselves
from gpucheck.device import stand_in
from gpucheck.markdown import tables
from gpucheck.parts import PARTS, TINY, Context, Sizes, in_order, run
from gpucheck.report import check, read


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All that needs a GPU, in one go.")
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable; default: all")
    parser.add_argument("--list", action="store_true", help="name the parts and stop")
    parser.add_argument("--budget", type=float, default=460.0, help="seconds for all parts")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="print a report's tables")
    parser.add_argument("--backend", default="cupy", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def child(options: argparse.Namespace) -> None:
    """One part, in a process that does not outlive a parent who was killed."""
    signal.alarm(round(1.2 * options.seconds) + 10)
    sizes = TINY if options.tiny else Sizes()
    with stand_in(options.backend), tempfile.TemporaryDirectory() as folder:
        context = Context(options.seconds, Path(folder), sizes, options.backend)
        run(PARTS[options.child], context, options.rows)


def main() -> int:
    options = arguments()
    if options.child:
        child(options)
        return 0
    if options.list:
        print(*(f"{part.name:<14} {part.title}" for part in in_order()), sep="\n")
        return 0
    if options.table:
        print(tables(read(options.table)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the running part is ended, too
    passed_on = ["--backend", options.backend, *(["--tiny"] if options.tiny else [])]
    report = check(options.part or list(PARTS), options.out, options.budget, passed_on)
    print(tables(report))
    print(f"{report['seconds']:.0f} s; {options.out}")
    return int(any(entry["status"] == "failed" for entry in report["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
