"""Submissions are found by path or name, hashed by what moves a number, and refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from safetensors.torch import load_file, save_file

from remainder.errors import InterpretationError
from remainder.formats import saelens
from remainder.formats.saelens import CONFIG, WEIGHTS
from remainder.paths import project_root
from remainder.residual.moments import Moments
from remainder.submission import Submission, baselines_for, object_submission, open_submission
from remainder.task import Site, Task, load_task

WIDTH, LATENTS = 8, 12
SITE = Site(hook_in="blocks.1.hook_resid_pre", hook_out="blocks.1.hook_resid_pre", width=WIDTH)

TOML = """name = "mine"
kind = "reconstruction"
title = "My SAE"
authors = ["A"]
licence = "MIT"

[method]
format = "saelens"
path = "weights"
"""


def save_sae(folder: Path, seed: int = 0) -> StandardSAE:
    """A tiny SAE with random weights, as sae-lens writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=LATENTS)).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    sae.save_model(str(folder))
    return sae


def submission_in(folder: Path, toml: str = TOML, weights: str = "weights") -> Path:
    save_sae(folder / weights)
    (folder / "submission.toml").write_text(toml)
    return folder


def small_task(**changed: Any) -> Task:
    return load_task("smollm2-135m/resid-15").model_copy(update={"site": SITE, **changed})


def moments() -> Moments:
    moments = Moments.empty(WIDTH)
    moments.update(torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0)))
    return moments


def never() -> Moments:
    raise AssertionError("moments were asked for in vain")


X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 5).bool()


# --------------------------------------------------------------------------------------------- opening


def test_a_folder_is_opened_and_its_sae_reconstructs(tmp_path: Path) -> None:
    submission = open_submission(submission_in(tmp_path))
    assert (submission.name, submission.title, submission.tasks) == ("mine", "My SAE", ())
    assert set(submission.files) == {f"weights/{CONFIG}", f"weights/{WEIGHTS}"}
    adapted = submission.build(small_task(), never)
    assert adapted.name == "mine"
    torch.testing.assert_close(
        adapted.reconstruct(X, MASK)[1], SAE.load_from_disk(tmp_path / "weights")(X).detach()
    )


@pytest.mark.parametrize(
    "where", ["identity", "baselines/identity", project_root() / "baselines" / "identity"]
)
def test_a_baseline_is_opened_by_name_or_path(
    where: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    submission = open_submission(where)
    assert (submission.name, submission.method.format) == ("identity", "identity")
    assert submission.files == {}
    assert torch.equal(submission.build(small_task(), never).reconstruct(X, MASK)[1], X)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My SAE (v2)", "my-sae--v2"), ("Épinards", "pinards"), ("___", "sae"), ("x" * 60, "x" * 40)],
)
def test_a_bare_folder_of_sae_lens_is_a_submission(tmp_path: Path, folder: str, name: str) -> None:
    save_sae(tmp_path / folder)
    submission = open_submission(tmp_path / folder)
    assert (submission.name, submission.title) == (name, folder)
    assert set(submission.files) == {CONFIG, WEIGHTS}
    assert submission.build(small_task(), never).reconstruct(X, MASK)[0].shape == (2, 5, LATENTS)


def test_a_hub_id_is_a_submission() -> None:
    submission = open_submission("hub:Some-Lab/some-saes:layer_3/width_16k")
    assert submission.method.hub == "Some-Lab/some-saes:layer_3/width_16k"
    assert submission.name == "width_16k"


@pytest.mark.parametrize("wrong", ["identiy", "baselines/identiy"])
def test_an_unknown_name_offers_the_nearest(wrong: str) -> None:
    with pytest.raises(InterpretationError, match=f"{wrong} is no submission") as raised:
        open_submission(wrong)
    assert "identity" in (raised.value.fix or "")
    assert "topk-sae-32" not in (raised.value.fix or "")


def test_an_empty_folder_is_no_submission(tmp_path: Path) -> None:
    with pytest.raises(InterpretationError, match=r"there is no submission\.toml or cfg\.json in it"):
        open_submission(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "My SAE"', "title = ", "not valid TOML"),
        ('title = "My SAE"\n', "", "title: Field required"),
        ('title = "My SAE"', 'title = "My SAE"\ncolour = "red"', "colour: Extra inputs"),
        ('"mine"', '"My own"', "name: String should match pattern"),
        ('"reconstruction"', '"circuit"', "kind: Input should be 'reconstruction'"),
        ('"saelens"', '"pickle"', "method.format: Input should be"),
        ('path = "weights"', "rank = 1.5", "method.rank: Input should be a valid integer"),
        ('path = "weights"', 'hub = "a/b:c"\npath = "w"', "method: .* `path` or `hub`, not both"),
        ('path = "weights"', 'path = "/tmp"', "method: .*must lie in the submission's folder"),
        ('path = "weights"', 'path = "../weights"', "method: .*must lie in the submission's folder"),
        ('title = "My SAE"', 'title = "My SAE"\nfolder = "x"', "folder: this is found, not given"),
        ('title = "My SAE"', 'title = "My SAE"\nfiles = {}', "files: this is found, not given"),
    ],
)
def test_a_malformed_file_is_refused_at_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TOML
    with pytest.raises(InterpretationError, match=r"submission\.toml.*" + message) as raised:
        open_submission(submission_in(tmp_path, TOML.replace(old, new)))
    assert raised.value.fix


# ------------------------------------------------------------------------------------ hashes and tasks


@pytest.mark.parametrize("path", ['path = "weights"', "", 'path = "."'])
def test_the_hash_moves_with_the_weights_and_not_with_the_words(tmp_path: Path, path: str) -> None:
    toml = TOML.replace('path = "weights"', path)
    weights = "weights" if "weights" in path else "."
    first = open_submission(submission_in(tmp_path / "a", toml, weights)).hash
    assert open_submission(submission_in(tmp_path / "elsewhere", toml, weights)).hash == first
    words = toml.replace("My SAE", "Another title").replace('["A"]', '["B", "C"]').replace("MIT", "CC0")
    (tmp_path / "a" / "submission.toml").write_text(words)
    (tmp_path / "a" / "notes.txt").write_text("Trained on a Tuesday.")
    assert open_submission(tmp_path / "a").hash == first
    save_sae(tmp_path / "a" / weights, seed=1)
    assert open_submission(tmp_path / "a").hash != first
    save_sae(tmp_path / "a" / weights)
    assert open_submission(tmp_path / "a").hash == first
    config = tmp_path / "a" / weights / CONFIG
    config.write_text(json.dumps({**json.loads(config.read_text()), "apply_b_dec_to_input": False}))
    assert open_submission(tmp_path / "a").hash != first


def test_the_hash_moves_with_every_setting() -> None:
    settings = [{"format": "pca", "rank": 3}, {"format": "pca", "rank": 4}, {"format": "mean"}]
    settings += [{"format": "random-projection", "rank": 3, "seed": seed} for seed in (0, 1)]
    words = {"name": "n", "kind": "reconstruction", "title": "t", "authors": (), "licence": "MIT"}
    assert len({Submission(**words, method=method).hash for method in settings}) == len(settings)


def test_a_submission_for_other_tasks_is_refused(tmp_path: Path) -> None:
    toml = TOML.replace("[method]", 'tasks = ["other/task", "more/tasks"]\n[method]')
    submission = open_submission(submission_in(tmp_path, toml))
    assert not submission.fits(small_task())
    assert submission.fits(small_task(id="more/tasks"))
    with pytest.raises(InterpretationError, match="made for other/task, more/tasks, not for smollm2"):
        submission.build(small_task(), never)


def test_baselines_that_fit_a_task() -> None:
    task = load_task("smollm2-135m/resid-15")
    fitting = {submission.name for submission in baselines_for(task)}
    assert {"identity", "mean-only", "pca-128", "random-256"} <= fitting
    others = {submission.name for submission in baselines_for(small_task(id="other/task"))}
    assert "identity" in others
    assert "pca-128" not in others


def test_reference_methods_are_made_from_moments() -> None:
    words = {"name": "n", "kind": "reconstruction", "title": "t", "authors": (), "licence": "MIT"}

    def built(**method: Any) -> torch.Tensor:
        return Submission(**words, method=method).build(small_task(), moments).reconstruct(X, MASK)[1]

    mean = moments().mean.float()
    torch.testing.assert_close(built(format="mean"), mean.expand_as(X))
    torch.testing.assert_close(built(format="pca", rank=WIDTH), X)
    vectors = torch.linalg.svd(moments().covariance)[2][:2].float()
    torch.testing.assert_close(built(format="pca", rank=2), mean + (X - mean) @ vectors.T @ vectors)
    one, other = (built(format="random-projection", rank=3, seed=seed) for seed in (0, 1))
    assert not torch.allclose(one, other)
    for method in ("pca", "random-projection"):
        with pytest.raises(InterpretationError, match=f"format {method} needs `rank`"):
            built(format=method)


def test_an_object_is_hashed_by_its_tensors(tmp_path: Path) -> None:
    same, again, other = (save_sae(tmp_path, seed) for seed in (0, 0, 1))
    assert object_submission(same).name == "standardsae"
    assert object_submission(same, "mine").name == "mine"
    assert object_submission(same).hash == object_submission(again).hash != object_submission(other).hash

    class Plain:
        def __init__(self, weight: torch.Tensor) -> None:
            self.weight = weight

    hashes = {
        object_submission(Plain(weight)).hash
        for weight in (X, X + 1, X.bfloat16(), X.reshape(-1), torch.zeros(()), torch.tensor([True]))
    }
    assert len(hashes) == 6


# ---------------------------------------------------------------------------------------------- saelens


def test_a_sae_is_loaded_whole_and_in_float32(tmp_path: Path) -> None:
    sae = save_sae(tmp_path)
    half = {name: value.half() for name, value in load_file(tmp_path / WEIGHTS).items()}
    save_file(half, tmp_path / WEIGHTS)
    loaded = saelens.load_folder(tmp_path, SITE)
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, sae.state_dict()[name], rtol=1e-3, atol=1e-3)


def change_config(folder: Path, **changed: Any) -> None:
    content = {**json.loads((folder / CONFIG).read_text()), **changed}
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def change_weights(folder: Path, **changed: torch.Tensor) -> None:
    save_file({**load_file(folder / WEIGHTS), **changed}, folder / WEIGHTS)


def only_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "sae.pt").write_bytes(b"\x80\x04.")


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


NAN = torch.full((LATENTS,), float("nan"))
BROKEN = {
    "pickle": (only_a_pickle, rf"has no {WEIGHTS}, only sae\.pt", "pickles are never loaded"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), rf"has no {WEIGHTS}$", "save the SAE"),
    "truncated": (truncate, "is not a readable safetensors file", "truncated"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "not a readable safetensors", "copy it again"),
    "NaN": (lambda f: change_weights(f, b_enc=NAN), "b_enc holds NaN", "again"),
    "infinite": (lambda f: change_weights(f, b_enc=NAN.nan_to_num(torch.inf)), "holds NaN or inf", "again"),
    "transposed": (
        lambda f: change_weights(f, W_dec=torch.ones(WIDTH, LATENTS)),
        r"W_dec has shape \(8, 12\) \(transposed\); cfg.json says \(12, 8\)",
        "d_sae, d_in",
    ),
    "other decoder": (
        lambda f: change_weights(f, W_dec=torch.ones(LATENTS, 7)), r"shape \(12, 7\);", "d_sae, d_in",
    ),
    "other encoder": (
        lambda f: change_weights(f, W_enc=torch.ones(LATENTS, WIDTH)), "cannot load it", "anew",
    ),
    "other width": (lambda f: change_config(f, d_in=9), "d_in is 9; the task's .* width 8", "choose"),
    "no width": (lambda f: change_config(f, d_in=None), "d_in is None", "choose"),
    "no architecture": (lambda f: change_config(f, architecture="none"), "cannot load it", "anew"),
    "odd metadata": (lambda f: change_config(f, metadata=3), "cannot load it", "anew"),
    "bad JSON": (lambda f: (f / CONFIG).write_text('{"d_in": 8,'), "is not valid JSON", "anew"),
    "not UTF-8": (lambda f: (f / CONFIG).write_bytes(b'{"\xff"}'), "is not valid JSON", "anew"),
    "JSON list": (lambda f: (f / CONFIG).write_text("[8]"), "holds no JSON object", "anew"),
    "no config": (lambda f: (f / CONFIG).unlink(), f"{CONFIG} does not exist", "SAELens"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused(tmp_path: Path, name: str) -> None:
    spoil, message, fix = BROKEN[name]
    save_sae(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InterpretationError) as raised:
        saelens.load_folder(tmp_path, SITE)
    assert str(tmp_path) in raised.value.what
    raised.match(message.replace("$", "(?m:$)"))
    assert fix in (raised.value.fix or "")


@pytest.mark.parametrize("name", ["no-colon", ":id", "release:"])
def test_a_hub_id_needs_two_parts(name: str) -> None:
    with pytest.raises(InterpretationError, match=f"hub:{name} does not name an SAE"):
        saelens.load_hub(name, SITE)


def test_whatever_the_hub_says_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: Any, **settings: Any) -> None:
        raise ConnectionError("no route to the hub\nand more")

    monkeypatch.setattr(SAE, "from_pretrained", refuse)
    with pytest.raises(InterpretationError, match="hub:a/b:c cannot be loaded: ConnectionError: no route"):
        saelens.load_hub("a/b:c", SITE)
    sae = save_sae(tmp_path)
    monkeypatch.setattr(SAE, "from_pretrained", lambda *args, **settings: sae)
    assert saelens.load_hub("a/b:c", SITE) is sae
    with pytest.raises(InterpretationError, match=r"a/b:c: d_in is 8; .* has width 9"):
        saelens.load_hub("a/b:c", SITE.model_copy(update={"width": 9}))


@pytest.mark.parametrize(
    ("made_at", "site", "fits"),
    [
        ("blocks.14.hook_resid_post", "blocks.15.hook_resid_pre", True),
        ("blocks.15.hook_in", "blocks.15.hook_resid_pre", True),
        ("blocks.3.hook_resid_pre", "blocks.15.hook_resid_pre", False),
        ("blocks.15.hook_mlp_out", "blocks.15.hook_resid_pre", False),
    ],
)
def test_an_sae_of_another_hook_is_refused(made_at: str, site: str, fits: bool) -> None:
    class Config:
        def to_dict(self) -> dict[str, object]:
            return {"d_in": 4, "metadata": {"hook_name": made_at}}

    class Thing:
        cfg = Config()

    where = Site(hook_in=site, hook_out=site, width=4)
    if fits:
        saelens.check_object(Thing(), where, "mine")
    else:
        with pytest.raises(InterpretationError, match=made_at):
            saelens.check_object(Thing(), where, "mine")


def test_the_hash_of_an_object_sees_numbers_slots_and_nested_weights() -> None:
    class Slotted:
        __slots__ = ("k",)

        def __init__(self, k: int) -> None:
            self.k = k

    class Wrapper:
        def __init__(self, weight: float) -> None:
            self.inner = torch.nn.Linear(2, 2)
            torch.nn.init.constant_(self.inner.weight, weight)
            torch.nn.init.zeros_(self.inner.bias)

    assert object_submission(Slotted(8)).hash != object_submission(Slotted(32)).hash
    assert object_submission(Slotted(8)).hash == object_submission(Slotted(8)).hash
    assert object_submission(Wrapper(1.0)).hash != object_submission(Wrapper(2.0)).hash
