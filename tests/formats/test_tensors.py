"""Files of weights and settings: what is no such file is told at once, and nothing but tensors is loaded."""

from __future__ import annotations

import json
import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from remainder.errors import InterpretationError
from remainder.formats.tensors import (
    Layout,
    StoredTensor,
    header,
    read_json,
    read_tensors,
    read_torch,
    read_yaml,
)

LAYOUT = Layout(
    {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in"), "threshold": ("d_sae",)},
    {"d_in": 4, "d_sae": 6},
    "cfg.json says d_in = 4, d_sae = 6",
    hints={"threshold": "a latent is active above it"},
)


def good(latents: int = 6) -> dict[str, torch.Tensor]:
    return {
        "W_enc": torch.ones(4, latents),
        "W_dec": torch.ones(latents, 4),
        "threshold": torch.ones(latents),
    }


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    return path


def read(path: Path, layout: Layout = LAYOUT) -> dict[str, torch.Tensor]:
    return (read_torch if path.suffix == ".pt" else read_tensors)(path, layout)


KINDS = ("w.safetensors", "w.pt")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_of_every_width_are_read_as_float32(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    stored = {key: torch.randn(value.shape).to(dtype) for key, value in good().items()}
    found = read(write(tmp_path / name, stored))
    assert found.keys() == stored.keys()
    for key, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[key].float())


NAN = torch.full((6,), 1.0).index_fill(0, torch.tensor([1, 4]), float("nan"))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("changed", "message", "fix"),
    [
        (
            {"W_dec": torch.ones(4, 6)},
            r"W_dec has shape \(4, 6\) \(transposed\); cfg.json says d_in = 4, d_sae = 6",
            r"W_dec must be \[d_sae, d_in\]",
        ),
        ({"W_dec": torch.ones(6, 3)}, r"W_dec has shape \(6, 3\); cfg.json says", r"\[d_sae, d_in\]"),
        ({"W_dec": torch.ones(24)}, r"W_dec has shape \(24,\); cfg.json says", r"\[d_sae, d_in\]"),
        (
            good(12),
            "the weights have d_sae = 12; cfg.json says d_in = 4, d_sae = 6",
            "take both from one place",
        ),
        ({"threshold": None}, "holds W_dec, W_enc; expected W_dec, W_enc, threshold", "active above it"),
        ({"W_enc": None}, "holds W_dec, threshold; expected W_dec, W_enc, threshold", "exactly these"),
        (
            {"b": torch.ones(1)},
            "holds W_dec, W_enc, b, threshold; expected W_dec, W_enc, thr",
            "exactly these",
        ),
        (
            {"W_enc": torch.ones(4, 6).to(torch.int8)},
            "W_enc is stored as I8|as int8",
            "with its scale worked in",
        ),
        (
            {"W_enc": torch.ones(4, 6).to(torch.float8_e4m3fn)},
            "W_enc is stored as F8_E4M3|as float8_e4m3fn",
            "with its scale worked in",
        ),
        ({"threshold": NAN}, "threshold holds NaN or infinity, in 2 of 6 places", "train or export"),
        (
            {"threshold": NAN.nan_to_num(torch.inf)},
            "threshold holds NaN or infinity, in 2",
            "train or export",
        ),
    ],
)
def test_what_is_wrong_with_the_tensors_is_told(
    tmp_path: Path, name: str, changed: dict[str, Any], message: str, fix: str
) -> None:
    tensors = {key: value for key, value in {**good(), **changed}.items() if value is not None}
    path = write(tmp_path / name, tensors)
    with pytest.raises(InterpretationError, match=message) as raised:
        read(path)
    assert str(path) in raised.value.what
    assert re.search(fix, raised.value.fix or "")


def test_sizes_that_are_not_known_are_those_of_the_file(tmp_path: Path) -> None:
    layout = LAYOUT._replace(sizes={"d_in": 4}, says="the site has width 4")
    assert read(write(tmp_path / "w.safetensors", good(9)), layout)["W_enc"].shape == (4, 9)
    odd = write(tmp_path / "odd.safetensors", {**good(9), "threshold": torch.ones(7)})
    with pytest.raises(InterpretationError, match=r"threshold has shape \(7,\); the site has width 4"):
        read(odd, layout)
    empty = write(tmp_path / "empty.safetensors", good(0))
    with pytest.raises(InterpretationError, match=r"W_enc has shape \(4, 0\)"):
        read(empty, layout)


def test_a_tensor_that_is_not_expected_may_be_left_unread(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", {**good(), "k": torch.tensor(3)})
    assert read(path, LAYOUT._replace(closed=False)).keys() == good().keys()


# ------------------------------------------------------------------------------------- safetensors


def test_a_header_is_read_without_the_values(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", {"a": torch.ones(2, 3).half(), "b": torch.ones(())})
    assert header(path) == {"a": StoredTensor("F16", (2, 3)), "b": StoredTensor("F32", ())}


@pytest.mark.parametrize("begins", [b"", b"\x80\x04pickle", b"PK\x03\x04 a zip file", b"{}" * 40])
def test_gigabytes_that_are_no_safetensors_are_refused_at_once(tmp_path: Path, begins: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(begins)
    os.truncate(path, 5_000_000_000)  # sparse: no disk is needed
    start = time.perf_counter()
    with pytest.raises(InterpretationError, match=r"not a readable safetensors file \(5\.0 GB\)") as raised:
        read_tensors(path, LAYOUT)
    assert time.perf_counter() - start < 0.5
    assert "of another format" in (raised.value.fix or "")


@pytest.mark.parametrize("kept", [0, 4, 20, 200, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "w.safetensors", good())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InterpretationError, match="is not a readable safetensors file"):
        header(path)


def test_a_file_that_goes_on_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", good())
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InterpretationError, match="longer than its header says"):
        header(path)


@pytest.mark.parametrize("content", ["[1]", '{"a": 1}', '{"a": {"dtype": "F32"}}', "{"])
def test_a_header_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content.encode() + bytes(8))
    with pytest.raises(InterpretationError, match="is not a readable safetensors file"):
        header(path)


# ------------------------------------------------------------------------------------- files of torch


class Trap:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def test_nothing_of_a_pickle_is_executed(tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "w.pt"
    torch.save({**good(), "trap": Trap(mark)}, path)
    with pytest.raises(InterpretationError, match=r"w\.pt holds more than tensors") as raised:
        read_torch(path, LAYOUT)
    assert "state_dict()" in (raised.value.fix or "")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))  # the trap does work
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), r"w\.pt \(\d+ bytes\) is no file that torch.save wrote"),
        (b"", "is no file that torch.save wrote"),
        ([torch.ones(1)], "holds no tensors by name"),
        ({"a": 1}, "holds no tensors by name"),
    ],
)
def test_other_files_of_torch_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InterpretationError, match=message):
        read_torch(path, LAYOUT)


def test_a_truncated_file_of_torch_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", good())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InterpretationError, match=r"truncated|damaged"):
        read_torch(path, LAYOUT)


@pytest.mark.parametrize("read_missing", [lambda p: header(p), lambda p: read_torch(p, LAYOUT), read_json])
def test_a_missing_file_is_told(tmp_path: Path, read_missing: Any) -> None:
    with pytest.raises(InterpretationError, match="nothing-here does not exist"):
        read_missing(tmp_path / "nothing-here")


# ------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"d_in": 8,', "is not valid JSON"),
        ("[8]", "holds no JSON object"),
        (b'{"\xff"}', "is not valid JSON"),
    ],
)
def test_settings_that_are_no_json_object(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "cfg.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InterpretationError, match=message) as raised:
        read_json(path)
    assert str(path) in raised.value.what


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "is not valid YAML"), ("- 1", "holds no YAML object"), ("a: !!python/object:os.x {}", "YAML")],
)
def test_settings_that_are_no_yaml_mapping(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(InterpretationError, match=message) as raised:
        read_yaml(tmp_path / "config.yaml")
    assert "\n" not in raised.value.what


def test_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps({"d_in": 8}))
    assert read_json(tmp_path / "a") == read_yaml(tmp_path / "a") == {"d_in": 8}
