"""Checkpoints: bit for bit there and back, all or nothing, and errors that say what a file is."""

import contextlib
import json
import math
import os
import pickle
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

import tinyconv as tc
from tinyconv import io, optim
from tinyconv.dtypes import ALL

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")


def assert_same(a: Any, b: Any) -> None:
    """Equal in type, structure, order and every bit."""
    assert type(a) is type(b)
    if isinstance(a, tc.Tensor):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.array.tobytes() == b.array.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(k) for k in a] == [type(k) for k in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float):
        assert struct.pack("d", a) == struct.pack("d", b)
    else:
        assert a == b


def round_trip(obj: Any, path: Path) -> Any:
    io.save(obj, path)
    loaded = io.load(path)
    assert_same(obj, loaded)
    return loaded


# ------------------------------------------------------------------------------ round trips

arrays = st.sampled_from(ALL).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)
tensors = arrays.map(tc.from_numpy)
views = arrays.filter(lambda a: a.ndim > 1).map(lambda a: tc.from_numpy(a.T[::-1]))
big = st.integers(-(2**130), 2**130)
plain = st.none() | st.booleans() | big | st.floats() | st.text(max_size=5)
keys = (
    st.text(max_size=3)
    | st.sampled_from(["a", "a.b", "b", "__metadata__", "tensor", "dict"])
    | st.integers()
    | st.none()
)
objects = st.recursive(
    plain | tensors | views,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)
in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


@in_one_folder
@given(objects)
def test_any_object_comes_back_bit_for_bit(tmp_path: Path, obj: Any) -> None:
    round_trip(obj, tmp_path / "x")


@in_one_folder
@given(objects, st.data())
def test_any_truncation_or_changed_byte_is_noticed_or_harmless(
    tmp_path: Path, obj: Any, data: Any
) -> None:
    path = tmp_path / "x"
    io.save(obj, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(io.CheckpointError):
        io.load(path)
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    with contextlib.suppress(io.CheckpointError):  # any other exception fails the test
        io.load(path)


def test_what_is_easily_lost(tmp_path: Path) -> None:
    shared = tc.tensor([1.0, -0.0, math.inf, math.nan])
    obj = {
        "a.b": shared,
        "a": {"b": shared, "b'": shared},
        1: shared,
        "1": shared,
        "": shared,
        "__metadata__": shared,
        "tensor": [{"tensor": "x"}, {"dict": []}, {"tuple": 3}, ()],
        "numbers": (
            2**127 + 1,
            -(2**64),
            True,
            1,
            1.0,
            -0.0,
            math.inf,
            -math.inf,
            math.nan,
            5e-324,
        ),
        "empty": tc.zeros(0, 3),
        "scalar": tc.tensor(2.5),
        "flag": tc.tensor(True),
        "half": tc.tensor([65504.0, 6e-8], dtype=tc.float16),
        "ümlaut": "\ud800 \0 \U0001f600",
    }
    round_trip(obj, tmp_path / "x")
    for bare in (shared, 3, None, [], {}, (), "text"):
        round_trip(bare, tmp_path / "x")


def test_nan_keeps_its_payload(tmp_path: Path) -> None:
    bits = np.array([0x7FC12345, 0xFF800001, 0x80000000], np.uint32).view(np.float32)
    loaded = round_trip({"x": tc.from_numpy(bits)}, tmp_path / "x")
    assert loaded["x"].array.view(np.uint32).tolist() == bits.view(np.uint32).tolist()
    (signed,) = struct.unpack(">d", bytes.fromhex("fff8000000000123"))
    round_trip([signed], tmp_path / "x")


def test_memory_order_does_not_matter(tmp_path: Path) -> None:
    base = np.arange(24.0).reshape(2, 3, 4)
    for array in (
        base.transpose(2, 0, 1),
        base[:, ::-1, ::2],
        np.broadcast_to(base[:1], (5, 3, 4)),
        np.asfortranarray(base),
    ):
        loaded = round_trip(tc.from_numpy(array), tmp_path / "x")
        assert loaded.array.flags.c_contiguous


def test_loaded_tensors_are_writable_leaves(tmp_path: Path) -> None:
    io.save({"w": tc.tensor([1.0], requires_grad=True)}, tmp_path / "x")
    w = io.load(tmp_path / "x")["w"]
    assert w.is_leaf
    assert not w.requires_grad
    w.add_(1.0)
    assert w.item() == 2.0


def test_numpy_numbers_are_saved_as_pythons(tmp_path: Path) -> None:
    io.save([np.float32(0.5), np.int64(3), np.bool_(True), np.float64(0.1)], tmp_path / "x")
    assert_same(io.load(tmp_path / "x"), [0.5, 3, True, 0.1])


def test_the_random_stream_continues(tmp_path: Path) -> None:
    tc.manual_seed(3)
    tc.randn(5)
    io.save(tc.get_rng_state(), tmp_path / "x")
    expected = tc.randn(8).array
    tc.manual_seed(4)
    tc.set_rng_state(io.load(tmp_path / "x"))
    np.testing.assert_array_equal(tc.randn(8).array, expected)


# ------------------------------------------------------------------- the same file elsewhere


def test_a_state_dict_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    state = {
        "conv1.weight": tc.randn(2, 1, 3, 3),
        "bn1.running_mean": tc.zeros(2),
        "bn1.num_batches_tracked": tc.tensor(7),
    }
    io.save(state, tmp_path / "x")
    read = load_file(tmp_path / "x")
    assert set(read) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(read[name], tensor.array)


def test_tensors_of_a_checkpoint_are_named_by_their_path(tmp_path: Path) -> None:
    io.save(
        {
            "model": {"conv1.weight": tc.ones(1)},
            "optimizer": {"state": {0: {"exp_avg": tc.ones(2)}}},
        },
        tmp_path / "x",
    )
    assert set(load_file(tmp_path / "x")) == {"model.conv1.weight", "optimizer.state.0.exp_avg"}


def test_a_file_of_another_program(tmp_path: Path) -> None:
    arrays = {"b": np.arange(3, dtype=np.int8), "a.w": np.ones((2, 2), np.float16)}
    save_file(arrays, tmp_path / "x", metadata={"format": "pt"})
    loaded = io.load(tmp_path / "x")
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert_same(loaded[name], tc.from_numpy(array))


@needs_torch
def test_files_move_to_pytorch_and_back(tmp_path: Path) -> None:
    from safetensors.torch import load_file as torch_load, save_file as torch_save

    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch_save(model.state_dict(), tmp_path / "x")
    ours = io.load(tmp_path / "x")
    io.save(ours, tmp_path / "y")
    theirs = torch_load(tmp_path / "y")
    for name, value in model.state_dict().items():
        assert torch.equal(theirs[name], value)
    model.load_state_dict(theirs)


@needs_torch
def test_bfloat16_is_read_as_float32(tmp_path: Path) -> None:
    from safetensors.torch import save_file as torch_save

    x = torch.randn(3, 5).to(torch.bfloat16)
    torch_save({"x": x, "one": torch.tensor(1.5, dtype=torch.bfloat16)}, tmp_path / "x")
    loaded = io.load(tmp_path / "x")
    np.testing.assert_array_equal(loaded["x"].array, x.float().numpy())
    assert loaded["one"].shape == ()
    assert loaded["x"].dtype == tc.float32


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    save_file({"w": np.zeros(2, np.uint32)}, tmp_path / "x")
    with pytest.raises(io.CheckpointError, match=r"w is U32; tinyconv reads BF16, F16, F32"):
        io.load(tmp_path / "x")


# ------------------------------------------------------------------------ errors on reading


def some_file(folder: Path) -> Path:
    io.save({"w": tc.ones(100)}, folder / "x")
    return folder / "x"


def test_truncated_files_say_how_much_is_missing(tmp_path: Path) -> None:
    path = some_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(
        io.CheckpointError, match=rf"truncated: expected {len(whole)} bytes, found {len(whole) - 1}"
    ):
        io.load(path)
    (header,) = struct.unpack("<Q", whole[:8])
    path.write_bytes(whole[:50])
    with pytest.raises(
        io.CheckpointError, match=rf"truncated: expected {header + 8} bytes, found 50"
    ):
        io.load(path)
    path.write_bytes(whole[:5])
    with pytest.raises(io.CheckpointError, match="is truncated: it has 5 bytes"):
        io.load(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(
        io.CheckpointError, match=rf"goes on after its end: expected {len(whole)} bytes"
    ):
        io.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: it has 0 bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (
            pickle.dumps({"a": 1}),
            r"a pickle.*safetensors.torch.save_file\(model.state_dict\(\), path\)",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x1f\x8b\x08\x00" * 3, "gunzip"),
        (b"\x93NUMPY\x01\x00v\x00", "np.load"),
        (b"\x89HDF\r\n\x1a\n" * 2, "h5py"),
        (b"\0" * 64, "not a safetensors file: it has 64 bytes and begins with"),
        (b"hello wo{rld", "begins with b'hello wo{rld'"),
        (struct.pack("<Q", 2) + b"{]", "not a safetensors file"),
        (struct.pack("<Q", 14) + b'{"w":"text"  }', "not a safetensors file"),
    ],
)
def test_foreign_files_are_recognised(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(io.CheckpointError, match=message) as info:
        io.load(tmp_path / "x")
    assert str(tmp_path / "x") in str(info.value)


@needs_torch
@pytest.mark.parametrize("new", [True, False])
def test_files_of_torch_save_get_the_way_out(tmp_path: Path, new: bool) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "x", _use_new_zipfile_serialization=new)
    with pytest.raises(io.CheckpointError, match=r"in PyTorch: safetensors\.torch\.save_file"):
        io.load(tmp_path / "x")


def test_a_zip_archive_is_recognised(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(io.CheckpointError, match=r"a zip archive, as torch.save writes"):
        io.load(tmp_path / "x")


@pytest.mark.parametrize(
    "structure",
    [
        "{",
        '{"tensor":"gone"}',
        '{"new":1}',
        '{"dict":[[1]]}',
        '{"float":"zz"}',
        '{"dict":[[[],1]]}',
        "{}",
        "[" * 50_000 + "]" * 50_000,
    ],
)
def test_a_structure_that_does_not_fit_is_noticed(tmp_path: Path, structure: str) -> None:
    save_file({"w": np.ones(1)}, tmp_path / "x", metadata={"tinyconv": structure})
    with pytest.raises(io.CheckpointError, match=r"was changed after tc\.save wrote it"):
        io.load(tmp_path / "x")


def test_a_missing_file_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        io.load(tmp_path / "none")


# ------------------------------------------------------------------------ errors on writing


class Trained:
    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (Trained(), r"the object is a Trained; save what it has learnt: .state_dict\(\)"),
        ({"model": Trained()}, "model is a Trained; save what"),
        ({"a": [1, {"f": len}]}, "a.1.f is a builtin_function_or_method; code is not saved"),
        ({"x": np.ones(2)}, r"x is a ndarray; make it a Tensor: tc.from_numpy\(x\)"),
        ({"s": {1, 2}}, "s is a set; save Tensors, numbers"),
        ({"c": 1j}, "c is a complex"),
        ({"d": {(1, 2): 3}}, r"d has the key \(1, 2\); keys are strings or integers"),
    ],
)
def test_objects_that_cannot_be_saved(tmp_path: Path, obj: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        io.save(obj, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        io.save({}, tmp_path / "none" / "x")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_former_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = some_file(tmp_path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        io.save({"w": tc.zeros(5)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    failures: list[BaseException] = []

    def write(value: int) -> None:
        try:
            for _ in range(10):
                io.save({"w": tc.full((2000,), float(value)), "n": value}, path)
                loaded = io.load(path)
                assert (loaded["w"].array == loaded["n"]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(some_file(tmp_path))
    io.save({"n": 1}, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert io.load(tmp_path / "x") == {"n": 1}


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_the_file_has_the_usual_mode(tmp_path: Path) -> None:
    path = some_file(tmp_path)
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_metadata_is_strict_json(tmp_path: Path) -> None:
    io.save({"loss": math.nan, "w": tc.ones(1)}, tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tinyconv"], parse_constant=refuse)


# ------------------------------------------------------------------------ a training run


class Net:
    """Two layers and noise: enough of a model to be trained."""

    def __init__(self) -> None:
        self.w = tc.randn(4, 6, requires_grad=True)
        self.v = tc.randn(6, 1, requires_grad=True)

    def parameters(self) -> list[tc.Tensor]:
        return [self.w, self.v]

    def state_dict(self) -> dict[str, Any]:
        return {"w": self.w, "v": self.v}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with tc.no_grad():
            self.w.copy_(state["w"])
            self.v.copy_(state["v"])

    def loss(self) -> tc.Tensor:
        x = tc.randn(8, 4)
        return (
            (((x @ self.w).tanh() * (tc.rand(8, 6) < 0.5).to(tc.float32)) @ self.v - 1.0)
            .pow(2)
            .mean()
        )


def make_run(seed: int) -> tuple[Any, Any, Any]:
    tc.manual_seed(seed)
    model = Net()
    optimizer = optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)
    return model, optimizer, optim.OneCycleLR(optimizer, 0.05, total_steps=40)


def train(model: Any, optimizer: Any, schedule: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss().backward()
        optimizer.step()
        schedule.step()


def test_training_continues_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer, schedule = make_run(1)
    train(model, optimizer, schedule, 13)
    io.save_checkpoint(
        tmp_path / "x", model=model, optimizer=optimizer, schedule=schedule, epoch=3, best=0.5
    )
    train(model, optimizer, schedule, 20)
    other, optimizer, schedule = make_run(2)
    rest = io.load_checkpoint(tmp_path / "x", model=other, optimizer=optimizer, schedule=schedule)
    assert rest == {"epoch": 3, "best": 0.5}
    train(other, optimizer, schedule, 20)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert p.array.tobytes() == q.array.tobytes()


def test_a_checkpoint_without_what_is_asked_for(tmp_path: Path) -> None:
    model, optimizer, _ = make_run(1)
    io.save_checkpoint(tmp_path / "x", model=model, epoch=1)
    before = model.w.array.copy()
    with pytest.raises(io.CheckpointError, match="has no optimizer; it holds model, rng, epoch"):
        io.load_checkpoint(tmp_path / "x", model=model, optimizer=optimizer)
    io.save(model.state_dict(), tmp_path / "y")
    with pytest.raises(
        io.CheckpointError, match=r"has no model and no rng; it holds w, v. For a bare state_dict"
    ):
        io.load_checkpoint(tmp_path / "y", model=model)
    io.save([1], tmp_path / "z")
    with pytest.raises(io.CheckpointError, match="z holds a list"):
        io.load_checkpoint(tmp_path / "z", model=model)
    np.testing.assert_array_equal(model.w.array, before)
