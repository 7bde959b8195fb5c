"""Models from a hub, and whole runs with model and SAE from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hub_files import (
    SAES,
    connected,
    sae_repository,
    sha256,
)
from hub_server import Hub
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from terminal import Command
from tiny import ARCHITECTURES, SITE, model_folder, write_task
from transformers import Qwen2Tokenizer

from remainder.base.hub import snapshot
from remainder.cli import main as cli
from remainder.errors import AssetError
from remainder.formats import hub as reader
from remainder.formats.places import tensor_of
from remainder.loading.fetch import local_model
from remainder.model.bridge import weights_hash
from remainder.record.store import read_record
from remainder.submission.open import baselines_for
from remainder.task.spec import ModelSpec, list_tasks, load_task

HARNESS = Path(cli.__file__).parents[2]
ASSET = 4


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(tmp_path / "hub-cache", monkeypatch) as hub:
        yield hub


@pytest.fixture
def saes(hub: Hub, tmp_path: Path) -> str:
    """The commit of a repository of SAEs on the hub."""
    return hub.add(SAES, sae_repository(tmp_path / "saes"))


# models


def spec(repo: str, revision: str | None = None) -> ModelSpec:
    return ModelSpec(name="tiny", licence="MIT", hub=repo, revision=revision)


def test_a_model_is_fetched_without_what_is_not_of_it(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    commit = hub.add("test/tiny", folder)
    told: list[tuple[str, int, int | None]] = []
    found = local_model(spec("test/tiny", commit), progress=lambda *report: told.append(report))
    assert found.name == commit
    assert weights_hash(found) == weights_hash(folder)
    assert not (found / "onnx").exists()
    assert not (found / "pytorch_model.bin").exists()
    size = sum(path.stat().st_size for path in found.iterdir())
    assert told[0] == ("looking up test/tiny", 0, None)
    assert ("downloading test/tiny", size, size) in told


def test_a_model_of_pickles_is_refused(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add("test/tiny", folder)
    with pytest.raises(AssetError, match=r"no weights in safetensors, only pytorch_model.bin") as raised:
        local_model(spec("test/tiny"))
    assert "save_pretrained" in (raised.value.fix or "")


def test_a_repository_that_is_no_model(hub: Hub, saes: str) -> None:
    with pytest.raises(AssetError, match=f"{SAES} has no config.json"):
        local_model(spec(SAES))


def test_an_id_that_is_none(hub: Hub) -> None:
    with pytest.raises(AssetError, match="is not the id of a repository"):
        snapshot("one/two/three", None, ["*"])


# whole runs


def write_hub_task(folder: Path, cache: Path, repo: str, commit: str) -> Path:
    """The tiny task, with its model on the hub."""
    place = write_task(folder)
    text = (place / "task.toml").read_text()
    start, end = text.index("wheel = "), text.index("\n\n[corpus]")
    model = f'hub = "{repo}"\nrevision = "{commit}"'
    (place / "task.toml").write_text(text[:start] + model + text[end:])
    return place


def published(architecture: str, folder: Path) -> Path:
    """A tiny model with a tokenizer that transformers reads as that architecture's own."""
    shutil.copytree(model_folder(architecture), folder)
    if architecture == "qwen2":  # made anew from its table of pieces, whatever the files say beside that
        pieces = ["<pad>", "<bos>", "<eos>", *"w0123456789Ġ"]
        names = {"unk_token": "<pad>", "pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        Qwen2Tokenizer(vocab=vocabulary, merges=[], **names).save_pretrained(folder)
    return folder


RUNS = [
    pytest.param(name, marks=[] if name in ("llama", "gemma-2") else [pytest.mark.slow])
    for name in ARCHITECTURES
]


@pytest.mark.parametrize("architecture", RUNS)
def test_a_run_with_model_and_sae_from_a_hub(
    architecture: str,
    hub: Hub,
    saes: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    remainder: Command,
) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    repo = f"test/tiny-{architecture}"
    commit = hub.add(repo, published(architecture, tmp_path / "model"))
    task = write_hub_task(tmp_path / "tasks", tmp_path / "cache", repo, commit)
    arguments = ("run", task, "--with", f"hub:{SAES}:{SITE}", "--json", "record.json")

    outcome = remainder(*arguments)
    assert outcome.code == 0, outcome.err
    assert "measured in" in outcome.err
    record = read_record(tmp_path / "record.json").record
    model = record.model
    assert (model.source, model.revision, model.sha256) == (
        repo,
        commit,
        weights_hash(model_folder(architecture)),
    )
    assert record.submission.files == {
        f"{SAES}@{saes}/{SITE}/{name}": sha256(tmp_path / "saes" / SITE / name)
        for name in ("cfg.json", "sae_weights.safetensors")
    }

    hub.requests.clear()
    outcome = remainder(*arguments)
    assert outcome.code == 0, outcome.err
    assert "found finished" in outcome.err
    assert hub.downloads() == []

    hub.add(SAES, sae_repository(tmp_path / "other", seed=5))
    outcome = remainder(*arguments)
    assert outcome.code == 0, outcome.err
    assert "measured in" in outcome.err
    assert read_record(tmp_path / "record.json").record.submission.files != record.submission.files


def test_what_the_hub_refuses_is_told_before_anything_is_loaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remainder: Command
) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    task = write_hub_task(tmp_path / "tasks", tmp_path / "cache", "test/tiny", "0" * 40)
    outcome = remainder("run", task, "--with", "hub:test/nothing:x")
    assert outcome.code == ASSET
    assert outcome.out == ""
    first, told, *_ = outcome.err.splitlines()
    assert first == "loading libraries …"
    assert told.startswith("remainder: there is no repository test/nothing on the hub")
    assert "Traceback" not in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_the_command_itself_with_the_settings_of_huggingface_hub(
    again: bool, hub: Hub, saes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of their own, where HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are read as users set them."""
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    commit = hub.add("test/tiny-gpt2", model_folder("gpt2"))
    task = write_hub_task(tmp_path / "tasks", tmp_path / "cache", "test/tiny-gpt2", commit)
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(HARNESS)}

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HF_HUB_OFFLINE": "0", **settings, **more}
        command = [sys.executable, "-m", "remainder.cli.main", "run", *map(str, arguments)]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    arguments = (task, "--with", f"hub:{SAES}:{SITE}")
    first = run(*arguments, "--json", "first.json")
    assert first.returncode == 0, first.stderr
    assert "measured in" in first.stderr
    assert len(hub.downloads()) > 4
    hub.requests.clear()
    if not again:
        return
    second = run(*arguments, "--json", "second.json", "--fresh", HF_HUB_OFFLINE="1")
    assert second.returncode == 0, second.stderr
    assert "measured in" in second.stderr
    assert hub.requests == []
    one, two = (read_record(tmp_path / name) for name in ("first.json", "second.json"))
    assert one.record.submission == two.record.submission
    pd.testing.assert_frame_equal(one.values, two.values)


# the suites that have their model on the hub


HUB_TASKS = [task for name in list_tasks() if (task := load_task(name)).model.hub is not None]


@pytest.mark.parametrize("name", [task.id for task in HUB_TASKS if task.circuit is None])
def test_a_suite_on_the_hub_has_a_released_sae_of_its_site(name: str) -> None:
    task = load_task(name)
    released = [one for one in baselines_for(task) if one.is_on_hub]
    assert released
    for submission in released:
        assert not submission.is_pinned  # nothing was fetched
        address = reader.parse(submission.method.get("hub"), submission.method.get("revision"))
        if address.is_repository:
            continue
        path = get_pretrained_saes_directory()[address.place].saes_map[address.sae_id]
        hook = address.sae_id.partition("__")[0]
        assert path
        assert tensor_of(hook) == tensor_of(task.site.hook_in)


def test_gemma_scope_of_the_suite_is_the_canonical_one() -> None:
    """Of the width, it is the SAE that its makers and SAELens name."""
    (submission,) = [one for one in baselines_for(load_task("gemma-2-2b/resid-13")) if one.is_on_hub]
    address = reader.parse(submission.method.get("hub"))
    canonical = get_pretrained_saes_directory()["gemma-scope-2b-pt-res-canonical"]
    assert address.place == canonical.repo_id
    assert address.sae_id == canonical.saes_map["layer_12/width_16k/canonical"]
