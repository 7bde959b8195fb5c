"""The page on flows is that of the flows that are committed, and its answers follow from their numbers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from remainder.base.paths import project_root
from remainder.errors import RecordError
from remainder.record.flow import _SHARES, Bracket, MeasuredFlow
from remainder.record.flow_file import read_flow
from remainder.record.number import Number
from remainder.record.tissues_file import read_tissues
from remainder.task.script import load_script

FLOWS = sorted((project_root() / "leaderboard" / "flows").rglob("*.flow"))
SMALLEST = min(FLOWS, key=lambda path: sum(one.stat().st_size for one in path.parent.rglob("*.gz")))
MOST = 6_000_000
"""Bytes of all committed flows of small tasks, with their shells."""


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return load_script(project_root() / "docs" / "examples" / "coarse_graining.py")


@pytest.fixture(scope="module")
def flows(page: ModuleType) -> dict[Any, MeasuredFlow]:
    found: dict[Any, MeasuredFlow] = page.read(page.FLOWS)
    return found


@pytest.fixture(scope="module")
def example(page: ModuleType, flows: dict[Any, MeasuredFlow]) -> MeasuredFlow:
    return flows[page.example_of(flows)]


def test_the_page_is_that_of_the_flows(page: ModuleType, flows: dict[Any, MeasuredFlow]) -> None:
    """What `python docs/examples/coarse_graining.py` writes is what stands there."""
    text = page.PAGE.read_text(encoding="utf-8")
    chains, over = page.across.read(page.FLOWS), page.levels.read(page.FLOWS, list(page.TITLES))
    tissues = page.near.read(page.FLOWS)
    assert page.words.filled(text, page.blocks(flows, chains, over, tissues)) == text
    drawn_tissues = {name: drawn for name, _, drawn in page.near.figures(tissues)}
    assert set(re.findall(r"\(figures/(tissues-[^)]+\.png)\)", text)) == set(drawn_tissues)
    for name, drawn in drawn_tissues.items():
        with Image.open(page.FIGURES / name) as figure:
            assert figure.info["Comment"] == drawn
    named = set(re.findall(r"\(figures/((?:flow|levels|modes)-[^)]+\.png)\)", text))
    leads = {}
    for place, measured in flows.items():
        leads.setdefault(place.task, (page.figure_name(place), page.drawn_of(measured.flow)))
    drawn_from = dict(leads.values()) | page.levels.drawn_from(over)
    assert named == set(drawn_from)
    for name, drawn in drawn_from.items():
        with Image.open(page.FIGURES / name) as figure:
            assert figure.info["Comment"] == drawn, f"{name} is of other records"
    assert set(re.findall(r"\(figures/(layers-[^)]+\.png)\)", text)) == set(
        map(page.across.figure_name, chains.values())
    )
    for layers in chains.values():
        with Image.open(page.FIGURES / page.across.figure_name(layers)) as figure:
            assert figure.info["Comment"] == page.across.LAYERS.id(layers)


def test_prose_beside_the_blocks_has_the_numbers_of_the_code(page: ModuleType) -> None:
    text = " ".join(page.PAGE.read_text(encoding="utf-8").split())
    for name, words in (("shape", "full − permuted is within"), ("perturbative", "sampled − one is within")):
        assert f"{words} {100 * _SHARES[name]:.0f} % of sampled − zero" in text
    assert f"raw is within {100 * _SHARES['raw']:.0f} % of raw with nothing kept" in text


FALSIFIERS = (
    "1. ρ even does not approach 1 as k grows: the bath harms by more than its covariance says at every "
    "scale.",
    "2. The annealed loss is below the mean's at no shell: the bath holds nothing that a Gaussian could give "
    "back.",
    "3. `k_shape` is not reached: real rows cost something else than Gaussian ones even next to the model.",
    "4. A random order shows the same scales as the order of contributions: then they are no property of the "
    "sources.",
)
"""As they were written before any flow of SmolLM2 was measured."""


LAYERS = (
    "1. From some k on all five hold at every larger k, next to the model. *Against the picture*: one of "
    "them fails at the largest k.",
    "2. With nothing kept one of the five fails: near sources act across layers one by one. *Against it*: "
    "all five hold there.",
    "3. Where `kept` holds, so does `corrected`: layers above feel those below through their statistics "
    "alone. *Against it*: `corrected` fails where `kept` holds.",
    "4. `additive` holds only where `linear` does: costs add up because what arrives is weak. *Against it*: "
    "`additive` holds where `linear` fails.",
)
"""As they were written before the layers of any language model were measured."""


def test_what_was_written_beforehand_stands_as_it_was_written(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    for statement in FALSIFIERS:
        assert statement in text.splitlines()
    for statement in LAYERS:
        assert statement in " ".join(text.split())


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path == SMALLEST else pytest.mark.slow, id="/".join(path.parts[-4:]))
        for path in FLOWS
    ],
)
def test_a_committed_flow_proves_itself(path: Path) -> None:
    assert read_flow(path).flow.scales


def test_flows_are_small(page: ModuleType) -> None:
    held = [path for path in page.FLOWS.rglob("*") if path.is_file()]
    own = [path for path in held if path.relative_to(page.FLOWS).parts[0] in ("tiny", "tracr", "controls")]
    assert sum(path.stat().st_size for path in own) < MOST
    named = {shell.record for path in FLOWS for shell in page.flow_alone(path).shells}
    named |= page.levels.records_of(page.levels.read(page.FLOWS, []))
    assert {path.stem for path in held if path.suffix == ".json"} == named, "a record is no flow's"


# --------------------------------------------------------------------------------------------------- answers


def with_even(measured: MeasuredFlow, numbers: list[tuple[float, float]]) -> MeasuredFlow:
    """The flow with other intervals of ρ even at its last shells."""
    records = []
    for record, (low, high) in zip(measured.records[-len(numbers) :], numbers, strict=True):
        assert record.metrics.ratio_parts is not None
        even = Number(value=(low + high) / 2, low=low, high=high)
        parts = record.metrics.ratio_parts.model_copy(update={"even": even})
        metrics = record.metrics.model_copy(update={"ratio_parts": parts})
        records.append(record.model_copy(update={"metrics": metrics}))
    flow = measured.flow.model_copy(update={"shells": measured.flow.shells[-len(numbers) :]})
    return MeasuredFlow(flow, tuple(records))


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        ([(1.5, 1.7), (1.2, 1.4)], "holds"),
        ([(1.5, 1.7), (0.95, 1.05)], "does not hold"),
        ([(1.5, 1.7), (0.7, 0.8)], "does not hold"),
        ([(1.5, 1.7), (0.95, 1.3)], "undecided"),
        ([(0.95, 1.3), (1.2, 1.3)], "undecided"),
    ],
)
def test_rho_even_is_judged_by_its_intervals(
    page: ModuleType, example: MeasuredFlow, last: list[tuple[float, float]], verdict: str
) -> None:
    answer = page.answers.rho(with_even(example, last))
    assert answer.verdict == verdict
    low, high = last[-1]
    assert f"{(low + high) / 2:.2f}" in answer.because


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(0.01, 0.02), (0.02, 0.03)], "holds"),
        ([(0.01, 0.02), (-0.03, -0.02)], "does not hold"),
        ([(0.01, 0.02), (-0.03, -0.0005)], "undecided"),  # below 0 alone, and not of four
        ([(0.01, 0.02), (-0.01, 0.02)], "undecided"),
    ],
)
def test_the_annealed_loss_is_judged_at_the_level_of_all_shells(
    page: ModuleType, example: MeasuredFlow, intervals: list[tuple[float, float]], verdict: str
) -> None:
    records = []
    for record, (low, high) in zip(example.records[-2:], intervals, strict=True):
        number = Number(value=(low + high) / 2, low=low, high=high)
        points = tuple(point.model_copy(update={"difference": number}) for point in record.metrics.bath)
        records.append(
            record.model_copy(update={"metrics": record.metrics.model_copy(update={"bath": points})})
        )
    flow = example.flow.model_copy(update={"shells": example.flow.shells[-2:]})
    assert page.answers.annealed(MeasuredFlow(flow, tuple(records))).verdict == verdict


def with_scale(measured: MeasuredFlow, low: int | None, high: int | None) -> MeasuredFlow:
    scales = dict.fromkeys(measured.flow.scales, Bracket(low=low, high=high))
    return measured._replace(flow=measured.flow.model_copy(update={"scales": scales}))


def test_scales_are_judged_by_their_brackets(page: ModuleType, example: MeasuredFlow) -> None:
    keeps = [shell.keep for shell in example.flow.shells]
    reached, open_, never = (
        with_scale(example, low, high) for low, high in ((keeps[1], keeps[2]), (keeps[1], None), (None, None))
    )
    shape = page.answers.shape
    assert [shape(one).verdict for one in (reached, open_, never)] == ["does not hold", "undecided", "holds"]
    later = with_scale(example, keeps[3], keeps[4])
    random = page.answers.random
    assert random(reached, later).verdict == "does not hold"
    assert random(reached, with_scale(example, keeps[2], keeps[4])).verdict == "holds"
    assert random(reached, open_).verdict == "undecided"
    assert random(reached, never).verdict == "does not hold"


def test_more_flows_are_listed_and_a_missing_shell_is_named(
    page: ModuleType, flows: dict[Any, MeasuredFlow], tmp_path: Path
) -> None:
    example = page.example_of(flows)
    path = next(path for path in FLOWS if path.name.startswith(f"{example.submission}.{example.order}"))
    place = tmp_path / path.relative_to(page.FLOWS).parent
    place.mkdir(parents=True)
    shutil.copy(path, place)
    with pytest.raises(RecordError, match="is missing"):
        page.read(tmp_path)
    for shell in page.flow_alone(path).shells:
        (record,) = path.parent.glob(f"*/{shell.record}.json")
        (place / record.parent.name).mkdir(exist_ok=True)
        shutil.copy(record, place / record.parent.name)
    found = page.read(tmp_path)
    assert list(found) == [example]
    assert (
        "No flow that is committed answers this."
        in page.blocks(found, {}, page.levels.Committed((), ()), {})["falsified 4"]
    )
    with pytest.raises(RecordError, match="holds no flow"):
        page.read(place / record.parent.name)


# ----------------------------------------------------------------------------------------------------- layers


def test_layers_are_judged_by_their_verdicts(page: ModuleType) -> None:
    across = page.across
    layers = next(iter(across.read(page.FLOWS).values()))
    many = len(layers.statements["kept"])

    def given(**words: str) -> Any:
        holds = {"h": True, "f": False, "o": None}
        statements = {
            name: tuple(
                one.model_copy(update={"holds": holds[letter], "reason": None})
                for one, letter in zip(verdicts, words.get(name, "h" * many), strict=True)
            )
            for name, verdicts in layers.statements.items()
        }
        return layers.model_copy(update={"statements": statements})

    rest = "h" * (many - 1)
    for of, words, side in (
        (across.next_to_the_model, {}, "for"),
        (across.next_to_the_model, {"noise": f"{rest}f"}, "against"),
        (across.next_to_the_model, {"noise": f"{rest}o"}, "undecided"),
        (across.near_sources, {}, "against"),
        (across.near_sources, {"kept": f"f{rest}"}, "for"),
        (across.near_sources, {"kept": f"o{rest}"}, "undecided"),
    ):
        assert of(given(**words)).side == side, (of, words)
    for given_name, wanted in (("kept", "corrected"), ("additive", "linear")):
        for words, side in (
            ({}, "for"),
            ({wanted: f"f{rest}"}, "against"),
            ({wanted: f"o{rest}"}, "undecided"),
            ({wanted: f"f{rest}", given_name: f"o{rest}"}, "for"),
            ({given_name: "o" * many}, "undecided"),
        ):
            assert across._follows(given(**words), given_name, wanted).side == side, words
    assert across.blocks({})["layers"] == "No layers are committed."


# ---------------------------------------------------------------------------------------------- near and far

NEAR_AND_FAR = (
    "1. `near` holds at every k between none and all. *Against the picture*: it fails at one of them.",
    "2. `far` holds from some k on. *Against it*: it fails with all sources kept.",
    "3. `alike` holds with all sources kept. *Against it*: it fails there, and some tissue has a bath of "
    "another law.",
    "4. `own` holds with none kept, and is open with all: what tells tissues apart are near sources, and no "
    "longer the bath. *Against it*: `own` holds with all sources kept.",
)
"""As they were written before the tissues of any task but controls were measured."""


def test_near_and_far_are_judged_by_what_was_written_beforehand(page: ModuleType) -> None:
    text = " ".join(page.PAGE.read_text(encoding="utf-8").split())
    for statement in NEAR_AND_FAR:
        assert statement in text
    near = page.near
    one = next(iter(near.read(page.FLOWS).values())).tissues
    holds = {"h": True, "f": False, "o": None}

    def given(statement: str, letters: str) -> Any:
        """Verdicts with none, some and all kept."""
        verdicts = one.follows.statements[statement]
        words = [letters[0], *letters[1] * (len(verdicts) - 2), letters[2]]
        new = tuple(
            verdict.model_copy(update={"holds": holds.get(word), "reason": "–" if word == "-" else None})
            for verdict, word in zip(verdicts, words, strict=True)
        )
        statements = {**one.follows.statements, statement: new}
        return one.model_copy(update={"follows": one.follows.model_copy(update={"statements": statements})})

    for of, statement, letters, side in (
        (near.near, "near", "-h-", "for"),
        (near.near, "near", "-f-", "against"),
        (near.near, "near", "-o-", "undecided"),
        (near.own, "own", "hho", "for"),
        (near.own, "own", "hhh", "against"),
        (near.own, "own", "ooo", "undecided"),
    ):
        assert of(given(statement, letters)).side == side, (statement, letters)
    for letters, side in (("ffh", "for"), ("hhf", "against"), ("hho", "undecided")):
        assert near._largest(given("far", letters), "far").side == side
    assert near.blocks({})["tissues"] == "No tissues are committed."


TISSUES = sorted((project_root() / "leaderboard" / "flows").rglob("*.tissues"))


@pytest.mark.slow
@pytest.mark.parametrize("path", TISSUES, ids=lambda path: "/".join(path.parts[-4:]))
def test_committed_tissues_prove_themselves(path: Path) -> None:
    assert read_tissues(path).tissues.follows.shells
