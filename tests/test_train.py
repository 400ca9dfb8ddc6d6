"""Training runs: what they leave behind, and that a stopped run goes on bit for bit."""

import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tinyconv import cli, data, doctor, io, nn, train
from tinyconv.train import Config, Interrupted, Run, Trainer

BATCH, IMAGES = 16, 96  # six steps an epoch


class Few(data.MNIST):
    """The first images of the embedded sample."""

    def __init__(self, train=True, source="sample"):
        super().__init__(train=train, source="sample")
        self.images, self.labels = self.images[:IMAGES], self.labels[:IMAGES]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setitem(train.DATASETS, "mnist", Few)
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return cli.main(["train", "mnist", "--batch-size", str(BATCH), "--epochs", "2", *arguments])


def weights(folder):
    return {k: v.numpy() for k, v in io.load(folder / "model.safetensors").items()}


def assert_same_weights(a, b):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def stop_after(monkeypatch, steps, act):
    """Call ``act`` in the middle of the given step, counted from the start of the process."""
    plain = Trainer.step
    taken = iter(range(1, 10_000))

    def step(self, images, labels):
        if next(taken) == steps:
            act()
        return plain(self, images, labels)

    monkeypatch.setattr(Trainer, "step", step)
    return plain


def test_a_run_leaves_its_folder(tmp_path, capsys):
    assert run("--out", "one") == 0
    folder = tmp_path / "one"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"train_loss", "test_loss", "test_accuracy", "images_per_second"} <= rows[0].keys()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(folder.glob("graph.*"))
    model = nn.resnet.resnet8()
    model.load_state_dict(io.load(folder / "model.safetensors"))
    loss, accuracy = train.evaluate(model, Few(train=False))
    assert loss == rows[-1]["test_loss"]
    assert accuracy == rows[-1]["test_accuracy"]
    printed = capsys.readouterr().out
    assert f"test accuracy {accuracy:.2f} %" in printed
    assert printed.count("epoch ") == 2


def test_the_same_seed_gives_the_same_weights(tmp_path):
    run("--out", "a")
    run("--out", "b")
    run("--out", "c", "--seed", "1")
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert (weights(tmp_path / "a")["fc.weight"] != weights(tmp_path / "c")["fc.weight"]).any()


@pytest.mark.parametrize("step", [1, 3, 6, 9])
def test_ctrl_c_saves_and_resume_goes_on(tmp_path, monkeypatch, capsys, step):
    run("--out", "whole")
    handler = signal.getsignal(signal.SIGINT)
    plain = stop_after(monkeypatch, step, lambda: signal.raise_signal(signal.SIGINT))
    assert run("--out", "stopped") == 130
    assert signal.getsignal(signal.SIGINT) is handler
    assert "--resume --out stopped" in capsys.readouterr().out
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    monkeypatch.setattr(Trainer, "step", plain)
    assert cli.main(["train", "mnist", "--resume", "--out", "stopped"]) == 0
    place = {1: "step 2 of epoch 1", 3: "step 4 of epoch 1", 6: "the test of epoch 1"}
    assert f"resuming at {place.get(step, 'step 4 of epoch 2')}\n" in capsys.readouterr().out
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")
    ours, theirs = ((tmp_path / f / "metrics.jsonl").read_text() for f in ("whole", "stopped"))
    for a, b in zip(ours.splitlines(), theirs.splitlines(), strict=True):
        a, b = json.loads(a), json.loads(b)
        del a["images_per_second"], b["images_per_second"]
        assert a == b


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    import test_train
    from tinyconv import cli, train
    train.DATASETS["mnist"], train.SAVE_EVERY = test_train.Few, 2
    plain, taken = train.Trainer.step, []

    def step(self, images, labels):
        taken.append(1)
        if len(taken) == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, images, labels)

    train.Trainer.step = step
    cli.main(["train", "mnist", "--batch-size", "{batch}", "--epochs", "2", "--out", "killed"])
"""


@pytest.mark.parametrize("step", [1, 5, 10])
def test_resume_after_a_kill(tmp_path, request, step):
    run("--out", "whole")
    code = KILLED.format(tests=str(request.path.parent), step=step, batch=BATCH)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert cli.main(["train", "mnist", "--resume"]) == 2  # runs/ is empty: it must be said where
    assert cli.main(["train", "mnist", "--resume", "--out", "killed"]) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


def test_a_finished_run_resumes_to_itself(tmp_path, capsys):
    run("--out", "a")
    before = weights(tmp_path / "a")
    assert cli.main(["train", "mnist", "--resume", "--out", "a"]) == 0
    assert "the run is finished: 2 epochs" in capsys.readouterr().out
    after = weights(tmp_path / "a")
    assert all((before[name] == after[name]).all() for name in before)


def test_runs_are_not_written_over(tmp_path, capsys):
    assert run() == 0
    assert run() == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [
        "mnist-resnet8",
        "mnist-resnet8-2",
    ]
    assert run("--out", "runs/mnist-resnet8") == 2
    assert "holds a run already" in capsys.readouterr().err


def test_resume_refuses_other_options(capsys):
    assert run("--out", "a") == 0
    assert cli.main(["train", "mnist", "--resume", "--out", "a", "--lr", "0.1"]) == 2
    assert "lr was 0.3, now 0.1" in capsys.readouterr().err
    assert cli.main(["train", "mnist", "--resume", "--out", "a", "--epochs", "9"]) == 2
    assert "schedule is laid out over all epochs; leave" in capsys.readouterr().err
    assert cli.main(["train", "mnist", "--resume", "--out", "nowhere"]) == 2
    assert "no checkpoint in nowhere" in capsys.readouterr().err


def test_a_truncated_checkpoint_is_named(tmp_path, capsys):
    run("--out", "a")
    path = tmp_path / "a" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert cli.main(["train", "mnist", "--resume", "--out", "a"]) == 2
    assert "checkpoint.safetensors" in capsys.readouterr().err


def test_divergence_stops_with_advice(capsys):
    assert run("--out", "a", "--lr", "1e30") == 2
    assert "try --lr 1e+29" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "1000"], "a batch of 1000 is more than the 96 training images"),
        (["--device", "tpu"], "no backend for 'tpu'"),
        (["--out", "file/run"], "cannot create file/run: Not a directory; choose another --out"),
    ],
)
def test_mistakes_get_one_line(capsys, tmp_path, arguments, message):
    (tmp_path / "file").touch()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_interrupted_carries_the_checkpoint(monkeypatch, tmp_path):
    stop_after(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGINT))
    trainer = Trainer(Config(batch_size=BATCH, epochs=1), Run(tmp_path / "x"))
    with pytest.raises(Interrupted):
        trainer.fit(show=False)
    assert io.load(tmp_path / "x" / "checkpoint.safetensors")["batch"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "x"], "argument --epochs: 'x' is not a positive integer"),
        (["--batch-size", "0"], "argument --batch-size: '0' is not a positive integer"),
        (["--lr", "-1"], "argument --lr: '-1' is not a positive number"),
        (["--lr", "nan"], "argument --lr: 'nan' is not a positive number"),
    ],
)
def test_options_say_what_they_take(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert message in capsys.readouterr().err


def test_notes_speak_the_command_lines_language(capsys, monkeypatch):
    class Absent(data.FashionMNIST):
        def __init__(self, train=True, source="sample"):
            super().__init__(train=train, source="sample")

    monkeypatch.setitem(train.DATASETS, "fashion", Absent)
    assert cli.main(["train", "fashion"]) == 2
    cli._note("using the sample. source='full' says more, source='sample' silences this.")
    error = capsys.readouterr().err
    assert "no embedded sample; use --data full" in error
    assert "--data full, or tinyconv data mnist, says more, --data sample silences" in error


def test_no_command_shows_the_help(tmp_path):
    command = [sys.executable, "-m", "tinyconv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "example: tinyconv train mnist" in done.stdout


def test_ctrl_c_while_starting_is_no_traceback(monkeypatch, capsys):
    def interrupted(self, config, run):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "__init__", interrupted)
    assert run("--out", "a") == 130
    assert capsys.readouterr().err == ""


def test_without_matplotlib_there_is_a_hint(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    Run(tmp_path).write_curves([])
    assert "pip install matplotlib)" in capsys.readouterr().out


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("tinyconv", "numpy", "cpu", "cuda", "BLAS", "threads", "MNIST", "dot"):
        assert word in printed


def test_doctor_names_the_fix(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    (finding,) = doctor.programs()
    assert "graphviz" in finding.fix
    assert str(finding).startswith("--  dot ")  # milder than a problem
    assert str(doctor.Finding("BLAS", "slow", "a fix")).startswith("!!  BLAS ")
    monkeypatch.setattr(doctor, "_has_avx512", lambda: True)
    assert "OPENBLAS_CORETYPE=SkylakeX" in doctor._blas_fix("openblas", "Haswell")
    assert doctor._blas_fix("openblas", "SkylakeX") == ""


@pytest.mark.slow
def test_the_sample_reaches_98_percent(monkeypatch, tmp_path):
    monkeypatch.setitem(train.DATASETS, "mnist", data.MNIST)
    config = Config(data="sample")
    assert Trainer(config, Run(tmp_path / "sample")).fit(show=False)[-1]["test_accuracy"] >= 98.0
