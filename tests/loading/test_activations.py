"""Clean activations on the disk: right masks, computed once, never trusted when altered, bounded."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from tiny import BOS, EOS, WIDTH, WINDOW, make_loaded, make_task
from transformers import AutoModelForCausalLM

from remainder.base.cache import sha256_file
from remainder.errors import AssetError
from remainder.loading.activations import SiteActivations, collect_activations, position_masks, site_moments
from remainder.loading.loaded import LoadedTask
from remainder.model.bridge import Runner
from remainder.task.spec import Positions, Site
from remainder.task.text import Windows

YES, NO = True, False


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def norms(*values: float) -> torch.Tensor:
    """Activations [1 pos 3] of these norms."""
    directions = torch.tensor([0.6, 0.0, -0.8])
    return torch.tensor(values)[None, :, None] * directions


def masks(ids: list[int], *sizes: float, sink_norm: float = 10.0) -> tuple[list[bool], list[bool]]:
    task = make_task(positions=Positions(sink_norm=sink_norm))
    spliced, scored = position_masks(task, torch.tensor([ids]), norms(*sizes))
    return spliced[0].tolist(), scored[0].tolist()


# masks, position by position


def test_the_first_token_is_not_spliced_and_the_last_has_no_target() -> None:
    assert masks([BOS, 5, 6, 7], 1, 1, 1, 1) == ([NO, YES, YES, YES], [NO, YES, YES, NO])


def test_a_sink_keeps_its_activation_and_is_not_scored() -> None:
    spliced, scored = masks([BOS, 5, 6, 7, 8], 99, 1, 10.01, 9.99, 1)
    assert spliced == [NO, YES, NO, YES, YES]
    assert scored == [NO, YES, NO, YES, NO]  # the sink is still a target: of position 1


@pytest.mark.parametrize("special", [0, BOS, EOS])
def test_a_special_token_is_neither_spliced_nor_a_target(special: int) -> None:
    spliced, scored = masks([BOS, 5, 6, special, 7, 8], 1, 1, 1, 1, 1, 1)
    assert spliced == [NO, YES, YES, NO, YES, YES]
    assert scored == [NO, YES, NO, NO, YES, NO]


def test_the_masks_of_windows_are_independent() -> None:
    task = make_task(positions=Positions(sink_norm=10.0))
    ids = torch.tensor([[BOS, 5, 6], [BOS, EOS, 6], [BOS, 5, 6]])
    spliced, scored = position_masks(task, ids, torch.cat([norms(1, 1, 1), norms(1, 1, 1), norms(1, 11, 1)]))
    assert spliced.tolist() == [[NO, YES, YES], [NO, NO, YES], [NO, NO, YES]]
    assert scored.tolist() == [[NO, YES, NO], [NO, NO, NO], [NO, NO, NO]]


# from the cache


def plain_hidden(loaded: LoadedTask, layer: int, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(loaded.given.folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        hidden: torch.Tensor = model(ids, output_hidden_states=True).hidden_states[layer]
    return hidden


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_batches_cover_the_windows_in_order(size: int) -> None:
    loaded = make_loaded()
    stored = loaded.activations("evaluation", 10)
    batches = list(stored.batches(size))
    assert [len(batch.windows) for batch in batches] == [size] * (10 // size) + [10 % size] * (10 % size > 0)
    assert sum((batch.windows.documents for batch in batches), ()) == stored.windows.documents
    ids = torch.cat([batch.inputs for batch in batches])
    assert torch.equal(ids, torch.from_numpy(stored.windows.inputs))
    x = torch.cat([batch.prefix.x_out for batch in batches])
    torch.testing.assert_close(x, plain_hidden(loaded, 2, ids), rtol=0, atol=1e-5)
    for batch in batches:
        spliced, scored = position_masks(loaded.task, batch.inputs, batch.prefix.x_out)
        assert torch.equal(batch.spliced, spliced)
        assert torch.equal(batch.scored, scored)


def test_a_site_that_reads_and_writes_elsewhere_keeps_both(cache: Path) -> None:
    site = Site(hook_in="blocks.1.ln2.hook_in", hook_out="blocks.2.hook_mlp_out", width=WIDTH)
    loaded = make_loaded(make_task(site=site))
    (batch,) = loaded.activations("evaluation", 3).batches(3)
    with torch.inference_mode():
        _, seen = loaded.runner("float32").bridge.run_with_cache(batch.inputs)
    torch.testing.assert_close(batch.prefix.x_in, seen[site.hook_in], rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.prefix.x_out, seen[site.hook_out], rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.prefix.entry, seen["blocks.1.hook_in"], rtol=0, atol=1e-5)


def no_model() -> Runner:
    raise AssertionError("the model was loaded")


def collect(loaded: LoadedTask, runner: Any = no_model, **changed: Any) -> SiteActivations:
    options: dict[str, Any] = {"task": loaded.task, "model_hash": "a" * 64, **changed}
    windows = options.pop("windows", loaded.corpus.windows("evaluation").first(4))
    return collect_activations(
        options["task"], runner, windows, "evaluation", model_hash=options["model_hash"], device=loaded.device
    )


def test_what_is_in_the_cache_is_not_computed_again_nor_is_the_model_loaded() -> None:
    first = make_loaded()
    made = collect(first, lambda: first.runner("float32"))
    again = make_loaded()
    assert collect(again).stored == made.stored
    assert again._runners == {}


@pytest.mark.parametrize("change", ["model", "tokens", "fewer windows", "site"])
def test_anything_that_moves_the_activations_is_computed_anew(change: str) -> None:
    loaded = make_loaded()
    windows = loaded.corpus.windows("evaluation").first(4)
    collect(loaded, lambda: loaded.runner("float32"))
    changed: dict[str, Any] = {}
    if change == "model":
        changed = {"model_hash": "b" * 64}
    elif change == "tokens":
        ids = windows.inputs.copy()
        ids[3, 5] += 1
        changed = {"windows": Windows(ids, windows.documents, windows.indices)}
    elif change == "fewer windows":
        changed = {"windows": windows.first(3)}
    else:
        changed = {"task": make_task(hook="blocks.1.hook_resid_pre")}
    with pytest.raises(AssertionError, match="the model was loaded"):
        collect(loaded, **changed)


def test_sharing_the_cache_between_tasks_keeps_the_masks_apart() -> None:
    loaded = make_loaded()
    made = collect(loaded, lambda: loaded.runner("float32"))
    stricter = make_task(positions=Positions(sink_norm=5.0))
    shared = collect(loaded, task=stricter)
    assert shared.stored == made.stored
    (loose,), (strict,) = made.batches(4), shared.batches(4)
    assert torch.equal(strict.spliced, loose.spliced & (strict.prefix.x_out.norm(dim=-1) <= 5.0))
    assert int(strict.spliced.sum()) < int(loose.spliced.sum())


def test_an_altered_file_is_refused() -> None:
    loaded = make_loaded()
    file = collect(loaded, lambda: loaded.runner("float32")).stored
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(AssetError, match=r"activations\.safetensors has SHA-256"):
        collect(loaded)


def forged(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Alter a file of activations, and its manifest so that it fits."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    manifest = path.with_name("manifest.json")
    content = json.loads(manifest.read_text())
    content["files"][path.name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("model_first", [True, False])
def test_activations_of_another_model_are_refused_though_their_manifest_fits(model_first: bool) -> None:
    """As soon as model and file are both at hand, whichever comes first."""
    path = make_loaded().activations("calibration", 4).stored
    assert isinstance(path, Path)
    forged(path, lambda tensors: tensors["x_out"].mul_(1.01))
    loaded = make_loaded()
    steps = [partial(loaded.activations, "calibration", 4), partial(loaded.runner, "float32")]
    first, second = reversed(steps) if model_first else steps
    first()
    with pytest.raises(AssetError, match="holds other activations") as problem:
        second()
    assert f"delete {path.parent}" in str(problem.value)


def test_one_window_that_was_altered_is_found_when_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_loaded().activations("calibration", 4).stored
    assert isinstance(path, Path)
    forged(path, lambda tensors: tensors["x_out"][2, 3].neg_())
    draws = iter([1, 2])
    monkeypatch.setattr(random.SystemRandom, "randrange", lambda self, most: next(draws))
    for expected in (nullcontext(), pytest.raises(AssetError, match="window 2 holds other")):
        loaded = make_loaded()
        loaded.runner("float32")
        with expected:
            loaded.activations("calibration", 4)


def test_a_file_is_compared_once_and_rounding_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_loaded().activations("calibration", 4).stored
    assert isinstance(path, Path)
    forged(path, lambda tensors: tensors["x_out"].mul_(1 + 1e-5))
    loaded, runner = make_loaded(), make_loaded().runner("float32")
    loaded._runners["float32"] = runner
    windows: list[int] = []
    prefix = runner.prefix
    monkeypatch.setattr(runner, "prefix", lambda ids: (windows.append(len(ids)), prefix(ids))[1])
    for _ in range(3):
        loaded.activations("calibration", 4)
    assert windows == [1]


def test_a_truncated_file_is_refused() -> None:
    loaded = make_loaded()
    file = collect(loaded, lambda: loaded.runner("float32")).stored
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(AssetError, match="bytes; expected"):
        collect(loaded)


def test_progress_counts_windows() -> None:
    told: list[tuple[str, int, int | None]] = []
    loaded = make_loaded()
    loaded.progress = lambda *words: told.append(words)
    loaded.activations("evaluation", 10)
    assert told[0] == ("loading the model (float32)", 0, None)
    assert told[1:] == [("activations (evaluation)", done, 10) for done in (4, 8, 10)]


# the bound on what is kept


def kept(cache: Path) -> set[str]:
    return {path.parent.name for path in (cache / "activations").glob("*/activations.safetensors")}


def make(model: str, age: int = 0) -> str:
    """The cache's name of the activations of a pretended model, made `age` seconds ago."""
    loaded = make_loaded()
    folder = collect(loaded, lambda: loaded.runner("float32"), model_hash=model).stored.parent
    os.utime(folder, (1e9 - age, 1e9 - age))
    return folder.name


def limit_to(files: float, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = max(path.stat().st_size for path in (cache / "activations").glob("*/activations.safetensors"))
    monkeypatch.setenv("REMAINDER_ACTIVATIONS_GB", str(files * size / 1e9))


def test_the_least_recently_used_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, older, oldest = make("a", age=1), make("b", age=2), make("c", age=3)
    limit_to(3.1, cache, monkeypatch)
    new = make("d")
    assert kept(cache) == {old, older, new}
    assert oldest not in kept(cache)


def test_using_activations_keeps_them(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used, unused = make("a", age=9), make("b", age=5)
    collect(make_loaded(), model_hash="a")
    limit_to(2.1, cache, monkeypatch)
    assert kept(cache) == {used, unused}
    new = make("c")
    assert kept(cache) == {used, new}


def test_what_is_read_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read batch by batch, perhaps for hours, while other processes need room."""
    loaded = make_loaded()
    read = collect(loaded, lambda: loaded.runner("float32"), model_hash="a")
    os.utime(read.stored.parent, (1, 1))
    later = make("b", age=5)
    limit_to(2.1, cache, monkeypatch)
    new = make("c")
    assert kept(cache) == {read.stored.parent.name, new}
    assert later not in kept(cache)
    assert len(list(read.batches(1))) > 1


def test_finding_activations_drops_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {make("a", age=3), make("b", age=2), make("c", age=1)}
    limit_to(3, cache, monkeypatch)
    for model in "abcabc":
        collect(make_loaded(), model_hash=model)
    assert kept(cache) == names


def test_what_another_process_is_making_is_not_dropped(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("a", age=9)
    foreign = cache / "activations" / "0123.tmp-4567"
    with FileLock(cache / "activations" / "0123.lock"):  # else it is swept as a dead process's
        foreign.mkdir()
        (foreign / "activations.safetensors").write_bytes(b"x" * 1000)
        os.utime(foreign, (1, 1))
        limit_to(1, cache, monkeypatch)
        make("b")
        assert (foreign / "activations.safetensors").is_file()


def test_a_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_ACTIVATIONS_GB", "8GB")
    with pytest.raises(AssetError, match="REMAINDER_ACTIVATIONS_GB is '8GB'"):
        collect(make_loaded())  # before any work


def test_an_exception_while_computing_leaves_nothing(cache: Path) -> None:
    with pytest.raises(AssertionError, match="the model was loaded"):
        collect(make_loaded())
    assert kept(cache) == set()
    assert not list(cache.rglob("*.tmp-*"))


# what is made of them


def test_moments_are_those_of_the_spliced_rows() -> None:
    loaded = make_loaded()
    moments = site_moments(loaded.activations("fit", 6), batch_size=4)
    windows = loaded.corpus.windows("fit").first(6)
    ids = torch.from_numpy(windows.inputs)
    rows = plain_hidden(loaded, 2, ids)[~torch.isin(ids, torch.tensor([0, BOS, EOS]))].double()
    assert moments.count == len(rows) < 6 * WINDOW
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(moments.covariance, torch.cov(rows.T), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loaded.rows("fit", 6).double(), rows, rtol=0, atol=1e-5)
