"""Records agree with themselves, and the pages on findings are written from them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from statistics import NormalDist
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from remainder.base.paths import project_root
from remainder.errors import RecordError
from remainder.record.find import fullest_record
from remainder.record.number import Number
from remainder.record.recompute import recompute
from remainder.record.schema import Record
from remainder.record.store import read_record, read_summary
from remainder.report.order_sections import FACTORS
from remainder.report.quantities import default_columns
from remainder.task.script import load_script

RESULTS = sorted((project_root() / "leaderboard" / "results").rglob("*.json"))
ARCHIVE = sorted((project_root() / "leaderboard" / "archive").rglob("results/**/*.json"))


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    return load_script(project_root() / "docs" / "examples" / "findings.py")


@pytest.fixture(scope="module")
def first(findings: ModuleType) -> ModuleType:
    """Tables of the page on protocol 1."""
    return findings.protocol_1


@pytest.fixture(scope="module")
def words(findings: ModuleType) -> ModuleType:
    return findings.words


def test_there_are_records() -> None:
    assert len(RESULTS) >= 162
    assert len(ARCHIVE) == 254


def one_a_task(paths: list[Path]) -> list[Any]:
    """All records, those but the first of each task marked slow: `make test` recomputes one of every sort."""
    first = {path.parents[2]: path for path in reversed(paths)}
    return [
        pytest.param(
            path, marks=() if path in first.values() else pytest.mark.slow, id="/".join(path.parts[-5:-1])
        )
        for path in paths
    ]


@pytest.mark.parametrize("path", one_a_task(RESULTS))
def test_every_number_follows_from_the_values_beside_it(path) -> None:
    record, values = read_record(path)
    recompute(record, values)
    assert record.provenance.git_commit


def block(page: str, name: str) -> str:
    """What stands in a block of a page."""
    return page.partition(f"<!-- {name} -->\n\n")[2].partition("\n\n<!-- end -->")[0]


def test_the_pages_are_those_of_the_records(findings: ModuleType) -> None:
    """What `python docs/examples/findings.py` writes is what stands there; a slow test has the circuits."""
    detailed, counted = (
        findings.read_tasks(findings.RESULTS, names) for names in (findings.DETAILED, findings.COUNTED)
    )
    page = findings.PAGE.read_text(encoding="utf-8")
    tables = findings.blocks(detailed, counted) | {"records": findings.listed(findings.RESULTS)}
    assert findings.words.filled(page, tables) == page
    first = findings.FIRST_PAGE.read_text(encoding="utf-8")
    assert findings.words.filled(first, findings.first_blocks()) == first
    readme, tour = (path.read_text(encoding="utf-8") for path in (findings.README, findings.TOUR))
    decided = findings.pairs.decisions(findings.RESULTS, findings.PAIRED)
    assert findings.words.filled(readme, {"decisions": decided}) == readme
    assert findings.filled_tour(tour, findings.read_tasks(findings.RESULTS, findings.TOUR_TASKS)) == tour
    report = findings.REPORT.read_text(encoding="utf-8")
    said = findings.report_blocks(findings.RESULTS, decided)
    said["circuits"] = block(report, "circuits")
    assert findings.words.filled(report, said) == report


@pytest.mark.slow
def test_the_report_on_circuits_is_that_of_their_values(findings: ModuleType) -> None:
    said = findings.circuit_block(findings.RESULTS)["circuits"]
    assert said == block(findings.REPORT.read_text(encoding="utf-8"), "circuits")
    rows = findings.board.board(findings.words.every(findings.RESULTS))
    for spread in findings.circuits.spreads(findings.RESULTS, rows.circuits):
        if spread.difference.value is not None:
            one, other = (spread.shares[name].value for name in ("counterfactual", "raw"))
            assert spread.difference.value == pytest.approx(one - other, abs=1e-5)


def test_figures_of_the_report_are_there_and_small(findings: ModuleType) -> None:
    report = findings.REPORT.read_text(encoding="utf-8")
    named = set(re.findall(r"\(figures/(findings-[^)]+\.png)\)", report))
    assert len(named) == 8
    for name in named:
        assert (findings.FIGURES / name).stat().st_size < 150_000, name


def test_the_paragraph_on_the_ladder_is_that_of_the_record() -> None:
    """What `python docs/examples/ladder.py` writes is what stands in the tour."""
    ladder = load_script(project_root() / "docs" / "examples" / "ladder.py")
    page = ladder.PAGE.read_text(encoding="utf-8")
    assert block(page, "ladder") == ladder.blocks()["ladder"]


@pytest.fixture
def deep(findings: ModuleType) -> Record:
    """A row of the board with the parts that the deep plan adds, numbers made up or of protocol 1."""
    record = findings.words.summary(findings.RESULTS / "smollm2-135m" / "resid-15" / "2" / "topk-sae-32")
    ladder = load_script(project_root() / "docs" / "examples" / "ladder.py")
    first = findings.words.summary(ladder.ARCHIVE / "topk-sae-32").metrics
    others = {
        "cov-random": Number(value=1.3, low=1.2, high=1.4),
        "activation-difference": Number(value=0.7, low=0.65, high=0.75),
    }
    factors = dict.fromkeys(FACTORS, Number(value=0.1, low=0.05, high=0.15))
    parts = record.metrics.ratio_parts.model_copy(update={"others": others, "factors": factors})
    grown = {"ratio_parts": parts, "telescope": first.telescope, "gaussianity": first.gaussianity}
    return record.model_copy(update={"metrics": record.metrics.model_copy(update=grown)})


def test_the_dispute_on_nulls_is_told_by_rows_that_have_them(findings: ModuleType, deep: Record) -> None:
    first = [row for row in findings.protocol_1.records("resid-15") if findings.protocol_1.is_sparse(row)]
    said = " ".join(findings.residual.dispute(findings.board.board([deep]), first).split())
    assert "ρ is above 1 with fitted covariance, cov-random; below 1 with activation-difference" in said
    assert "The answer turns with the null." in said
    assert "| ρ, cov-random |" in re.sub(" +", " ", said)


def test_the_ladder_says_more_of_a_deep_row(deep: Record) -> None:
    ladder = load_script(project_root() / "docs" / "examples" / "ladder.py")
    said = " ".join(ladder.paragraphs(deep, [ladder.deepest("pca-128", "linear-mean")]).split())
    assert "These figures are of protocol 2." in said
    assert "could not have shown" in said
    assert "with `cov-random`" in said
    assert "`pca-128` by protocol 1" in said
    assert f"`{deep.metrics.conditional.best}` is the most likely" in said


def test_a_joint_interval_is_that_of_a_level_split_over_tests(words: ModuleType) -> None:
    number = Number(value=1.0, low=0.0, high=3.0)
    assert words.joint(number, 1, 32) == number
    many = words.joint(number, 10, 10**7)  # Student's law is normal there
    wider = NormalDist().inv_cdf(1 - 0.0025) / NormalDist().inv_cdf(0.975)
    assert (many.low, many.high) == pytest.approx((1 - wider, 1 + 2 * wider), rel=1e-5)
    few = words.joint(number, 10, 8)
    assert few.high > many.high


def test_joint_intervals_hold_together() -> None:
    """Of normal documents all 20 intervals hold their means in 95 % of samples at least."""
    words = load_script(project_root() / "docs" / "examples" / "findings_words.py")
    documents, tests, samples = 16, 20, 400
    draws = np.random.default_rng(0).normal(size=(samples, tests, documents))
    mean, error = draws.mean(-1), draws.std(-1, ddof=1) / documents**0.5
    half = 2.131 * error  # of Student's law with 15 degrees of freedom, 95 %
    number = Number(value=0.0, low=-1.0, high=1.0)
    wider = words.joint(number, tests, documents).high
    held = (np.abs(mean) <= wider * half).all(-1).mean()
    assert 0.93 < held < 0.985


def test_rank_correlations_of_one_task_are_those_of_spearman(findings: ModuleType) -> None:
    columns = findings.columns
    numbers = np.random.default_rng(1).normal(size=(13, 3))
    numbers[:, 2] += numbers[:, 0]
    numbers[3, 1] = numbers[4, 1]
    records = [SimpleNamespace(task=SimpleNamespace(id="a/b"), place=place) for place in range(13)]

    def score(axis: int) -> Any:
        return columns.Score(str(axis), lambda row: Number.bare(float(numbers[row.place, axis]), "a draw"))

    found = columns.correlations("kind", records, tuple(map(score, range(3))))
    assert found.value == pytest.approx(spearmanr(numbers).statistic, abs=1e-9)
    assert (found.low <= found.value + 1e-9).all()
    assert (found.value <= found.high + 1e-9).all()
    # Nats of another model change nothing: a second task with all numbers shifted has the same ranks.
    doubled = [*records, *(SimpleNamespace(task=SimpleNamespace(id="a/c"), place=p) for p in range(13))]
    again = columns.correlations("kind", doubled, found.scores)
    assert again.value == pytest.approx(found.value)
    assert columns.Correlations(
        "k", found.scores, 13, 1, np.sign(found.value), found.low, found.high
    ).groups()


def test_default_columns_of_the_correlations_are_those_of_the_board(findings: ModuleType) -> None:
    """A site of a public model, and a circuit: the quantities of default columns give the very numbers."""
    for scores, place in (
        (findings.columns.SITES, "smollm2-135m/resid-15/2/topk-sae-32"),
        (findings.columns.CIRCUITS, "smollm2-135m/ioi/2/eap-ig"),
    ):
        record = findings.words.summary(findings.RESULTS / place)
        columns = default_columns([record])
        shown = [abs(column.of_record(record).value) for column in columns]
        found = [score.of(record) for score in scores if score.default]
        assert [abs(number.value) for number in found if number and number.value is not None] == shown, place


def test_a_number_that_changes_sign_changes_the_report(findings: ModuleType) -> None:
    """A row whose interval moves to the other side is counted on that side."""
    rows = findings.board.board(
        [
            findings.words.summary(path)
            for path in sorted((findings.RESULTS / "tiny" / "wiki" / "2").iterdir())
        ]
    )
    record = next(record for record in rows.text if record.submission.name == "wiki-topk")

    def said(low: float, high: float) -> str:
        parts = record.metrics.ratio_parts.model_copy(
            update={"odd": Number(value=(low + high) / 2, low=low, high=high)}
        )
        metrics = record.metrics.model_copy(update={"ratio_parts": parts})
        changed = record.model_copy(update={"metrics": metrics})
        numbers = findings.words.jointly([changed], findings.words.quantity("rho_odd"))
        return findings.board.by_sign("ρ odd", numbers, "above 0", "below 0")

    assert said(0.2, 0.3) == "ρ odd: above 0 in 1 of 1 (`wiki-topk` at tiny/wiki)."
    assert said(-0.3, -0.2) == "ρ odd: below 0 in 1 of 1 (`wiki-topk` at tiny/wiki)."
    assert said(-0.1, 0.2).endswith("not told apart in 1 of 1 (`wiki-topk` at tiny/wiki).")


@pytest.fixture(scope="module")
def moved(findings: ModuleType) -> ModuleType:
    """The page on what moved, which reads no record that the findings have read already."""
    module = load_script(project_root() / "docs" / "examples" / "what_moved.py")
    module.words = findings.words
    return module


def test_what_moved_is_that_of_the_records(moved: ModuleType) -> None:
    """What `python docs/examples/what_moved.py` writes is what stands there."""
    page = moved.PAGE.read_text(encoding="utf-8")
    assert moved.words.filled(page, moved.blocks(moved.read(moved.BEFORE), moved.read(moved.AFTER))) == page


def test_a_change_counts_where_an_interval_is_left(moved: ModuleType) -> None:
    before, after = moved.read(moved.BEFORE / "tiny" / "wiki"), moved.read(moved.AFTER / "tiny" / "wiki")
    by_name = {change.key[1]: change for change in moved.changes(before, after, "kl_raw")}
    assert set(by_name) >= {"wiki-topk", "wiki-pca-16"}
    for name, change in by_name.items():
        rungs = [records["tiny/wiki", name, ""].metrics.rungs for records in (before, after)]
        one, other = (rung["raw"].quenched.kl for rung in rungs)
        left = not (one.low <= other.value <= one.high and other.low <= one.value <= other.high)
        assert change.moved == (left and abs(one.value - other.value) > 1e-8)
    shifted = {key: record for key, record in after.items() if key[1] == "wiki-topk"}
    ((key, record),) = shifted.items()
    far = Number(value=9.0, low=8.9, high=9.1)
    raw = record.metrics.rungs["raw"]
    rung = raw.model_copy(update={"quenched": raw.quenched.model_copy(update={"kl": far})})
    metrics = record.metrics.model_copy(update={"rungs": {**record.metrics.rungs, "raw": rung}})
    (change,) = moved.changes(before, {key: record.model_copy(update={"metrics": metrics})}, "kl_raw")
    assert change.moved is True


def test_a_sentence_follows_its_numbers(findings: ModuleType) -> None:
    """A row whose interval moves is named on the other side, and in no other sentence."""
    (rows,) = findings.read_tasks(findings.RESULTS, ["tiny/wiki"])
    record = rows.records[-1]
    name = f"`{record.submission.name}`"

    def sides(low: float, high: float) -> dict[str, bool]:
        number = Number(value=(low + high) / 2, low=low, high=high)
        orders = record.metrics.orders.model_copy(update={"interaction": number})
        metrics = record.metrics.model_copy(update={"orders": orders})
        changed = rows._replace(records=[*rows.records[:-1], record.model_copy(update={"metrics": metrics})])
        said = " ".join(findings.noise.interaction(changed).split()).split(" - ")[1:]
        return {sentence.partition(" ")[0]: name in sentence for sentence in said if "KL" not in sentence}

    for (low, high), place in {
        (0.3, 0.4): "Above",
        (-0.4, -0.3): "Below",
        (-0.1, 0.1): "Within",
        (0.1, 0.2): "Not",
    }.items():
        placed = sides(low, high)
        assert placed[place]
        assert sum(placed.values()) == 1


def test_pairs_that_are_ordered_differently_are_counted(words: ModuleType) -> None:
    """Against Kendall's τ without ties: so many pairs, (1 − τ)/2 of them discordant."""
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 9))
    numbers = {f"row-{index}": pair for index, pair in enumerate(zip(one, other, strict=True))}
    records = [SimpleNamespace(submission=SimpleNamespace(name=name)) for name in numbers]

    def of(axis: int):
        return lambda record: Number.bare(float(numbers[record.submission.name][axis]), "a draw")

    pairs, total = words.ordered_differently(words.Rows("task", records), of(0), of(1))
    assert total == 36
    assert len(pairs) / total == pytest.approx((1 - kendalltau(one, other).statistic) / 2)


def test_figures_of_small_models_in_the_tour_are_those_of_records(findings: ModuleType) -> None:
    tour = findings.TOUR.read_text(encoding="utf-8")

    def number(task: str, name: str, key: str) -> float:
        folder = findings.RESULTS / task / "2" / name
        value = findings.words.quantity(key)(read_summary(fullest_record(folder))).value
        assert value is not None
        return value

    task, topk, rule = "tiny/modular-addition", "modular-addition-topk-sae", "rule-and-noise-rule-3"
    kept = {
        key: number(task, "modular-addition-key-frequencies", key)
        for key in ("gap_raw", "gap_coded", "bits_per_token", "gap_gaussian", "explained_variance")
    }
    seen = {key: number(task, topk, key) for key in ("gap_raw", "gap_gaussian", "explained_variance")}
    beaten = [-number("tiny/rule-and-noise", rule, key) for key in ("gap_raw", "gap_gaussian")]
    lost = [number("tiny/wiki", name, "gap_raw") for name in ("wiki-topk", "wiki-pca-16")]
    for said in (
        f"Δ raw {kept['gap_raw'] * 1e5:.0f}·10⁻⁵ with exact coefficients, {kept['gap_coded']:.3f} with those "
        f"of {kept['bits_per_token']:.0f} bits, and {kept['gap_gaussian']:.2f} with",
        f"PCA of equal rank costs {number(task, 'modular-addition-pca', 'gap_raw'):.1f}, a",
        f"{seen['gap_raw']:.2f} raw and {seen['gap_gaussian']:.2f} Gaussian – and explains "
        f"{100 * seen['explained_variance']:.0f} % of the variance, the six directions "
        f"{100 * kept['explained_variance']:.0f} %",
        f"by {beaten[0]:.2f} nats raw and {beaten[1]:.2f} Gaussian",
        f"cost {lost[0]:.2f} nats, 16 principal components {lost[1]:.2f}",
    ):
        assert said in tour


def test_what_was_generated_stands_in_no_other_place(findings: ModuleType) -> None:
    """Beside blocks the page explains: it has no interval, and names no row."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (findings.PAGE, findings.REPORT))
    page = re.sub(r"<!-- (?!end).*?<!-- end -->", "", pages, flags=re.DOTALL)
    assert re.findall(r"\[-?\d[\d.]*, -?\d[\d.]*\]", page) == []
    names = {path.name for path in (project_root() / "baselines").iterdir()} - {"identity", "mean-only"}
    assert [name for name in names if f"`{name}`" in page] == []


def test_a_task_with_a_missing_row_is_refused_by_name(findings: ModuleType, tmp_path: Path) -> None:
    page = findings.PAGE.read_text(encoding="utf-8")
    folder = findings.RESULTS / "tiny" / "wiki"
    shutil.copytree(folder, tmp_path / "tiny" / "wiki")
    (major,) = (tmp_path / "tiny" / "wiki").iterdir()
    shutil.rmtree(major / "wiki-topk")
    with pytest.raises(RecordError, match="tiny/wiki has no row of wiki-topk"):
        findings.main(["--results", str(tmp_path), "tiny/wiki"])
    assert findings.PAGE.read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("low", "high", "bounds", "side"),
    [
        (0.1, 0.2, (0, 0), "above"),
        (-0.2, -0.1, (0, 0), "below"),
        (-0.1, 0.1, (0, 0), "open"),
        (0.0, 0.1, (0, 0), "open"),
        (0.0, 0.0, (0, 0), "within"),
        (-0.1, 0.1, (-0.15, 0.15), "within"),
        (0.1, 0.2, (-0.15, 0.15), "open"),
        (0.16, 0.2, (-0.15, 0.15), "above"),
        (None, None, (0, 0), "missing"),
    ],
)
def test_a_side_is_that_of_the_whole_interval(words: ModuleType, low, high, bounds, side) -> None:
    number = Number(
        value=1.0 if low is None else (low + high) / 2,
        low=low,
        high=high,
        reason=None if low is not None else "x",
    )
    assert words.side(number, *bounds) == side
    assert words.side(None) == "missing"


@pytest.mark.parametrize(("task", "but"), [("resid-15", ()), ("mlp-15", ("transcoder-32",))])
def test_what_was_trained_beats_pca_at_equal_bits(first: ModuleType, task: str, but: tuple[str, ...]) -> None:
    """On raw KL, upper end of its interval against PCA interpolated between ranks (log KL over log bits)."""
    chosen = first.records(task)

    def point(record: Record) -> tuple[float, float]:
        bits, kl = record.complexity.bits_per_token.value, record.metrics.rungs["raw"].quenched.kl
        assert bits is not None
        assert kl.value is not None
        assert kl.high is not None
        return bits, kl.high if first.is_sparse(record) else kl.value

    curve = sorted(point(record) for record in chosen if record.submission.name.startswith("pca-"))
    bits, kls = (np.log([pair[axis] for pair in curve]) for axis in (0, 1))
    # A plain transcoder has to compute what PCA is given; the page says that it ties.
    trained = [record for record in chosen if first.is_sparse(record) and record.submission.name not in but]
    assert trained
    for record in trained:
        own, high = point(record)
        assert bits[0] < np.log(own) < bits[-1], f"{record.submission.name}: no PCA of nearly as many bits"
        assert np.log(high) < np.interp(np.log(own), bits, kls), record.submission.name


WITHDRAWN = (
    r"two to six times",
    r"to the network, yes",
    r"might as well be Gaussian",
    r"distribution that one could sample",
    r"not a distribution at all",
    r"small before it becomes random",
    r"0\.01 to 0\.04 nats",
    r"the network hardly minds",
)
"""Statements that records do not bear out; CHANGELOG names them, and no page makes them."""


def test_no_page_states_what_was_withdrawn() -> None:
    pages = [*project_root().glob("*.md"), *(project_root() / "docs").rglob("*.md")]
    pages = [page for page in pages if page.name != "CHANGELOG.md"]
    assert len(pages) > 20
    for page in pages:
        text = " ".join(page.read_text(encoding="utf-8").split())
        found = [statement for statement in WITHDRAWN if re.search(statement, text, re.IGNORECASE)]
        assert found == [], page


def test_what_was_withdrawn_is_named_in_the_changelog() -> None:
    changelog = " ".join((project_root() / "CHANGELOG.md").read_text(encoding="utf-8").split())
    withdrawn = changelog.replace("**", "").partition("### Withdrawn")[2].partition("## [0.1.0]")[0]
    # The last phrase stood on the page that explains, which is no statement of a finding.
    for statement in WITHDRAWN[:-1]:
        assert re.search(statement, withdrawn, re.IGNORECASE), statement


def span(numbers: list[float], digits: int) -> str:
    """The smallest and the largest, as the prose has them."""
    return f"{min(numbers):.{digits}f} to {max(numbers):.{digits}f}"


def test_prose_on_protocol_1_has_the_figures_of_its_records(first: ModuleType) -> None:
    """Ranges over trained dictionaries, and over all that leave something out, in each page."""
    pages = {
        name: " ".join((project_root() / name).read_text(encoding="utf-8").split())
        for name in ("CHANGELOG.md", "docs/findings-1.md")
    }
    kept = first.with_gap(first.records("resid-15"))
    trained = [record for record in kept if first.is_sparse(record)]
    ratio = span([record.metrics.gaussian_ratio.fitted.value for record in trained], 2)
    for text in pages.values():
        assert ratio in text
    assert (
        span([record.metrics.gaussian_ratio.isotropic.value for record in trained], 2)
        in pages["docs/findings-1.md"]
    )
    for rung, other in (("isotropic", "full"), ("full", "radial")):
        moved = [
            abs(
                record.metrics.rungs[rung].quenched.gap.value - record.metrics.rungs[other].quenched.gap.value
            )
            for record in kept
        ]
        stated = rf"{min(moved):.4f} to {max(moved):.3f}"
        assert stated in pages["docs/findings-1.md"]
        assert stated in pages["CHANGELOG.md"]


def test_prose_of_the_tour_on_a_real_model_is_that_of_its_records(
    findings: ModuleType, first: ModuleType
) -> None:
    """What stands below the table of its first task: who beats transform coding, and both parts of ρ."""
    tour = " ".join(findings.TOUR.read_text(encoding="utf-8").split())
    (rows,) = findings.read_tasks(findings.RESULTS, [findings.PAIRED])
    records = {record.submission.name: record for record in rows.records}

    def number(name: str, key: str) -> Number:
        found = findings.words.quantity(key)(records[name])
        assert found.value is not None
        return found

    bits, lost = (number("topk-sae-32", key).value for key in ("bits_per_token", "kl_coded"))
    assert f"loses {lost:.3f} nats of KL at {bits:.1f} bits" in tour
    at = {active: number(f"topk-sae-{active}", "efficiency") for active in (16, 32, 64)}
    assert at[16].low > 0 > at[64].high
    assert at[32].low < 0 < at[32].high
    trained = [name for name, record in records.items() if first.is_sparse(record)]
    assert len(trained) == 8
    most = {name: number(name, "kl_coded").high for name in trained}
    for name in ("pca-400", "identity"):
        assert number(name, "kl_coded").low < min(most.values())
        assert number(name, "efficiency").high < 0
    for name in trained:
        assert max(point.efficiency.low for point in records[name].metrics.coding.points.values()) > 0
    worse = {name: number(name, "gap_gaussian").value > number(name, "gap_raw").value for name in records}
    assert [name for name, held in worse.items() if not held] == ["mean-only"]
    for key, digits, words in (("rho_even", 2, "the first is"), ("rho_odd", 3, "the second")):
        assert f"{words} {span([number(name, key).value for name in trained], digits)}" in tour


def test_prose_of_the_tour_on_circuits_is_that_of_their_records(findings: ModuleType) -> None:
    """What it says below the table of its second task."""
    tour = " ".join(findings.TOUR.read_text(encoding="utf-8").split())
    (rows,) = findings.read_tasks(findings.RESULTS, [findings.TOUR_TASKS[1]])
    records = {record.submission.name: record for record in rows.records}

    def number(name: str, key: str) -> float:
        value = findings.words.quantity(key)(records[name]).value
        assert value is not None
        return value

    answer, raw, full = (number("eap-ig", key) for key in ("faithfulness", "gap_raw", "gap_gaussian"))
    assert f"keeps {100 * answer:.0f} % of the answer" in tour
    assert f"still loses {raw:.1f} nats when they carry their mean, and {full:.1f} when" in tour
    assert number("eap-ig", "cpr") == pytest.approx(2, abs=0.1)
    raw, full = (number("feature-circuit", key) for key in ("gap_raw", "gap_gaussian"))
    kept = number("feature-circuit", "kept")
    assert f"Its {kept:,.0f} of 156,740 nodes lose {raw:.2f} nats raw and {full:.1f} Gaussian" in tour
    without = records["feature-circuit"].metrics.rungs["errors-mean"].quenched.gap.value
    assert f"replaced by their mean, they lose {without:.1f}" in tour
