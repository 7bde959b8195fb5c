"""Anyone's model: a folder, an id of the hub, an object; what it is called, and when it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from hub_files import connected
from hub_server import Hub

from remainder.errors import AssetError, TaskError
from remainder.loading import fetch
from remainder.loading.adapt import given_model
from remainder.loading.open import open_task
from remainder.model import device
from remainder.model.bridge import weights_hash, weights_size
from remainder.task.spec import ModelSpec

OWNER = "test/tiny-model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(tmp_path / "hub-cache", monkeypatch) as hub:
        yield hub


def test_a_folder_says_what_a_task_needs() -> None:
    folder = tiny.model_folder("gpt2")
    given = given_model(str(folder))
    assert given.spec == ModelSpec(
        name="gpt2",
        licence="unknown",
        hub=str(folder),
        weights_sha256=weights_hash(folder),
        config_sha256=given.config_hash,
    )
    assert given.folder == folder
    assert (given.vocabulary, given.context) == (tiny.VOCABULARY, 64)
    assert given.tokenizer.convert_tokens_to_ids("w17") == 17
    assert given.pinned.source == "local:gpt2"
    assert given.bridge() is given.bridge()


def test_the_licence_is_that_of_the_model_card(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.model_folder(), tmp_path / "own")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    assert given_model(folder).spec.licence == "apache-2.0"


def test_the_place_of_pinned_weights_moves_no_hash(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.model_folder(), tmp_path / "elsewhere")
    here, there = (
        tiny.make_task(model=given_model(place).spec).hash for place in (tiny.model_folder(), folder)
    )
    assert here == there
    loose = [tiny.make_task(place).hash for place in (tiny.model_folder(), folder)]
    assert loose[0] != loose[1]  # nothing says that they hold the same


def test_a_model_of_the_hub_is_pinned_at_its_commit(hub: Hub) -> None:
    commit = hub.add(OWNER, tiny.model_folder())
    given = given_model(f"hub:{OWNER}@main")
    assert (given.spec.hub, given.spec.revision) == (OWNER, commit)
    assert given.spec.weights_sha256 == weights_hash(tiny.model_folder())
    assert given.pinned.revision == commit
    assert given_model(f"{OWNER}@{commit}").spec == given.spec


def test_what_the_hub_does_not_give(hub: Hub) -> None:
    with pytest.raises(
        AssetError, match=r"no repository test/none .* \(and there is no folder test/none here"
    ):
        given_model("test/none")
    hub.add(OWNER, tiny.model_folder())
    hub.repositories[OWNER].token = "secret"
    with pytest.raises(AssetError, match=f"{OWNER} is gated") as raised:
        given_model(OWNER)
    assert "accept the licence" in (raised.value.fix or "")


def test_a_hub_that_may_not_be_asked() -> None:
    with pytest.raises(AssetError, match=r"gpt2 is not, or not whole, in the cache .* HF_HUB_OFFLINE"):
        given_model("gpt2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "'./nowhere' is neither a folder here nor the id of a model"),
        ("a/b/c", "'a/b/c' is neither a folder here nor"),
        (Path("nowhere"), "nowhere is no folder"),
    ],
)
def test_neither_folder_nor_id(name: str | Path, message: str) -> None:
    with pytest.raises(AssetError, match=message):
        given_model(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"holds no config.json of transformers"):
        given_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(AssetError, match="holds no weights in safetensors files"):
        given_model(tmp_path)


def test_a_model_too_large_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.model_folder()
    size = weights_size(folder, torch.float32)
    assert size == 4 * sum(weight.numel() for weight in tiny.make_model().parameters())
    given = given_model(folder)
    monkeypatch.setattr(device, "free_memory", lambda: size - 1.0)
    monkeypatch.setattr(fetch, "_pretrained", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(AssetError, match=r"the weights of llama in float32 take .* MB, and this machine has"):
        given.bridge()


def test_a_task_of_an_object_is_not_opened_without_it() -> None:
    with pytest.raises(ValueError, match="needs `weights_sha256`"):
        ModelSpec(name="mine", licence="unknown", given="object")
    spec = ModelSpec(name="mine", licence="unknown", given="object", weights_sha256="0" * 64)
    assert spec.source == "object:mine"
    with pytest.raises(TaskError, match="was an object in memory"):
        open_task(tiny.make_task(model=spec), device="cpu")
