"""Small files that would fill the memory are refused before anything in them is unpacked."""

from __future__ import annotations

import inspect
import io
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_files import LATENTS, SCOPE_ID, connected, release, scope_repository
from hub_server import Hub
from sae_lens.loading import pretrained_sae_loaders
from tiny import SITE, WIDTH, make_task

from remainder.base.files import parse_yaml
from remainder.errors import InterpretationError
from remainder.formats import gemma_scope
from remainder.formats.archives import MOST_PACKED, require_arrays, require_saved
from remainder.formats.tensors import Layout, header, load_torch, read_torch, require_weights
from remainder.submission.open import open_submission


def npz(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)
    return path


def array(shape: tuple[int, ...], held: int) -> bytes:
    """An array of numpy that claims a shape, and holds so many bytes of zeros."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(held)


def test_zeros_that_unpack_to_much_are_refused_unpacked(tmp_path: Path) -> None:
    place = scope_repository(tmp_path) / SCOPE_ID
    path = npz(place / "params.npz", W_enc=array((50_000_000,), 200_000_000))
    assert path.stat().st_size < 1_000_000
    for read in (require_arrays, require_weights, lambda _: gemma_scope.load(place, make_task())):
        with pytest.raises(InterpretationError, match=r"unpacks to 200,\d+,\d+ bytes, more than 20 times"):
            read(path)


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6, 10**6), (3,)])
def test_a_header_claims_what_its_entry_holds(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = npz(tmp_path / "params.npz", W_enc=array(shape, 16))
    with pytest.raises(InterpretationError, match="bytes, and claims"):
        require_arrays(path)


def test_compressed_weights_are_read(tmp_path: Path) -> None:
    place = scope_repository(tmp_path) / SCOPE_ID
    arrays = dict(np.load(place / "params.npz"))
    np.savez_compressed(place / "params.npz", **arrays)
    require_weights(place / "params.npz")
    gemma_scope.load(place, make_task())
    zeros = {name: np.zeros_like(value) for name, value in arrays.items()}  # small, and so no danger
    np.savez_compressed(place / "params.npz", **zeros)
    gemma_scope.load(place, make_task())
    assert MOST_PACKED >= 10


def test_what_torch_saves_is_not_compressed(tmp_path: Path) -> None:
    torch.save({"W": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    require_saved(tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain:
        contents = {name: plain.read(name) for name in plain.namelist()}
    for name, huge in (("packed", False), ("bomb", True)):
        with zipfile.ZipFile(tmp_path / f"{name}.pt", "w", zipfile.ZIP_DEFLATED) as archive:
            for inside, data in contents.items():
                archive.writestr(inside, data * (20 if huge and inside.endswith("data/0") else 1))
        told = "unpacks to" if huge else "unpacks to|compressed entry"
        with pytest.raises(InterpretationError, match=told):
            load_torch(tmp_path / f"{name}.pt", "tensors", "save it anew")


def test_a_tensor_that_repeats_one_number_is_refused(tmp_path: Path) -> None:
    torch.save({"W": torch.zeros(1).expand(1_000_000, 1_000_000)}, tmp_path / "ae.pt")
    assert (tmp_path / "ae.pt").stat().st_size < 10_000
    layout = Layout({"W": ("a", "b")}, {}, "nothing is known")
    with pytest.raises(InterpretationError, match=r"'W' of shape \(1000000, 1000000\) repeats"):
        read_torch(tmp_path / "ae.pt", layout)


def test_a_header_of_safetensors_is_short(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 50_000_000))
    os.truncate(path, 60_000_000)
    with pytest.raises(InterpretationError, match="length of a header"):
        header(path)
    content = {"W": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    data = json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    with pytest.raises(InterpretationError, match="truncated"):
        header(path)


def test_aliases_that_repeat_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path.write_text("\n".join(lines))
    with pytest.raises(InterpretationError, match="more than 1,000,000 fields"):
        parse_yaml(path.read_text(), path)
    path.write_text("a: &a [*a]")
    with pytest.raises(InterpretationError, match="more than 1,000,000 fields"):
        parse_yaml(path.read_text(), path)
    few = "base: &base {x: 1}\nother:\n  <<: *base\n"
    assert parse_yaml(few, path) == {"base": {"x": 1}, "other": {"x": 1}}


# what sae-lens would read with torch.load


class Executed:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(tmp_path / "hub", monkeypatch) as found:
        yield found


READERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "connor_rob_hook_z": (
        "test/pickles",
        "sae.pt",
        {"sae_cfg.json": {"act_size": WIDTH, "dict_size": LATENTS, "act_name": SITE}},
    ),
    "goodfire": ("Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth", {}),
    "deepseek_r1": ("test/pickles", "sae.pt", {}),
    "qwen_scope": ("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", "layer0.sae.pt", {}),
    "dictionary_learning_1": (
        "test/pickles",
        "place",
        {
            "place/config.json": {
                "trainer": {
                    "activation_dim": WIDTH,
                    "dict_size": LATENTS,
                    "layer": 1,
                    "lm_name": "tiny",
                    "dict_class": "AutoEncoder",
                },
                "buffer": {"ctx_len": 128},
            }
        },
    ),
}
"""Readers of sae-lens that call torch.load: a repository, the id of an SAE, and settings beside it."""


def test_all_readers_that_call_torch_load_are_here() -> None:
    source = inspect.getsource(pretrained_sae_loaders)
    assert source.count("torch.load(") == len(READERS)
    assert set(READERS) <= set(pretrained_sae_loaders.NAMED_PRETRAINED_SAE_LOADERS)
    assert not re.search(r"allow_pickle|pickle\.load|joblib|weights_only", source)


@pytest.mark.parametrize("form", ["zip", "pickle"])
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_a_release_that_would_be_unpickled_is_refused(
    reader: str, forced: bool, form: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the environment tells torch to unpickle whatever it is given."""
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, folder = tmp_path / "executed", tmp_path / "repository"
    repository, sae_id, settings = READERS[reader]
    path = folder / (f"{sae_id}/ae.pt" if reader == "dictionary_learning_1" else sae_id)
    path.parent.mkdir(parents=True)
    content = {"W_enc": torch.zeros(3), "more": Executed(mark)}
    if form == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    for name, fields in settings.items():
        (folder / name).write_text(json.dumps(fields))
    hub.add(repository, folder)
    release(monkeypatch, repository, reader, saes_map={"one": sae_id}, config_overrides={"hook_name": SITE})
    with pytest.raises(InterpretationError) as raised:
        open_submission("hub:tiny-release:one")
    assert raised.value.fix is not None
    assert (
        "tensors and plain values" in raised.value.what
        or "no file that torch.save wrote" in raised.value.what
    )
    assert not mark.exists()
