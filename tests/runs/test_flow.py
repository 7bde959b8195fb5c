"""The flow end to end: shells of controls whose numbers are known, and of a small language model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from terminal import Command
from tiny import Shrink, make_loaded

from remainder.base.paths import project_root
from remainder.build import load_script
from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import NodeRanking, Ranking, Sized, ties_of
from remainder.errors import InterpretationError, RecordError, TaskError
from remainder.interpretation.kept import Kept, Some
from remainder.loading.open import open_task
from remainder.loading.prompts import PromptTask
from remainder.loading.site import SiteTask
from remainder.measure.keeping import ORDERS, look_at_sources
from remainder.measure.plan import Plan, plan
from remainder.publish.remeasure import plan_of, rerun
from remainder.publish.shells import shell_of
from remainder.record.flow import SCALES, Bracket, Flow, MeasuredFlow, Shells
from remainder.record.flow_file import read_flow, write_flow
from remainder.record.number import Number
from remainder.record.rungs import AMPLITUDES
from remainder.record.store import read_record, values_path
from remainder.report.explore_flow import explorable_flow
from remainder.report.flow import COLUMNS, flow_frame, render_flow
from remainder.report.plot import save
from remainder.report.plot_flow import flow_figure
from remainder.runs.cells import sweep
from remainder.runs.flow import flow_plan, keeps_of, measure_flow, plan_flow, sharp_of
from remainder.submission.objects import CircuitSubmission, circuit_submission, object_submission
from remainder.submission.open import submissions_for
from remainder.submission.submission import Submission

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


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the submissions whose circuits were looked for, one for each time."""
    found: list[str] = []
    for kind in (Submission, CircuitSubmission):
        search = kind.circuits

        def counted(self: Any, *arguments: Any, search: Any = search) -> Any:
            found.append(self.name)
            return search(self, *arguments)

        monkeypatch.setattr(kind, "circuits", counted)
    return found


def test_circuits_keep_edges_at_the_sizes_that_they_have(tmp_path: Path, searches: list[str]) -> None:
    loaded = open_task("tiny/induction-circuit", device="cpu")
    (entry,) = submissions_for(loaded, ["other-circuit"])
    settings = flow_plan(loaded, "quick", None, None)
    found = measure_flow(plan_flow(loaded, entry, settings, out=tmp_path), tmp_path)
    assert searches == ["other-circuit"]
    keeps = [shell.keep for shell in found.flow.shells]
    assert keeps == [0, 23]
    assert found.flow.order == "edges"
    gaps = [record.metrics.rungs["raw"].quenched.gap.value for record in found.records]
    assert None not in gaps
    assert found.flow.scales["bath"].reason == "rung full-0.6 was not measured"
    text = render_flow(*found)
    assert "k of 81 edges kept" in " ".join(text.split())
    assert "bits" not in text  # columns without a value are left out
    save(flow_figure(*found), tmp_path / "edges.png")
    # The next run finds all records by the flow's file, and looks for nothing.
    assert measure_flow(plan_flow(loaded, entry, settings, out=tmp_path), tmp_path) == found
    assert searches == ["other-circuit"]
    # Both shells are made again from one more search.
    for shell in found.flow.shells:
        (path,) = tmp_path.rglob(f"{shell.record}.json")
        again = rerun(path)
        assert again.passed, again.faults
    assert searches == ["other-circuit"] * 2
    # A shell whose record is gone is measured again, from circuits that must be those of the flow.
    path.unlink()
    forged = found.flow.model_copy(update={"sources": 80})
    write_flow(forged, tmp_path)
    with pytest.raises(
        TaskError, match="other circuits than when its flow was measured: they keep 0, 23 of 81"
    ):
        measure_flow(plan_flow(loaded, entry, settings, out=tmp_path), tmp_path)


@pytest.mark.slow
def test_a_search_for_circuits_is_made_once(tmp_path: Path, searches: list[str], remainder: Command) -> None:
    arguments = ("flow", "tiny/induction-circuit", "--with", "eap-ig", "--out", str(tmp_path))
    outcome = remainder(*arguments)
    assert outcome.code == 0, outcome.err
    assert searches == ["eap-ig"]
    assert remainder(*arguments).out == outcome.out
    assert searches == ["eap-ig"]
    assert remainder("verify", str(tmp_path)).code == 0
    (kept,) = tmp_path.rglob("*.flow")
    again = remainder("verify", "--rerun", str(kept))
    assert again.code == 0, again.err
    assert again.out.count("as recorded") == len(read_flow(kept).flow.shells)


def test_families_of_circuits_that_are_no_flow_are_told() -> None:
    loaded = open_task("tiny/induction-circuit", device="cpu")
    assert isinstance(loaded, PromptTask)
    graph = loaded.circuit_model().graph
    places = np.argwhere(graph.exists)
    some = []
    for start in (0, 1):
        kept = np.zeros_like(graph.exists)
        kept[tuple(places[start])] = True
        some.append(Circuit(graph, kept))
    settings = flow_plan(loaded, "quick", None, None)
    for circuits, says in (
        (Sized(graph, {0.0: Circuit.empty(graph)}), "keeps nothing at any size: one shell shows no scale"),
        (Sized(graph, {0.5: some[0], 0.6: some[1]}), "two circuits keep 1 edges, and are not the same"),
    ):
        with pytest.raises(TaskError, match=says):
            plan_flow(loaded, circuit_submission(circuits, "given"), settings)
    scores = np.zeros(graph.exists.shape)
    scores[tuple(places[0])] = -2.0
    assert ties_of(Ranking(graph, scores)) == graph.edges - 2
    assert ties_of(NodeRanking(graph, np.arange(len(graph.writers), dtype=np.float64))) == 0
    assert ties_of(Sized(graph, {1.0: Circuit.full(graph)})) == 0


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
        shell_of(forged, record, whole, loaded, plan_of(record, loaded))
    alone = tmp_path / path.parent.name / path.name
    alone.parent.mkdir()
    shutil.copyfile(path, alone)
    shutil.copyfile(values_path(path), values_path(alone))
    with pytest.raises(RecordError, match="is a shell, and no flow beside it names it"):
        rerun(alone)


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


# ------------------------------------------------------------------------------------- which sources are kept


def test_dynamic_keeps_the_largest_contributions_and_breaks_ties_by_index() -> None:
    codes = torch.tensor([[[3.0, -2.0, 0.0, 2.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0]]])
    sizes = torch.tensor([1.0, 2.0, 9.0, 2.0, 1.0])  # contributions 3 4 0 4 1
    expected = {
        0: [[0.0] * 5, [0.0] * 5],
        1: [[0, -2.0, 0, 0, 0], [0, 1.0, 0, 0, 0]],
        2: [[0, -2.0, 0, 2.0, 0], [0, 1.0, 0, 0, 0]],
        3: [[3.0, -2.0, 0, 2.0, 0], [0, 1.0, 0, 0, 0]],
        5: codes[0].tolist(),
    }
    for keep, rows in expected.items():
        assert Some(keep, sizes=sizes).of(codes)[0].tolist() == rows


def test_what_is_kept_depends_on_no_other_token() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (3, 7, 50), generator=generator).float()  # full of ties
    some = Some(5, sizes=torch.ones(50))
    together = some.of(codes)
    assert (together.ne(0).sum(-1) == 5).all()
    for window in range(3):
        assert torch.equal(some.of(codes[window : window + 1])[0], together[window])


def test_a_static_choice_keeps_the_same_sources_everywhere() -> None:
    chosen = torch.tensor([True, False, True])
    codes = torch.ones(1, 2, 3)
    assert Some(2, chosen=chosen).of(codes).tolist() == [[[1.0, 0.0, 1.0]] * 2]


def test_kept_has_what_the_whole_one_has() -> None:
    kept = Kept(Shrink(), Some(1, sizes=torch.ones(16)))
    assert hasattr(kept, "skip") == hasattr(Shrink(), "skip")


class Counted(Shrink):
    """Counts how often it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.times += 1
        return super().encode(x)


def test_shells_share_the_codes_of_a_batch_and_have_the_numbers_that_they_have_alone(tmp_path: Path) -> None:
    loaded, counted = make_loaded(), Counted()
    settings = plan(loaded.task, "quick", rungs=("raw", "mean"))
    planned = plan_flow(loaded, object_submission(counted, "all"), settings, order="energy", keeps=(2, 5))
    before = counted.times
    together = measure_flow(planned, tmp_path)
    of_both, before = counted.times - before, counted.times
    alone, _ = loaded.measure(planned.shells[5], settings)
    of_one = counted.times - before
    assert alone.metrics == together.records[1].metrics
    # The other finds the codes of 4 batches of calibration, twice, and of 5 of `fit`; rules are each one's.
    assert of_both <= 2 * of_one - 13


class Restless(Shrink):
    """Never encodes the same twice."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode(x) * (1 + 0.1 * torch.rand(()))


def test_shells_of_what_is_not_deterministic_are_refused() -> None:
    loaded = make_loaded()
    with pytest.raises(InterpretationError, match="the same activations"):
        plan_flow(
            loaded, object_submission(Restless(), "restless"), plan(loaded.task, "quick"), order="index"
        )


def test_orders_rank_by_what_they_say() -> None:
    loaded = make_loaded()
    rows = loaded.rows("calibration")
    generator = torch.Generator().manual_seed(1)
    decoder = torch.randn(6, 16, generator=generator)

    class Linear:
        W_dec = decoder

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x @ decoder.T - torch.arange(6.0) / 10)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes @ decoder

    entry = object_submission(Linear(), "linear")
    settings = plan(loaded.task, "quick")
    found = {order: look_at_sources(loaded, entry, settings, order) for order in ORDERS}
    codes = Linear().encode(rows).double()
    norms = decoder.double().norm(dim=1)
    assert found["dynamic"].ranking is None
    assert found["dynamic"].full == int((codes > 0).sum(1).max())
    assert found["dynamic"].sizes == pytest.approx(norms.numpy(), rel=1e-5)
    energy, variance = codes.square().mean(0) * norms**2, codes.var(0, correction=0) * norms**2
    for order, scores in (("energy", energy), ("variance", variance)):
        ranking = found[order].ranking
        assert ranking is not None
        assert ranking.tolist() == scores.argsort(descending=True).tolist()
    index, random = found["index"].ranking, found["random"].ranking
    assert index is not None
    assert random is not None
    assert index.tolist() == list(range(6))
    assert sorted(random.tolist()) == list(range(6)) != random.tolist()
    attributed = found["attribution"].ranking
    assert attributed is not None
    assert sorted(attributed.tolist()) == list(range(6))


def test_keeping_all_sources_is_the_whole_interpretation(tmp_path: Path) -> None:
    loaded = make_loaded()
    entry = object_submission(Shrink(), "shrink")
    settings = plan(loaded.task, "quick", rungs=("raw", "full"), pairs=1)
    planned = plan_flow(loaded, entry, settings, order="index", keeps=(0, 16))
    found = measure_flow(planned, tmp_path)
    whole, _ = loaded.measure(entry, settings)
    assert found.records[-1].metrics.rungs == whole.metrics.rungs
    assert found.flow.scales["bath"].reason == "rung mean was not measured"


# ----------------------------------------------------------------------------------------- how much of each


def test_three_shells_spread_in_log_k_have_more_draws() -> None:
    assert sharp_of((0, 1, 2, 4, 8, 16, 32)) == {1, 4, 32} or sharp_of((0, 1, 2, 4, 8, 16, 32)) == {1, 8, 32}
    assert sharp_of((0, 1, 10, 90, 100)) == {1, 10, 100}
    assert sharp_of((0, 5, 7)) == {5, 7}


def test_what_every_shell_is_measured_with() -> None:
    loaded = make_loaded()
    entry = object_submission(Shrink(), "shrink")
    for also, draws, elsewhere in (((), 16, 8), (("coupled", "cluster"), 16, 8)):
        planned = plan_flow(
            loaded,
            entry,
            flow_plan(loaded, "quick", None, None, more=also),
            order="index",
            keeps=(0, 1, 2, 4, 16),
        )
        sharp = sharp_of((0, 1, 2, 4, 16))
        keys = set()
        for keep, shell in planned.shells.items():
            settings = planned.plan_of(keep)
            assert {*also} <= {*settings.rungs}
            assert (
                settings.draws("full-0.6")
                == settings.draws("full")
                == (draws if keep in sharp else elsewhere)
            )
            assert settings.couples == ("coupled" in also)
            if settings.couples:
                assert settings.draws("coupled") == settings.draws("full")
            assert settings.draws("permuted") == 2
            assert settings.tests_gaussianity  # at a narrow site unasked
            assert not settings.describes
            keys |= {settings.key(loaded.task, shell), planned.plan.key(loaded.task, shell)}
        # Fewer draws are another measurement.
        assert len(keys) == len(planned.shells) + len(planned.shells.keys() - sharp)
    with pytest.raises(TaskError, match="there is no rung 'fame'"):
        flow_plan(loaded, "quick", None, None, more=("fame",))


@pytest.mark.slow
def test_amplitudes_are_fitted_in_every_shell(tmp_path: Path, remainder: Command) -> None:
    loaded = make_loaded()
    settings = flow_plan(loaded, "quick", None, None, more=("coupled",))
    entry = object_submission(Shrink(), "shrink")
    found = measure_flow(plan_flow(loaded, entry, settings, order="index", keeps=(0, 4, 16)), tmp_path)
    assert found.flow.scales["bath"].criterion == "couplings"
    for keep, record in zip((0, 4, 16), found.records, strict=True):
        metrics, stated = record.metrics, record.measurement
        assert metrics.couplings is not None
        assert metrics.couplings.difference is not None
        assert metrics.gaussianity is not None
        assert stated.annealed_draws == (16 if keep in sharp_of((0, 4, 16)) else 8)
        assert {"coupled", "scaled", "gaussianity"} <= {*stated.rungs}
        assert not stated.whole
        assert set(record.complexity.coding.steps if record.complexity.coding else ()) == {"coded"}
    text = render_flow(*found)
    assert max(map(len, text.splitlines())) <= 80
    assert "it helps (at α*, β*)" in text
    (kept,) = tmp_path.rglob("*.flow")
    assert read_flow(kept) == found
    outcome = remainder("verify", str(tmp_path))
    assert outcome.code == 0, outcome.out


# ------------------------------------------------------------------------------------------------- bad input


def test_shells_fall_by_a_ratio() -> None:
    assert keeps_of(32, 2.0) == (0, 1, 2, 4, 8, 16, 32)
    assert keeps_of(32, 2.0, shells=4) == (0, 8, 16, 32)
    assert keeps_of(5, 1.3) == (0, 1, 2, 3, 4, 5)
    assert keeps_of(1, 2.0) == (0, 1)


@pytest.mark.parametrize(
    ("ratio", "shells", "says"),
    [(1.0, None, "not above 1"), (np.nan, None, "not above 1"), (2.0, 1, "one shell")],
)
def test_shells_that_cannot_be(ratio: float, shells: int | None, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        keeps_of(32, ratio, shells)


class Square:
    """Decodes to squares: no source has a contribution of its own."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes * codes.sum(-1, keepdim=True)


class Silent(Shrink):
    """Codes that are never on."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("thing", "order", "says"),
    [(Square(), "dynamic", "no contributions: decode is not affine"), (Silent(), "index", "has no source")],
)
def test_what_has_no_sources_is_refused(thing: object, order: str, says: str) -> None:
    loaded = make_loaded()
    with pytest.raises(InterpretationError, match=says):
        plan_flow(loaded, object_submission(thing, "thing"), plan(loaded.task, "quick"), order=order)


@pytest.mark.parametrize(("keeps", "says"), [((0, 17), "--keep 17: .* has 16 sources"), ((4,), "one shell")])
def test_more_than_there_is_is_refused(keeps: tuple[int, ...], says: str) -> None:
    loaded = make_loaded()
    with pytest.raises(TaskError, match=says):
        plan_flow(
            loaded,
            object_submission(Shrink(), "shrink"),
            plan(loaded.task, "quick"),
            order="index",
            keeps=keeps,
        )


def test_an_estimate_measures_nothing(remainder: Command, tmp_path: Path) -> None:
    arguments = (CHAIN, "--with", "identity", "--order", "index", "--keep", "0,4")
    outcome = remainder("flow", *arguments, "--estimate", "--out", str(tmp_path / "out"))
    assert outcome.code == 0
    assert outcome.out.startswith("shells that keep 0, 4 of 8 (index)\npasses: ")
    assert "2 submission(s)" in outcome.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((CHAIN, "--with", "identity", "--order", "fame"), "no order of keeping"),
        ((CHAIN, "--with", "identity", "--keep", "1,x"), "'x' is no number"),
        ((CHAIN, "--with", "identity", "--ratio", "1"), "not above 1"),
        ((CHAIN, "--with", "identity", "--save", "flow.txt"), "flow.txt"),
        ((CHAIN, "--with", "nobody"), "nobody"),
        ((CHAIN, "--with", "identity", "--also", "coupled,fame"), "there is no rung 'fame'"),
        (("tiny/induction-circuit", "--with", "other-circuit", "--also", "coupled"), "no rung 'coupled'"),
        ((CHAIN, "--with", "identity", "--keep", "1,2", "--shells", "3"), "--keep names the shells"),
        ((CHAIN, "--with", "identity", "--documents", "100000"), "documents is 100000"),
        (("tiny/induction-circuit", "--with", "identity"), "identity"),
        (
            ("tiny/induction-circuit", "--with", "other-circuit", "--keep", "0,2", "--order", "energy"),
            "--order, --keep: other-circuit has circuits",
        ),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: tuple[str, ...], says: str, remainder: Command, tmp_path: Path
) -> None:
    outcome = remainder("flow", *arguments, "--out", str(tmp_path / "out"))
    assert outcome.code != 0
    assert says in outcome.err
    assert not (tmp_path / "out").exists()
