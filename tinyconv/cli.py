"""The command line: ``tinyconv train mnist``, ``data mnist``, ``explain conv``, ``doctor``."""

from __future__ import annotations

import argparse
import math
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

from tinyconv import __version__, dist, doctor
from tinyconv.errors import TinyconvError
from tinyconv.see.commands import add_commands
from tinyconv.train import DATASETS, MODELS, Config, Interrupted, Run, Trainer

RUNS = Path("runs")
INTERRUPTED = 130  # what a shell expects after Ctrl-C


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tinyconv",
        description="Convolutions and their gradients.",
        epilog="example: tinyconv train mnist --data sample --epochs 2",
    )
    top.set_defaults(run=lambda _: print(top.format_help(), end="") or 0)
    top.add_argument("--version", action="version", version=f"tinyconv {__version__}")
    commands = top.add_subparsers(metavar="COMMAND")

    train = commands.add_parser("train", help="train a ResNet", description="Train a ResNet.")
    train.add_argument("dataset", choices=DATASETS, help="what to learn")
    default = Config()
    # No defaults here: --resume must know which options were given.
    train.add_argument("--model", choices=MODELS, help=f"default: {default.model}")
    train.add_argument("--epochs", type=_positive, metavar="N", help="default: 3, on the sample 5")
    train.add_argument(
        "--batch-size", type=_positive, metavar="N", help=f"default: {default.batch_size}"
    )
    train.add_argument(
        "--lr", type=_positive_number, help=f"the schedule's peak, default: {default.lr}"
    )
    train.add_argument(
        "--data",
        choices=("full", "sample", "auto"),
        help="the full set, the embedded sample, or the full set if it can be had (default: auto)",
    )
    train.add_argument(
        "--device", help="auto, cpu or cuda; default: auto, the GPU if there is one"
    )
    train.add_argument(
        "--cuda-graph", action="store_true", default=None,
        help="on a GPU: capture the train step as a CUDA graph",
    )  # fmt: skip
    train.add_argument("--seed", type=int, metavar="N", help=f"default: {default.seed}")
    train.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="the run's folder, default: a new one under runs/",
    )
    train.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, or with the latest one"
    )
    train.set_defaults(run=_train)

    page = commands.add_parser(
        "report",
        help="a run's report as one HTML page",
        description="Write report.html of a run, finished or not: curves, the first layer's "
        "filters, the confusion matrix, the worst mistakes, the gradients' norms.",
    )
    page.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    page.set_defaults(run=_report)

    get = commands.add_parser(
        "data",
        help="find or download a data set",
        description="Find the full data set, or download it; says where it is or why it is not.",
    )
    get.add_argument("dataset", choices=DATASETS, help="what to look for")
    get.set_defaults(run=_data)

    add_commands(commands)

    check = commands.add_parser(
        "doctor",
        help="what is there, what is missing, how to fix it",
        description="Packages, kernels, data and programs: !! is a problem, -- is optional.",
    )
    check.set_defaults(run=lambda _: doctor.main())
    return top


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def _train(options: argparse.Namespace) -> int:
    given = {
        field.name: value
        for field in fields(Config)
        if (value := getattr(options, field.name, None)) is not None
    }
    first = dist.get_rank() == 0  # of several ranks one decides which run it is
    config, folder = dist.broadcast_object(_run_and_config(options, given) if first else None)
    run = Run(folder)
    trainer = Trainer(config, run)
    run.claim(options.resume, _numbered(config) if options.out is None else ())
    try:
        return _fit(trainer, options)
    finally:
        run.release()


def _fit(trainer: Trainer, options: argparse.Namespace) -> int:
    config, run = trainer.config, trainer.run
    if options.resume:
        trainer.restore()
    source = trainer.train_set
    ranks = f", {trainer.ranks} ranks" if trainer.ranks > 1 else ""
    trainer.say(
        f"{config.model} on {config.dataset}: {len(source)} training and "
        f"{len(trainer.test_set)} test images ({source.source}){ranks}, run folder {run.folder}"
    )
    if trainer.epoch == trainer.config.epochs:
        trainer.say(f"the run is finished: {trainer.epoch} epochs; for more, start a new run")
    elif options.resume:
        whole = trainer.batch == len(trainer.loader)
        place = "the test" if whole else f"step {trainer.batch + 1}"
        trainer.say(f"resuming at {place} of epoch {trainer.epoch + 1}")
    try:
        history = trainer.fit()
    except Interrupted:
        trainer.say(
            f"\nstopped after step {trainer.batch} of epoch {trainer.epoch + 1} and saved; go on "
            f"with: tinyconv train {config.dataset} --resume --out {run.folder}"
        )
        if run.writes:
            trainer.say(f"how far it came is in {trainer.write_report()}")
        return INTERRUPTED
    trainer.say(
        f"test accuracy {history[-1]['test_accuracy']:.2f} %, everything is in {run.folder}; "
        f"look at {run.folder / 'report.html'}"
    )
    return 0


def _run_and_config(
    options: argparse.Namespace, given: dict[str, object]
) -> tuple[Config, Path]:
    if options.resume:
        run = _run_to_resume(options.out)
        config = run.read_config()
        _check_same(config, given, run)
        return config, run.folder
    config = replace(Config(), **given)  # type: ignore[arg-type]
    return config, _new_run(options.out, config).folder


def _run_to_resume(out: Path | None) -> Run:
    if out is not None:
        if not Run(out).checkpoint.exists():
            raise FileNotFoundError(f"--resume: there is no checkpoint in {out}")
        return Run(out)
    saved = sorted(RUNS.glob("*/checkpoint.safetensors"), key=lambda p: p.stat().st_mtime)
    if not saved:
        raise FileNotFoundError(f"--resume: there is no run under {RUNS}/; say where: --out FOLDER")
    return Run(saved[-1].parent)


def _check_same(config: Config, given: dict[str, object], run: Run) -> None:
    """A resumed run goes on as it began; an option that says otherwise is an error."""
    before = asdict(config)
    open_ones = {("data", "auto"), ("device", "auto")}
    changed = [k for k, v in given.items() if v != before[k] and (k, v) not in open_ones]
    if changed:
        listed = ", ".join(f"{k} was {before[k]}, now {given[k]}" for k in changed)
        why = ": the learning rate's schedule is laid out over all epochs"
        raise ValueError(
            f"--resume continues {run.folder} with its own options ({listed})"
            f"{why if 'epochs' in changed else ''}; "
            "leave them out, or start a new run without --resume"
        )


def _new_run(out: Path | None, config: Config) -> Run:
    """A folder that holds no run yet: an earlier run is never written over."""
    if out is not None:
        if Run(out).checkpoint.exists():
            raise FileExistsError(
                f"{out} holds a run already: go on with it (--resume), or choose another --out"
            )
        return Run(out)
    return Run(next(folder for folder in _numbered(config) if not folder.exists()))


def _numbered(config: Config) -> Iterator[Path]:
    """Folders for runs of this kind."""
    name = f"{config.dataset}-{config.model}"
    return (RUNS / (name if n == 1 else f"{name}-{n}") for n in range(1, sys.maxsize))


def _report(options: argparse.Namespace) -> int:
    run = Run(options.folder)
    if not run.checkpoint.exists():
        raise FileNotFoundError(f"there is no run in {run.folder}: it has no {run.checkpoint.name}")
    trainer = Trainer(run.read_config(), run)
    trainer.restore()
    print(trainer.write_report())
    return 0


def _data(options: argparse.Namespace) -> int:
    for train in (True, False):
        dataset = DATASETS[options.dataset](train=train, source="full")
        print(f"{'training' if train else 'test'}: {len(dataset)} images from {dataset.folder}")
    return 0


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a plain line: the user of a command has no use for our line numbers."""
    print(f"note: {_as_options(str(message))}", file=sys.stderr)


def _as_options(text: str) -> str:
    """What the library says about its arguments, in the words of the command line."""
    text = text.replace("source='full' says", "--data full, or tinyconv data mnist, says")
    text = re.sub(r"region=np\.s_\[(.*)\]", lambda m: f"--region {m[1].replace(' ', '')}", text)
    return re.sub(r"source='(\w+)'", r"--data \1", text)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; what the user can mend is one line on standard error, and exit status 2."""
    options = parser().parse_args(arguments)
    warnings.showwarning = _note
    try:
        return int(options.run(options))
    except (TinyconvError, OSError, ValueError, FloatingPointError) as error:
        return dist.abort(f"tinyconv: {_as_options(str(error))}", 2)
    except KeyboardInterrupt:
        return dist.abort("", INTERRUPTED)
