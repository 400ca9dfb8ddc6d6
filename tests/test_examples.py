"""Every example runs, on small inputs, and does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {
    "autoencoder.py": ["--steps", "100", "--data", "sample"],
    "gradient_penalty.py": ["--steps", "100"],
    "micro.py": [],  # see test_micro.py
    "mnist_resnet.py": ["--data", "sample", "--epochs", "1", "--batches", "40"],
    "trace_resnet.py": [],
}
RESEARCH = (  # at most 40 lines each
    "custom_op.py", "two_outputs.py", "feedback_alignment.py", "grad_cam.py", "hessian_vector.py",
    "maml.py", "per_sample_gradients.py",
)  # fmt: skip


def run(name: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *SMALL.get(name, [])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SMALL, *RESEARCH}


def test_research_is_short():
    for name in RESEARCH:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 40, name


def test_autoencoder(tmp_path):
    printed = run("autoencoder.py", tmp_path)
    losses = [float(x) for x in re.findall(r"per pixel (\d\.\d+)\n", printed)]
    assert losses[-1] < 0.4 * losses[0]
    assert (tmp_path / "reconstructions.png").read_bytes().startswith(b"\x89PNG")


def test_custom_op(tmp_path):
    printed = run("custom_op.py", tmp_path)
    assert "agree with numerical ones to second order" in printed
    assert printed.count("wrong:") == 1


def test_gradient_penalty(tmp_path):
    rows = re.findall(r"gap +(-?[\d.]+)  penalty +([\d.]+)", run("gradient_penalty.py", tmp_path))
    (first_gap, first_penalty), *_, (gap, penalty) = [(float(a), float(b)) for a, b in rows]
    assert gap > first_gap + 0.5
    assert penalty < first_penalty


def test_mnist_resnet(tmp_path):
    printed = run("mnist_resnet.py", tmp_path)
    assert float(re.findall(r"test accuracy ([\d.]+) %", printed)[-1]) > 40
    assert len((EXAMPLES / "mnist_resnet.py").read_text().splitlines()) <= 100


def test_trace_resnet(tmp_path):
    assert run("trace_resnet.py", tmp_path)
    drawn = [p for p in tmp_path.iterdir() if p.suffix in (".svg", ".txt")]
    assert drawn
    assert "layer1" in drawn[0].read_text() or "blocks" in drawn[0].read_text()


def numbers(text):
    return [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


def test_two_outputs(tmp_path):
    printed = run("two_outputs.py", tmp_path)
    assert "d radius / dx [0.6, 0.707" in printed
    assert "to second order" in printed


def test_feedback_alignment(tmp_path):
    loss, moved = numbers(run("feedback_alignment.py", tmp_path))
    assert loss < 0.1
    assert moved > 0.5


def test_grad_cam(tmp_path):
    cam, guided = run("grad_cam.py", tmp_path).splitlines()
    half, found = numbers(cam)
    assert half == found
    assert numbers(guided)[0] > 60


def test_per_sample_gradients(tmp_path):
    lines = run("per_sample_gradients.py", tmp_path).splitlines()
    assert len(lines) == 4
    assert all(numbers(line)[-1] < 1e-5 for line in lines)


def test_hessian_vector(tmp_path):
    *steps, last = run("hessian_vector.py", tmp_path).splitlines()
    assert numbers(steps[-1])[1] == pytest.approx(numbers(last)[0], abs=1e-3)


def test_maml(tmp_path):
    before, after = numbers(run("maml.py", tmp_path).splitlines()[-1])[1:]
    assert after < 0.6 * before
