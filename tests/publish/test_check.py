"""`remainder check`: what can be scored passes every step, what cannot is told at the step that fails."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import (
    make_sae,
    random_weights,
    write_circuit_tracer,
    write_dictionary_learning,
    write_sparsify,
)
from safetensors.torch import load_file, save_file
from terminal import Command, Outcome
from tiny import SITE, WIDTH, write_task

from remainder.api import evaluate
from remainder.errors import InterpretationError
from remainder.interpretation.protocol import adapt
from remainder.loading.open import open_task
from remainder.publish import check as checking
from remainder.publish.check import Checked, check, render
from remainder.publish.requirements import read_described
from remainder.residual.moments import Moments
from remainder.submission.submission import Submission

LATENTS, K, TASK = 24, 5, 3
MLP = 'hook_in = "blocks.2.mlp.hook_in", hook_out = "blocks.2.hook_mlp_out"'
RULES = ["deterministic", "causal", "local", "by its codes"]
STEPS = ["found", "fits", "weights", "encode, decode", *RULES, "decode affine"]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a tiny task with everything in the cache."""
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return write_task(tmp_path / "tasks")


@pytest.fixture
def mlp_task(task: Path) -> Path:
    """The same at an MLP: read before it, replaced behind it."""
    toml = (task / "task.toml").read_text()
    site = f'hook_in = "{SITE}", hook_out = "{SITE}"'
    assert site in toml
    (task / "task.toml").write_text(toml.replace(site, MLP))
    return task


def small(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: 0.3 * value for name, value in weights.items()}


W = small(random_weights(WIDTH, LATENTS))
TINY = {"lm_name": "tiny", "activation_dim": WIDTH, "dict_size": LATENTS, "k": K}


def write_saelens(folder: Path, kind: str = "TopKSAE", **settings: Any) -> Path:
    extra = {"k": K} if kind == "TopKSAE" else {}
    sae = make_sae(kind, metadata={"hook_name": SITE}, d_in=WIDTH, d_sae=LATENTS, **extra, **settings)
    sae.load_state_dict({name: W[name].clone() for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
    sae.save_model(str(folder))
    return folder


def write_top_k(folder: Path) -> Path:
    state = {"encoder.weight": W["W_enc"].T, "encoder.bias": W["b_enc"]}
    state |= {"decoder.weight": W["W_dec"].T, "b_dec": W["b_dec"]}
    return write_dictionary_learning(folder, "AutoEncoderTopK", state, layer=1, submodule_name=None, **TINY)


RESIDUAL: dict[str, Callable[[Path], Path]] = {
    "saelens": lambda folder: write_saelens(folder),
    "dictionary-learning": lambda folder: write_top_k(folder),
    "sparsify": lambda folder: write_sparsify(folder / "layers.1", W, k=K),
}
OF_THE_MLP: dict[str, Callable[[Path], Path]] = {
    "circuit-tracer": lambda folder: write_circuit_tracer(folder, {2: W}, model_name="tiny"),
    "sparsify": lambda folder: write_sparsify(
        folder / "layers.2.mlp", W, k=K, transcode=True, skip_connection=True
    ),
}


# ------------------------------------------------------------------------------------- what passes


def test_each_format_passes_and_gets_the_same_score(task: Path, tmp_path: Path, remainder: Command) -> None:
    """All hold the same weights."""
    folders = {format: write(tmp_path / format) for format, write in RESIDUAL.items()}
    for format, folder in folders.items():
        checked = remainder("check", folder, "--task", task)
        assert_passed(checked)
        assert f"format {format}, 2 files" in checked.out
    rows = scored(remainder, task, *folders.values())
    assert len(rows) == len(folders)
    for row in rows[1:]:
        for name in ("l0", "bits_per_token", "explained_variance", "gap_raw", "kl_raw"):
            assert row[name] == pytest.approx(rows[0][name], rel=1e-4), name
    assert rows[0]["l0"] == K


def test_transcoders_pass_and_are_scored(mlp_task: Path, tmp_path: Path, remainder: Command) -> None:
    folders = {format: write(tmp_path / format) for format, write in OF_THE_MLP.items()}
    for folder in folders.values():
        checked = remainder("check", folder, "--task", mlp_task)
        assert_passed(checked)
        said = " ".join(checked.out.split())
        assert "reads blocks.2.mlp.hook_in, rebuilds blocks.2.hook_mlp_out, width 16" in said
    rows = scored(remainder, mlp_task, *folders.values())
    assert len(rows) == len(folders)
    assert all(row["gap_raw"] is not None for row in rows)
    assert {row["submission"] for row in rows} == {"circuit-tracer", "layers.2.mlp"}


def test_a_reference_reads_the_output_at_a_task_that_reads_another_place(
    mlp_task: Path, remainder: Command
) -> None:
    checked = remainder("check", "identity", "--task", mlp_task)
    assert_passed(checked)
    assert "reads blocks.2.hook_mlp_out, rebuilds blocks.2.hook_mlp_out" in " ".join(checked.out.split())
    assert "FVU 0   L0 16   16 of 16 features live (100 %)" in checked.out


def test_the_numbers_are_those_of_a_loop_over_tokens(task: Path, tmp_path: Path) -> None:
    folder = write_saelens(tmp_path / "mine")
    found = check(str(folder), str(task)).numbers
    assert found is not None
    loaded = open_task(task)
    rows, left, active, live = [], 0.0, 0, set[int]()
    sae = make_sae("TopKSAE", d_in=WIDTH, d_sae=LATENTS, k=K)
    sae.load_state_dict({name: W[name].clone() for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
    for batch in loaded.activations("calibration", 16).batches(4):
        for x in batch.prefix.x_out[batch.spliced]:
            codes = sae.encode(x).detach()
            rows.append(x.double())
            left += float((x - sae.decode(codes).detach()).double().square().sum())
            active += int((codes != 0).sum())
            live |= set(codes.nonzero()[:, 0].tolist())
    x = torch.stack(rows)
    assert found.tokens == len(x)
    assert found.fvu == pytest.approx(left / float((x - x.mean(0)).square().sum()), rel=1e-5)
    assert found.l0 == pytest.approx(active / len(x))
    assert (found.live, found.features) == (len(live), LATENTS)


def test_nothing_is_written(task: Path, tmp_path: Path, remainder: Command) -> None:
    folder = write_saelens(tmp_path / "mine")
    before = files(tmp_path)
    assert_passed(remainder("check", folder, "--task", task))
    assert files(tmp_path) == before


def test_the_same_as_json(task: Path, tmp_path: Path, remainder: Command) -> None:
    folder = write_saelens(tmp_path / "mine")
    outcome = remainder("check", folder, "--task", task, "--format", "json")
    content = json.loads(outcome.out)
    assert (outcome.code, content["passed"], content["task"]) == (0, True, "tiny/site")
    assert [step["name"] for step in content["steps"]] == STEPS
    assert content["numbers"]["features"] == LATENTS
    (folder / "cfg.json").write_text("{")
    outcome = remainder("check", folder, "--task", task, "--format", "json")
    content = json.loads(outcome.out)
    assert (outcome.code, content["passed"], content["numbers"]) == (1, False, None)
    assert content["steps"][-1]["passed"] is False


# ------------------------------------------------------------------------------------- what fails


def only_config(folder: Path, **changed: Any) -> None:
    content = json.loads((folder / "cfg.json").read_text())
    content["metadata"] |= changed.pop("metadata", {})
    (folder / "cfg.json").write_text(json.dumps({**content, **changed}))


def without_decoder(folder: Path) -> None:
    weights = load_file(folder / "sae_weights.safetensors")
    del weights["W_dec"]
    save_file(weights, folder / "sae_weights.safetensors")


FAILING: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "nothing there": (
        lambda f: [path.unlink() for path in f.glob("*")],
        "found",
        "nor what a known format consists of",
    ),
    "other layer": (
        lambda f: only_config(f, metadata={"hook_name": "blocks.1.hook_resid_pre"}),
        "fits",
        "score it at the hook",
    ),
    "other model": (
        lambda f: only_config(f, metadata={"model_name": "gpt2"}),
        "fits",
        "it was made for the model gpt2",
    ),
    "other width": (lambda f: only_config(f, d_in=9), "fits", "d_in is 9"),
    "no decoder": (without_decoder, "weights", "expected W_dec"),
    "not safetensors": (
        lambda f: (f / "sae_weights.safetensors").write_bytes(b"no"),
        "found",
        "is not a readable safetensors file",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_the_step_that_fails_is_told_with_what_to_do(
    task: Path, tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    spoil, step, words = FAILING[name]
    folder = write_saelens(tmp_path / "mine")
    spoil(folder)

    def never(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("a model was loaded in vain")

    monkeypatch.setattr(checking, "open_task", never)
    outcome = remainder("check", folder, "--task", task)
    assert outcome.code == 1
    assert_fits(outcome)
    said = " ".join(outcome.out.split())
    assert f"✗ {step} " in said
    assert words in said
    assert "To mend it: " in said
    assert said.count("✗") == 1
    reached = STEPS[: STEPS.index(step) + 1]
    for later in [name for name in STEPS[:-1] if name not in reached]:
        assert f"– {later} not reached" in said
    assert "remainder run" not in said


def test_a_submission_for_other_tasks_does_not_fit(task: Path, remainder: Command) -> None:
    outcome = remainder("check", "pca-128", "--task", task)
    assert outcome.code == 1
    assert "✗ fits submission pca-128 was made for" in " ".join(outcome.out.split())


class Leak:
    """A projection that breaks one rule."""

    def __init__(self, rule: str) -> None:
        self.rule, self.calls = rule, 0

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.rule == "deterministic":
            return x + 0.1 * self.calls
        if self.rule == "causal":
            return torch.where(x.new_ones(x.shape[1]).bool()[:, None], x + 0.1 * x.flip(1), x)
        self.kept = x
        if self.rule == "local":
            return x + 0.1 * x.flip(0)
        return x.square() if self.rule == "decode affine" else x

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        if self.rule == "encode, decode":
            return codes[..., :3]
        if self.rule == "by its codes":
            return self.kept if len(self.kept) == len(codes) else codes
        return codes.sqrt() if self.rule == "decode affine" else codes


@pytest.mark.parametrize("rule", [*RULES, "encode, decode"])
def test_a_rule_that_is_broken_is_told(task: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    found = checked_with(task, monkeypatch, Leak(rule))
    failed = [step.name for step in found.steps if step.passed is False]
    # What is not deterministic changes whenever it is looked at.
    assert failed == (["deterministic", "causal", "local"] if rule == "deterministic" else [rule])
    assert not found.passed
    assert found.numbers is None
    assert all(step.fix for step in found.steps if step.passed is False)


def test_a_decoder_that_is_not_affine_is_told_and_passes(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked_with(task, monkeypatch, Leak("decode affine"))
    assert found.passed
    assert found.steps[-1].passed is None
    assert "not affine" in found.steps[-1].detail
    assert found.steps[-1].detail.endswith("codes are quantised in units of their standard deviations")
    assert found.numbers is not None
    assert "· decode affine" in render(found)


class Silent:
    """No feature is ever active; what it says is far from anything."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*x.shape[:2], LATENTS)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return 100 + codes[..., :WIDTH]


class Huge:
    """Codes are the activations, which come out far too large."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return 1e18 * codes


def test_check_and_run_refuse_the_same_size(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked_with(task, monkeypatch, Huge())
    (failed,) = [step for step in found.steps if step.passed is False]
    assert failed.name == "encode, decode"
    with pytest.raises(InterpretationError, match=r"its reconstruction is .* times as large") as caught:
        evaluate(task, Huge())
    assert caught.value.what.partition(":")[2] == failed.detail.partition(":")[2]
    assert caught.value.fix == failed.fix


def test_what_looks_wrong_is_said(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked_with(task, monkeypatch, Silent())
    assert found.passed
    shown = " ".join(render(found).split())
    assert "the mean would leave less" in shown
    assert "! No feature is ever active" in shown
    assert "0 of 24 features live (0 %)" in shown


def test_a_task_must_be_known(task: Path, tmp_path: Path, remainder: Command) -> None:
    outcome = remainder("check", write_saelens(tmp_path / "mine"))
    assert (outcome.code, outcome.out) == (TASK, "")
    assert "does not say which task it was made for" in outcome.err
    assert "--task TASK" in outcome.err
    assert remainder("check", tmp_path / "mine", "--task", "tiny/sight").code == TASK
    toml = 'name = "mine"\nkind = "reconstruction"\ntitle = "t"\nauthors = []\nlicence = "MIT"\n'
    toml += 'tasks = ["tiny/site"]\n[method]\nformat = "saelens"\npath = "."\n'
    (tmp_path / "mine" / "submission.toml").write_text(toml)
    found = check(str(tmp_path / "mine"), str(task))
    assert found.passed


def test_an_unknown_format_of_output_is_refused_first(remainder: Command) -> None:
    outcome = remainder("check", "identity", "--format", "xml")
    assert outcome.code == 7
    assert "use one of table, json" in outcome.err


# ------------------------------------------------------------------------------------- helpers


def checked_with(task: Path, monkeypatch: pytest.MonkeyPatch, thing: Any) -> Checked:
    """What is found where `identity` is replaced by another thing."""

    def build(self: Submission, task: Any, fit: Callable[[], Moments]) -> Any:
        return adapt(thing, WIDTH, "mine")

    monkeypatch.setattr(Submission, "build", build)
    return check("identity", str(task))


def scored(remainder: Command, task: Path, *folders: Path) -> list[dict[str, Any]]:
    """The rows of one run."""
    named = [part for folder in folders for part in ("--with", folder)]
    outcome = remainder("run", task, *named, "--rungs", "coded", "--format", "json")
    assert outcome.code == 0, outcome.err
    rows: list[dict[str, Any]] = json.loads(outcome.out)
    return rows


def files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts}


def assert_passed(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome
    assert_fits(outcome)
    assert outcome.out.count("✓") == len(STEPS)
    assert "✗" not in outcome.out
    (command,) = (line for line in outcome.out.splitlines() if line.startswith("  remainder run "))
    assert command.split(" --with ")[0].endswith("/tiny/site")


def assert_fits(outcome: Outcome) -> None:
    """Lines are as long as a terminal is wide, but for what is copied as a whole: a path, or a command."""
    long = [line for line in outcome.out.splitlines() if len(line) > 80]
    assert [line for line in long if "/" not in line] == []


def test_check_and_submit_refuse_the_same_words(tmp_path: Path) -> None:
    folder = tmp_path / "my-sae"
    folder.mkdir()
    (folder / "submission.toml").write_text(
        'name = "my-sae"\nkind = "reconstruction"\ntitle = "\\u202ereversed"\nauthors = ["A"]\n'
        'licence = "MIT"\n[method]\nformat = "pca"\nrank = 4\n'
    )
    words = "title: .* holds characters that are not printed"
    with pytest.raises(InterpretationError, match=words):
        read_described(str(folder))
    step = check(str(folder), "tiny/induction").steps[-1]
    assert (step.name, step.passed) == ("found", False)
    assert re.search(words, step.detail)
