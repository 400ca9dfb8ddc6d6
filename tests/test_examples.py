"""Every example runs, on small inputs, and does what it says."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {
    "autoencoder.py": ["--steps", "100", "--data", "sample"],
    "custom_op.py": [],
    "gradient_penalty.py": ["--steps", "100"],
    "mnist_resnet.py": ["--data", "sample", "--epochs", "1", "--batches", "40"],
    "trace_resnet.py": [],
}


def run(name: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *SMALL[name]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALL)


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
