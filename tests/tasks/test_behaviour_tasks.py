"""Tasks of circuits: what a model solves is kept, what it does not do is refused, scripts bring their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from behaviour_files import TOML, logits, mostly, pair, write

from remainder.base.paths import project_root
from remainder.errors import AssetError, InterpretationError, TaskError
from remainder.loading import prompts as module
from remainder.loading.behaviour import prompts_hash
from remainder.loading.fetch import fetch
from remainder.loading.open import at_site, open_task
from remainder.loading.prompts import BehaviourTask, ScriptBehaviourTask
from remainder.measure.plan import plan
from remainder.model.bridge import weights_hash
from remainder.model.module import module_hash
from remainder.submission.objects import object_submission
from remainder.task.behaviour import SPLITS
from remainder.task.spec import SIZES, list_tasks, load_task

TASKS = project_root() / "tasks"


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


def opened(place: Path, **arguments: Any) -> BehaviourTask:
    found = open_task(place, device="cpu", **arguments)
    assert isinstance(found, BehaviourTask)
    return found


# what the model solves


def test_what_is_solved_is_kept_and_counted(tmp_path: Path) -> None:
    lead = mostly()
    found = opened(write(tmp_path, lead))
    solved = tried = 0
    for split in SPLITS:
        for kept, candidates in zip(found.prompts(split), found.candidates.prompts[split], strict=True):
            values = logits(candidates.tokens)
            ahead = (values[:, lead.right] > values[:, lead.wrong]).numpy()
            expected = [name for name, right in zip(candidates.documents, ahead, strict=True) if right]
            assert list(kept.documents) == expected
            assert (kept.tokens == candidates.tokens[ahead]).all()
            solved, tried = solved + int(ahead.sum()), tried + len(ahead)
    facts = found.facts
    assert 0 < solved < tried == facts.candidates
    assert facts.solved == solved
    assert facts.accuracy == pytest.approx(solved / tried)
    for each in facts.templates:
        groups = [
            group
            for split in SPLITS
            for group in found.candidates.prompts[split]
            if group.template == each.template
        ]
        real, other = (
            logits(np.concatenate([getattr(group, kind) for group in groups]))
            for kind in ("tokens", "counterfactual")
        )
        answers, others = (x[:, lead.right] - x[:, lead.wrong] for x in (real, other))
        assert each.answer == pytest.approx(float(answers.mean()), abs=1e-4)
        assert each.answer_solved == pytest.approx(float(answers[answers > 0].mean()), abs=1e-4)
        assert each.answer_counterfactual == pytest.approx(float(others[answers > 0].mean()), abs=1e-4)
        assert each.kept
    assert found.model.sha256 == weights_hash(tiny.model_folder())
    assert found.data.sha256 == prompts_hash({split: found.prompts(split) for split in SPLITS})


def test_a_template_that_is_not_solved_is_left_out_whole(tmp_path: Path) -> None:
    lead = pair(lambda lead: lead.short > 0.9 and lead.long < 0.45)
    found = opened(write(tmp_path, lead))
    assert [each.kept for each in found.facts.templates] == [True, False]
    assert all([group.template for group in found.prompts(split)] == ["short"] for split in SPLITS)


def test_a_model_that_guesses_is_refused(tmp_path: Path) -> None:
    lead = pair(lambda lead: 0.35 < lead.short < 0.5 and 0.35 < lead.long < 0.5)
    with pytest.raises(
        TaskError, match=r"tiny does not show .* right on \d+ of 240 prompts \(\d\d%\)"
    ) as caught:
        opened(write(tmp_path, lead))
    assert "mean answer of " in str(caught.value)


def test_a_tier_that_asks_for_more_than_is_left_is_refused(tmp_path: Path) -> None:
    place = write(tmp_path, mostly(), standard=80)
    with pytest.raises(TaskError, match=r"\d\d prompts of evaluation are left, and tier standard takes 80"):
        opened(place)


def test_the_model_is_tried_once_and_batches_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path, mostly())
    said: list[str] = []
    first = opened(place, batch_size=3, progress=lambda what, done, total: said.append(what))
    assert "trying the prompts of mine/words" in said

    def never(*arguments: Any, **named: Any) -> None:
        raise AssertionError("the model is loaded again")

    monkeypatch.setattr(module, "load_bridge", never)
    again = opened(place, batch_size=7)
    assert again.data == first.data
    assert again.facts == first.facts


def test_pinned_prompts_are_compared(tmp_path: Path) -> None:
    lead = mostly()
    right = opened(write(tmp_path, lead)).data.sha256
    opened(write(tmp_path, lead, circuit=f'prompts_sha256 = "{right}"'))
    with pytest.raises(AssetError, match=f"hash to {right[:16]}…, the task pins 0000000000000000…"):
        opened(write(tmp_path, lead, circuit=f'prompts_sha256 = "{"0" * 64}"'))


def test_it_has_a_model_with_a_graph_and_no_site(tmp_path: Path) -> None:
    found = opened(write(tmp_path, mostly()))
    model = found.circuit_model()
    assert found.circuit_model() is model
    assert model.graph.architecture.layers == tiny.LAYERS
    prompts = found.prompts("fit")[0]
    expected = logits(prompts.tokens)
    torch.testing.assert_close(
        model.run(torch.from_numpy(prompts.tokens))[:, -1].double(), expected, atol=1e-4, rtol=1e-4
    )
    assert fetch(found.task) == {"model": tiny.model_folder()}
    with pytest.raises(TaskError, match="mine/words scores circuits"):
        at_site(found)
    rebuilt = object_submission(tiny.Shrink(), "rebuilt")
    with pytest.raises(InterpretationError, match="mine/words scores circuits"):
        found.measure(rebuilt, plan(found.task, "quick"))


# the text of the task


def test_a_behaviour_is_part_of_what_is_measured(tmp_path: Path) -> None:
    place = write(tmp_path, mostly())
    before = load_task(place)
    assert before.circuit is not None
    assert before.circuit.sizes == SIZES
    (place / "words.toml").write_text((place / "words.toml").read_text() + "# moved\n")
    after = load_task(place)
    assert after.hash != before.hash
    shutil.copytree(place, tmp_path / "elsewhere" / "mine" / "words")
    assert load_task(tmp_path / "elsewhere" / "mine" / "words").hash == after.hash


def test_a_task_of_circuits_has_the_model_of_its_family_and_not_the_text(tmp_path: Path) -> None:
    place = write(tmp_path, mostly())
    (place.parent / "family.toml").write_text("splits = { seed = 1, evaluation = 9, calibration = 9 }\n")
    assert load_task(place).splits is None


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('behaviour = "words.toml"', "", r"\[circuit\] needs a `behaviour`"),
        ('"words.toml"', '"wards.toml"', "circuit.behaviour: there is no file wards.toml"),
        ("seed = 2", "seed = 2\nsha256 = '0'", "circuit.sha256: this is found, not given"),
        ("seed = 2", "seed = 2\nsizes = [0.5, 0.1]", "`sizes` must ascend"),
        ("seed = 2", "seed = 2\nsizes = [0.1, 2.0]", "circuit.sizes.1: .*less than or equal to 1"),
        ("seed = 2", "seed = 2\nheadline = 0.3", "`headline` is 0.3, which is none of `sizes`"),
        ("seed = 5", "seed = 5\npositions = { sink_norm = 9.0 }", "leave out positions"),
        ("hub = ", "# hub = ", "needs a place of its model"),
    ],
)
def test_a_malformed_circuit_is_named(old: str, new: str, what: str, tmp_path: Path) -> None:
    path = write(tmp_path, mostly()) / "task.toml"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(TaskError, match=what):
        load_task(path.parent)


# a script's


SCRIPT = """
import numpy as np
import torch
from torch import nn

from remainder.build import BuiltCircuit
from remainder.circuit.plain import Layer, PlainCircuitModel
from remainder.circuit.prompts import Prompts


def prompts(split, generator):
    tokens = generator.integers(0, 7, (6, 4))
    scored = np.ones(tokens.shape, dtype=bool)
    names = tuple(f"{split}-{i}" for i in range(6))
    wrong = np.zeros((6, 4, 0), dtype=np.int64)
    return (Prompts("all", tokens, (tokens + 1) % 7, names, scored, tokens[:, :, None], wrong),)


def build(seed, folder):
    generator, torch_generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    rand = lambda *size: torch.randn(*size, generator=torch_generator)
    layer = Layer(rand(2, 7, 3), rand(2, 7, 3), rand(2, 7, 3), 0.5 * rand(2, 3, 7))
    model = PlainCircuitModel(3 * torch.eye(7), torch.zeros(4, 7), [layer], torch.eye(7), causal=True)
    splits = {split: prompts(split, generator) for split in ("fit", "calibration", "evaluation")}
    return BuiltCircuit(model, splits, {"nothing": ()})
"""
BUILD = '[build]\nscript = "build.py"\ndata = "random tokens"\ndata_licence = "MIT"'


def write_script(folder: Path, script: str = SCRIPT) -> Path:
    place = folder / "scripts" / "copying"
    place.mkdir(parents=True, exist_ok=True)
    (place / "build.py").write_text(script)
    (place / "task.toml").write_text(TOML.format(model=BUILD, circuit="", quick=4, standard=6))
    return place


def test_a_script_brings_model_prompts_and_circuits(tmp_path: Path) -> None:
    found = open_task(write_script(tmp_path), device="cpu")
    assert isinstance(found, ScriptBehaviourTask)
    assert found.interpretations == {"nothing": ()}
    assert found.model.sha256 == module_hash(found.built.model)
    assert found.data.source == "random tokens"
    assert [len(group) for group in found.prompts("evaluation")] == [6]
    model = found.circuit_model()
    assert model is not found.built.model
    prompts = found.prompts("fit")[0]
    torch.testing.assert_close(
        model.run(torch.from_numpy(prompts.tokens)), found.built.model(torch.from_numpy(prompts.tokens))
    )
    # The token is copied from the same position: right if, at all positions, it is the likeliest.
    right = answers = 0.0
    for split in SPLITS:
        (group,) = found.prompts(split)
        values = found.built.model(torch.from_numpy(group.tokens))
        targets = torch.from_numpy(group.tokens)
        right += float((values.argmax(-1) == targets).all(1).sum())
        chance = values.softmax(-1).gather(-1, targets[..., None])
        answers += float((chance / (1 - chance)).log().mean((1, 2)).sum())
    assert found.facts.solved == right
    assert found.facts.candidates == 18
    assert found.facts.answer == pytest.approx(answers / 18, rel=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("return BuiltCircuit", "return list", "build\\(seed=5, …\\) failed: TypeError"),
        ("return BuiltCircuit(model, splits", "return (model, splits", "build gave tuple"),
        ("BuiltCircuit(model,", "BuiltCircuit(nn.Linear(2, 2),", "model has no graph, run or outputs"),
        ('"fit", "calibration", ', '"fit", ', "there are no prompts of split calibration"),
        ('f"{split}-{i}"', 'f"{i}"', "document '0' is in fit and again in calibration"),
    ],
)
def test_what_a_script_gives_is_checked(old: str, new: str, what: str, tmp_path: Path) -> None:
    assert old in SCRIPT
    with pytest.raises(TaskError, match=what):
        open_task(write_script(tmp_path, SCRIPT.replace(old, new, 1)), device="cpu")


# the tasks of this project


def behaviours() -> list[str]:
    return [
        name
        for name in list_tasks()
        if (circuit := load_task(name).circuit) is not None and circuit.behaviour
    ]


def test_every_behaviour_is_there_for_every_model() -> None:
    names = {name.split("/")[1] for name in behaviours()}
    assert names == {path.stem for path in (TASKS / "behaviours").glob("*.toml")}
    models = {name.split("/")[0] for name in behaviours()}
    assert set(behaviours()) == {f"{model}/{name}" for model in models for name in names}


@pytest.mark.parametrize("name", behaviours())
def test_every_behaviour_takes_no_more_than_it_tries(name: str) -> None:
    task = load_task(name)
    assert task.circuit is not None
    assert task.corpus is None
    templates = 2
    for tier in task.tiers.values():
        amounts = (tier.evaluation_windows, tier.calibration_windows, tier.fit_windows)
        assert max(amounts) <= templates * task.circuit.candidates
        assert tier.dtype == "float32"


@pytest.mark.parametrize("name", [name for name in behaviours() if load_task(name).model.hub is None])
def test_what_can_be_had_without_a_hub_pins_its_prompts(name: str) -> None:
    assert load_task(name).circuit.prompts_sha256
