"""The flow end to end: shells of controls whose numbers are known, and of a small language model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from terminal import Command

from remainder.base.paths import project_root
from remainder.build import load_script
from remainder.errors import RecordError
from remainder.loading.open import open_task
from remainder.loading.site import SiteTask
from remainder.measure.plan import Plan, plan
from remainder.publish.remeasure import plan_of, rerun
from remainder.publish.shells import shell_of
from remainder.record.flow import SCALES, Bracket, Flow, MeasuredFlow, Shells
from remainder.record.flow_file import read_flow, shells_of, write_flow
from remainder.record.number import Number
from remainder.record.rungs import AMPLITUDES
from remainder.record.store import read_record, values_path
from remainder.report.explore_flow import explorable_flow
from remainder.report.flow import COLUMNS, flow_frame, render_flow
from remainder.report.plot import save
from remainder.report.plot_flow import flow_figure
from remainder.runs.cells import sweep
from remainder.runs.flow import measure_flow, plan_flow
from remainder.submission.open import submissions_for

CHAIN = "controls/shell-chain-2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flow")


@pytest.fixture(scope="module")
def loaded() -> SiteTask:
    """A chain that branches in two: coordinates in their order are shells."""
    found = open_task(CHAIN, device="cpu")
    assert isinstance(found, SiteTask)
    return found


@pytest.fixture(scope="module")
def settings(loaded: SiteTask) -> Plan:
    """What the formulas are of; conditional rungs would take most of the time."""
    return plan(loaded.task, "quick", rungs=("mean", *AMPLITUDES, "permuted", "minus-mean", "mirror"))


@pytest.fixture(scope="module")
def chain(loaded: SiteTask, settings: Plan, place: Path) -> MeasuredFlow:
    """Three shells of the chain."""
    (entry,) = submissions_for(loaded, ["identity"])
    return measure_flow(plan_flow(loaded, entry, settings, order="index", keeps=(2, 3, 4)), place)


def test_a_shell_is_what_the_task_calls_the_first_k_parts(
    chain: MeasuredFlow, loaded: SiteTask, settings: Plan, place: Path
) -> None:
    rows = sweep(loaded.task, submissions_for(loaded, ["keep-3"]), settings, place, loaded=loaded)
    (kept,) = (row.finished for row in rows)
    assert kept is not None
    shell = chain.records[1].metrics
    assert shell.rungs == kept.record.metrics.rungs
    assert shell.orders == kept.record.metrics.orders
    assert shell.bath == kept.record.metrics.bath


@pytest.fixture(scope="module")
def formulas() -> ModuleType:
    return load_script(project_root() / "tasks" / "controls" / "sums" / "expected.py")


def within(number: Number, value: float, errors: float = 3) -> bool:
    """Whether a value lies within so many standard errors."""
    assert number.value is not None
    assert number.low is not None
    assert number.high is not None
    return abs(number.value - value) <= errors * (number.high - number.low) / 3.92


def test_the_chain_has_the_numbers_of_its_formulas(chain: MeasuredFlow, formulas: ModuleType) -> None:
    for shell, record in zip(chain.flow.shells, chain.records, strict=True):
        known = formulas.expected(formulas.Parameters(branching=2, kept=shell.keep))
        metrics = record.metrics
        for rung in ("raw", "full", "permuted"):
            assert within(metrics.rungs[rung].quenched.kl, known[f"{rung} kl"]), (shell.keep, rung)
        assert metrics.orders is not None
        for name, claim in (("zero", "mean"), ("one", "full one"), ("two", "full two"), ("sampled", "full")):
            value = known[claim] - known["clean"]
            assert within(getattr(metrics.orders.kl, name), value), (shell.keep, name)
        assert metrics.bath is not None
        if metrics.bath[0].difference.value is not None:
            assert within(metrics.bath[0].difference, known["bath 0.6"], 3.5), shell.keep


def test_the_chain_has_the_scales_of_its_formulas(chain: MeasuredFlow, formulas: ModuleType) -> None:
    """The smallest shell from which on the formulas meet a criterion lies in its bracket."""
    known = {keep: formulas.expected(formulas.Parameters(branching=2, kept=keep)) for keep in (2, 3, 4)}
    one = [keep for keep, at in known.items() if abs(at["missing"]) <= 0.1 * (at["full"] - at["mean"])]
    scale = chain.flow.scales["perturbative"]
    assert scale.low is not None
    assert scale.high is not None
    assert scale.low <= min(one) <= scale.high
    assert chain.flow.scales["bath"].low is not None
    assert chain.flow.scales["raw"].reason == "no shell keeps nothing"


def test_the_next_run_finds_all_shells(
    chain: MeasuredFlow, loaded: SiteTask, settings: Plan, place: Path
) -> None:
    (entry,) = submissions_for(loaded, ["identity"])
    assert measure_flow(plan_flow(loaded, entry, settings, order="index", keeps=(2, 3, 4)), place) == chain


@pytest.mark.slow
def test_the_command_on_a_small_language_model(remainder: Command, tmp_path: Path) -> None:
    figure = tmp_path / "flow.svg"
    arguments = ("tiny/wiki", "--with", "wiki-topk", "--keep", "0,3,12", "--documents", "8")
    outcome = remainder("flow", *arguments, "--out", str(tmp_path / "out"), "--save", str(figure))
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "k of 12 sources kept at each token" in " ".join(outcome.out.split())
    assert figure.stat().st_size > 10_000
    assert remainder("verify", str(tmp_path / "out")).code == 0
    (kept,) = (tmp_path / "out").rglob("*.flow")
    assert remainder("explain", str(kept)).out == outcome.out


def test_the_flow_in_every_format(chain: MeasuredFlow, tmp_path: Path) -> None:
    text = render_flow(*chain)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text  # no number is cut short
    for scale in SCALES:
        assert f"k_{scale}" in text
    content = json.loads(render_flow(*chain, "json"))
    assert [shell["keep"] for shell in content["shells"]] == [2, 3, 4]
    assert set(COLUMNS) <= content["shells"][0].keys()
    frame = flow_frame(*chain)
    assert list(frame["gap_raw"]) == [
        record.metrics.rungs["raw"].quenched.gap.value for record in chain.records
    ]
    assert render_flow(*chain, "csv").count("\n") == 4
    for format in ("markdown", "latex"):
        assert "bath" in render_flow(*chain, format)
    save(flow_figure(*chain), tmp_path / "flow.svg")
    assert (tmp_path / "flow.svg").stat().st_size > 10_000
    shown = json.loads(json.dumps(explorable_flow(*chain), allow_nan=False))
    (raw,) = (curve for curve in shown["data"] if curve["name"].startswith("left out"))
    assert raw["x"] == ["2", "3", "4"]
    assert raw["y"] == list(frame["gap_raw"])
    assert raw["error_y"]["array"] == pytest.approx(list(frame["gap_raw_high"] - frame["gap_raw"]))


def test_a_shell_is_measured_again_from_the_whole_submission(
    chain: MeasuredFlow, place: Path, tmp_path: Path
) -> None:
    (path,) = place.rglob(f"{chain.flow.shells[1].record}.json")
    found = rerun(path, nonce="fixed")
    assert found.passed, found.faults
    assert found.rows
    loaded = open_task(CHAIN, device="cpu")
    (whole,) = submissions_for(loaded, ["identity"])
    forged = chain.flow.model_copy(update={"sources": 9})
    record = chain.records[1]
    with pytest.raises(RecordError, match="3 of 9 sources"):
        shell_of(shells_of(forged), record.submission, whole, loaded, plan_of(record, loaded))
    alone = tmp_path / path.parent.name / path.name
    alone.parent.mkdir()
    shutil.copyfile(path, alone)
    shutil.copyfile(values_path(path), values_path(alone))
    with pytest.raises(RecordError, match="is a shell, and neither a flow nor levels beside it name it"):
        rerun(alone)


@pytest.mark.slow
def test_a_flow_is_kept_beside_its_shells_and_proves_itself(
    chain: MeasuredFlow, place: Path, remainder: Command, tmp_path: Path
) -> None:
    (kept,) = place.rglob("*.flow")
    assert read_flow(kept) == chain
    shown = remainder("explain", str(kept), "--save", str(tmp_path / "flow.png"))
    assert shown.out == render_flow(*chain)
    assert remainder("verify", str(place)).code == 0
    alone = remainder("verify", str(kept))
    assert (alone.code, "3 files verified: 3 passed" in alone.out) == (0, True), alone.out


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda flow: flow["scales"]["shape"].update(low=3, high=3), "it was edited"),
        (lambda flow: flow.update(flow_id="0" * 64), "it was edited"),
        (lambda flow: flow.pop("order"), "is no flow"),
        (lambda flow: flow.update(more=1), "is no flow"),
    ],
)
def test_an_edited_flow_is_at_fault(
    edit: Callable[[dict[str, Any]], object], says: str, chain: MeasuredFlow, place: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(place, copy)
    (kept,) = copy.rglob("*.flow")
    content = json.loads(kept.read_text(encoding="utf-8"))
    edit(content)
    kept.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RecordError, match=says):
        read_flow(kept)


def with_shells(flow: Flow, *places: int) -> Flow:
    """A flow whose list of shells was changed."""
    return flow.model_copy(update={"shells": tuple(flow.shells[place] for place in places)})


FORGERIES: list[tuple[Callable[[Flow], Flow], str]] = [
    (
        lambda flow: flow.model_copy(update={"order": "energy"}),
        "of identity with 2 sources in the order energy",
    ),
    (
        lambda flow: flow.model_copy(update={"sources": 9}),
        "9 sources, of which 0 tie: the shell that keeps 2",
    ),
    (lambda flow: flow.model_copy(update={"ties": 1}), "8 sources, of which 1 tie: the shell that keeps 2"),
    (lambda flow: flow.model_copy(update={"tier": "standard"}), "keeps 2 is of another tier"),
    (lambda flow: flow.model_copy(update={"dtype": "bfloat16"}), "keeps 2 is of another dtype"),
    (lambda flow: flow.model_copy(update={"protocol": "1"}), "keeps 2 is of another protocol"),
    (
        lambda flow: flow.model_copy(update={"task": flow.task.model_copy(update={"hash": "0" * 64})}),
        "keeps 2 is of another task",
    ),
    (
        lambda flow: flow.model_copy(
            update={"submission": flow.submission.model_copy(update={"hash": "0" * 64})}
        ),
        "keeps 2 is of identity.index-2",
    ),
    (lambda flow: with_shells(flow, 0, 0, 1, 2), "one is listed twice"),
    (lambda flow: with_shells(flow, 2, 1, 0), "do not ascend"),
    (lambda flow: with_shells(flow, 0), "there is but one"),
    (
        lambda flow: flow.model_copy(
            update={"shells": (flow.shells[0], flow.shells[1].model_copy(update={"keep": 5}))}
        ),
        "keeps 5 is of identity.index-3",
    ),
    (lambda flow: with_shells(flow, 1, 2), "does not follow from the shells"),
    (lambda flow: flow.model_copy(update={"scales": {}}), "its scales are not shape"),
]


@pytest.mark.parametrize(("forge", "says"), FORGERIES)
def test_a_flow_that_was_forged_with_its_hash_is_at_fault(
    forge: Callable[[Flow], Flow], says: str, chain: MeasuredFlow, place: Path, tmp_path: Path
) -> None:
    (folder,) = (path.parent for path in place.rglob("*.flow"))
    copy = tmp_path / folder.relative_to(place)
    copy.parent.mkdir(parents=True)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.flow"))
    forged = write_flow(forge(chain.flow), tmp_path)
    if forged.parent != copy:  # of another task, as it says
        forged = forged.rename(copy / forged.name)
    with pytest.raises(RecordError, match=says) as raised:
        read_flow(forged)
    assert raised.value.fix


def test_shells_of_other_documents_are_no_flow(chain: MeasuredFlow, place: Path) -> None:
    stored = {
        shell.keep: read_record(next(place.rglob(f"{shell.record}.json"))) for shell in chain.flow.shells
    }
    values = stored[3].values
    fewer = values[values["document"] != values["document"].max()]
    other = values.assign(tokens=values["tokens"] + 1)
    for changed in (fewer, other):
        with pytest.raises(
            ValueError, match="keeps 3 is measured on other documents than the one that keeps 2"
        ):
            Shells.of(stored | {3: stored[3]._replace(values=changed)})


def test_flows_of_one_submission_lie_side_by_side_unless_only_the_shells_differ(
    chain: MeasuredFlow, tmp_path: Path
) -> None:
    first = write_flow(chain.flow, tmp_path)
    assert write_flow(with_shells(chain.flow, 0, 1), tmp_path) == first
    others = [write_flow(chain.flow.model_copy(update=one), tmp_path) for one in (
        {"order": "energy"}, {"order": "random 0"}, {"tier": "standard"}, {"dtype": "bfloat16"}
    )]  # fmt: skip
    assert len({first, *others}) == 5
    assert {path.parent for path in others} == {first.parent}


@pytest.mark.slow
def test_scales_and_shells_that_were_forged_with_their_hash_are_at_fault(
    chain: MeasuredFlow, place: Path, tmp_path: Path, remainder: Command
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(place, copy)
    forged = chain.flow.model_copy(
        update={"scales": {**chain.flow.scales, "perturbative": Bracket(low=2, high=2)}}
    )
    with pytest.raises(RecordError, match="k_perturbative does not follow from the shells: it is 2 to 3"):
        read_flow(wrong := write_flow(forged, copy))
    for given in (copy, wrong):
        outcome = remainder("verify", str(given))
        assert outcome.code != 0
        assert "k_perturbative does not follow" in " ".join(outcome.out.split())
    gone = chain.flow.shells[1]
    for file in copy.rglob(f"{gone.record}.json"):
        file.unlink()
    with pytest.raises(RecordError, match="the shell that keeps 3 is missing"):
        read_flow(write_flow(chain.flow, copy))
