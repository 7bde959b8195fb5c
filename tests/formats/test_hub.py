"""SAEs from a hub: fetched, hashed, kept, read in every format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_files import (
    LATENTS,
    SAES,
    SCOPE,
    SCOPE_ID,
    connected,
    random_sae,
    release,
    sae_repository,
    scope_repository,
    sha256,
)
from hub_server import Hub
from tiny import SITE, WIDTH, make_task, model_folder

from remainder.errors import InterpretationError
from remainder.formats import gemma_scope
from remainder.submission.open import baselines_for, open_submission
from remainder.submission.submission import Submission
from remainder.task.spec import ModelSpec


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(tmp_path / "hub-cache", monkeypatch) as hub:
        yield hub


@pytest.fixture
def saes(hub: Hub, tmp_path: Path) -> str:
    """The commit of a repository of SAEs on the hub."""
    return hub.add(SAES, sae_repository(tmp_path / "saes"))


# an SAE in a repository


def test_an_sae_is_fetched_hashed_and_loaded(hub: Hub, saes: str, tmp_path: Path) -> None:
    submission = open_submission(f"hub:{SAES}:{SITE}")
    assert submission.name == f"tiny-saes-{SITE}"
    assert submission.commit == saes
    assert submission.is_pinned
    assert submission.files == {
        f"{SAES}@{saes}/{SITE}/{name}": sha256(tmp_path / "saes" / SITE / name)
        for name in ("cfg.json", "sae_weights.safetensors")
    }
    adapted = submission.build(make_task(), lambda: pytest.fail("no moments are needed"))
    expected = random_sae(0, "topk")
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(adapted.reconstruct(x)[1], expected(x))


def test_nothing_else_of_the_repository_is_fetched(hub: Hub, saes: str) -> None:
    open_submission(f"hub:{SAES}:{SITE}")
    asked = [path for method, path in hub.requests if "/resolve/" in path]
    assert asked
    assert all(f"/{SITE}/" in path for path in asked)


def test_a_second_time_nothing_is_downloaded(hub: Hub, saes: str) -> None:
    first = open_submission(f"hub:{SAES}:{SITE}")
    assert hub.downloads()
    hub.requests.clear()
    assert open_submission(f"hub:{SAES}:{SITE}") == first
    assert hub.downloads() == []
    hub.requests.clear()
    pinned = open_submission(f"hub:{SAES}@{saes}:{SITE}")
    assert hub.requests == []  # what a commit holds cannot change
    assert pinned.hash == first.hash


def decoded(submission: Submission) -> torch.Tensor:
    """What tells the weights of two SAEs apart."""
    adapted = submission.build(make_task(), lambda: pytest.fail("no moments are needed"))
    return adapted.decode(torch.ones(1, 1, LATENTS))


def test_a_new_commit_is_noticed_and_the_old_one_can_still_be_had(
    hub: Hub, saes: str, tmp_path: Path
) -> None:
    old = open_submission(f"hub:{SAES}:{SITE}")
    later = hub.add(SAES, sae_repository(tmp_path / "other", seed=5))
    new = open_submission(f"hub:{SAES}:{SITE}")
    assert new.commit == later
    assert new.hash != old.hash
    weights = tmp_path / "other" / SITE / "sae_weights.safetensors"
    assert new.files[f"{SAES}@{later}/{SITE}/sae_weights.safetensors"] == sha256(weights)
    again = open_submission(f"hub:{SAES}@{saes}:{SITE}")
    assert again.hash == old.hash
    assert not torch.equal(decoded(again), decoded(new))


def test_what_was_fetched_is_what_is_built(hub: Hub, saes: str, tmp_path: Path) -> None:
    """A commit in between, of the same repository, changes nothing."""
    old = open_submission(f"hub:{SAES}:{SITE}")
    before = decoded(old)
    hub.add(SAES, sae_repository(tmp_path / "other", seed=5))
    assert torch.equal(decoded(old), before)


def test_without_a_hub_the_cache_is_enough(hub: Hub, saes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_submission(f"hub:{SAES}:{SITE}")
    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert open_submission(f"hub:{SAES}:{SITE}") == first
    assert hub.requests == []


def test_a_submission_on_a_hub_is_fetched_when_it_is_needed(
    hub: Hub, saes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "baselines" / "mine"
    folder.mkdir(parents=True)
    (folder / "submission.toml").write_text(
        f'name = "mine"\nkind = "reconstruction"\ntitle = "T"\nauthors = []\nlicence = "MIT"\n'
        f'[method]\nformat = "saelens"\nhub = "{SAES}:{SITE}"\nrevision = "{saes}"\n'
    )
    monkeypatch.setattr("remainder.base.paths.project_root", lambda: tmp_path)
    (listed,) = baselines_for(make_task())
    assert not listed.is_pinned
    assert hub.requests == []  # `remainder show` needs no hub
    opened = open_submission("mine")
    assert opened.is_pinned
    assert opened.hash == open_submission(f"hub:{SAES}:{SITE}").hash
    assert torch.equal(decoded(listed), decoded(opened))


# other formats, and releases of sae-lens's list


def test_a_submission_may_have_the_revision_in_its_address(
    hub: Hub, saes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(monkeypatch, SAES, None)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "submission.toml").write_text(
        f'name = "mine"\nkind = "reconstruction"\ntitle = "T"\nauthors = []\nlicence = "MIT"\n'
        f'[method]\nformat = "saelens"\nhub = "tiny-release@{saes}:one"\n'
    )
    hub.add(SAES, sae_repository(tmp_path / "other", seed=5))
    assert torch.equal(
        decoded(open_submission(folder)), decoded(open_submission(f"hub:tiny-release@{saes}:one"))
    )


def test_a_release_that_names_its_own_revision_is_read_at_that(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = hub.add(SCOPE, scope_repository(tmp_path / "scope"))
    release(
        monkeypatch,
        SCOPE,
        "gemma_2_transcoder",
        saes_map={"one": SCOPE_ID},
        config_overrides={"d_in": WIDTH, "d_out": WIDTH, "d_sae": LATENTS, "revision": old},
    )
    (tmp_path / "scope" / "README.md").write_text("Later.")
    new = hub.add(SCOPE, tmp_path / "scope")
    assert open_submission("hub:tiny-release:one").commit == old
    assert open_submission(f"hub:tiny-release@{new}:one").commit == new


def both_ways(repo: str, path: str, name: str = "tiny") -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructions by sae-lens's reader of a release, and by ours of the folder that it lies in."""
    task = make_task(model=ModelSpec(name=name, licence="MIT", hub=str(model_folder())))
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))

    def one(text: str) -> torch.Tensor:
        adapted = open_submission(text).build(task, lambda: pytest.fail("no moments are needed"))
        return adapted.reconstruct(x)[1]

    return one("hub:tiny-release:one"), one(f"hub:{repo}:{path}")


def test_a_release_is_read_by_sae_lens_at_one_commit(
    hub: Hub, saes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(monkeypatch, SAES, None)
    first = open_submission("hub:tiny-release:one")
    assert first.commit == saes
    assert first.files == open_submission(f"hub:{SAES}:{SITE}").files
    before = decoded(first)
    hub.add(SAES, sae_repository(tmp_path / "other", seed=5))
    assert torch.equal(decoded(first), before)
    assert not torch.equal(decoded(open_submission("hub:tiny-release:one")), before)
    assert torch.equal(decoded(open_submission(f"hub:tiny-release@{saes}:one")), before)
    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert open_submission(f"hub:tiny-release@{saes}:one").hash == first.hash
    assert hub.requests == []
    ours, theirs = both_ways(SAES, SITE)
    torch.testing.assert_close(ours, theirs)


def test_what_a_release_says_of_its_model_is_heeded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The released SAEs of GPT-2 are of a residual stream whose mean over the width was taken out.

    That is so of models with LayerNorm only.
    """
    # As they were saved then, with everything side by side.
    config = {"d_in": WIDTH, "d_sae": LATENTS, "dtype": "float32", "hook_point": SITE, "model_name": "tiny"}
    folder = tmp_path / "old" / SITE
    random_sae().save_model(str(folder))
    (folder / "cfg.json").write_text(json.dumps(config))
    hub.add(SAES, tmp_path / "old")
    kwargs = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    release(monkeypatch, SAES, None, config_overrides=kwargs)
    submission = open_submission("hub:tiny-release:one")
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    adapted = submission.build(make_task(model_folder("gpt2")), lambda: pytest.fail("none"))
    torch.testing.assert_close(adapted.reconstruct(x + 5)[1], adapted.reconstruct(x)[1] + 5)
    adapted = submission.build(make_task(model_folder("llama")), lambda: pytest.fail("none"))
    torch.testing.assert_close(adapted.reconstruct(x)[1], random_sae()(x))


def test_gemma_scope_is_read_as_sae_lens_reads_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(SCOPE, scope_repository(tmp_path / "scope"))
    release(
        monkeypatch,
        SCOPE,
        "gemma_2",
        saes_map={"one": SCOPE_ID},
        config_overrides={"d_in": WIDTH, "d_sae": LATENTS},
    )
    ours, theirs = both_ways(SCOPE, SCOPE_ID, "gemma-2-2b")
    torch.testing.assert_close(ours, theirs)
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, random_sae(3, "jumprelu")(x))
    submission = open_submission(f"hub:{SCOPE}:{SCOPE_ID}")
    assert submission.method.format == "gemma-scope"
    elsewhere = make_task(hook="blocks.1.hook_resid_pre")
    with pytest.raises(InterpretationError, match=r"trained at blocks.1.hook_resid_post; the task's site is"):
        submission.build(elsewhere, lambda: pytest.fail("no moments are needed"))


@pytest.mark.parametrize("kind", ["AutoEncoder", "AutoEncoderTopK"])
def test_saebench_s_releases_are_read_as_sae_lens_reads_them(
    kind: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = random_sae(4)
    bias = "b_dec" if kind == "AutoEncoderTopK" else "bias"
    state = {
        "encoder.weight": sae.W_enc.data.T.contiguous(),
        "encoder.bias": sae.b_enc.data,
        "decoder.weight": sae.W_dec.data.T.contiguous(),
        bias: sae.b_dec.data,
    }
    trainer = {
        "dict_class": kind,
        "activation_dim": WIDTH,
        "dict_size": LATENTS,
        "layer": 1,
        "lm_name": "tiny",
    }
    if kind == "AutoEncoderTopK":
        trainer["k"] = 4
    folder = tmp_path / "lm_sae" / "sweep/resid_post_layer_1/trainer_0"
    folder.mkdir(parents=True)
    torch.save(state, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    hub.add("test/lm_sae", tmp_path / "lm_sae")
    path = "sweep/resid_post_layer_1/trainer_0"
    release(monkeypatch, "test/lm_sae", "dictionary_learning_1", saes_map={"one": path})
    ours, theirs = both_ways("test/lm_sae", path)
    torch.testing.assert_close(ours, theirs)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"threshold": None}, "threshold is missing"),
    "transposed": ({"W_dec": np.zeros((WIDTH, LATENTS), np.float32)}, r"W_dec has shape \(16, 24\)"),
    "nan": ({"b_enc": np.full(LATENTS, np.nan, np.float32)}, "b_enc .* no finite number"),
    "whole numbers": ({"b_enc": np.zeros(LATENTS, np.int64)}, "b_enc .int64. .* no finite number"),
    "objects": ({"b_enc": np.array([{}] * LATENTS)}, "no readable file of arrays: Object arrays"),
    "width": (
        {"W_enc": np.zeros((8, LATENTS)), "W_dec": np.zeros((LATENTS, 8)), "b_dec": np.zeros(8)},
        "d_in is 8",
    ),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_of_gemma_scope_are_refused(name: str, tmp_path: Path) -> None:
    changed, message = BAD_ARRAYS[name]
    place = scope_repository(tmp_path) / SCOPE_ID
    arrays = dict(np.load(place / "params.npz"))
    arrays.update(changed)
    np.savez(place / "params.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(InterpretationError, match=message) as raised:
        gemma_scope.load(place, make_task())
    assert "params.npz" in raised.value.what
    assert raised.value.fix


def test_a_truncated_file_of_arrays_is_refused(tmp_path: Path) -> None:
    path = scope_repository(tmp_path) / SCOPE_ID / "params.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InterpretationError, match=r"is no file that numpy\.savez wrote, or it is truncated"):
        gemma_scope.load(path.parent, make_task())
