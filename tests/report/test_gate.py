"""The gate: chance does not fail a build, a real regression does, and a gate on nothing is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

from remainder.errors import RecordError, RemainderError
from remainder.record.number import Number
from remainder.record.schema import Record, TaskInfo
from remainder.record.store import StoredRecord, write_record
from remainder.record.values import canonical_values
from remainder.report.compare import compare_records
from remainder.report.gate import (
    KEYS,
    Change,
    RegressionError,
    find_changes,
    parse_margins,
    refuse,
    render_changes,
)
from remainder.report.quantities import QUANTITIES, number_of

DOCUMENTS = 30


def stored(values: pd.DataFrame, **changes: object) -> StoredRecord:
    return StoredRecord(synthetic_record(values, **changes), canonical_values(values))


def changed(change: Callable[[pd.DataFrame, pd.Series], None], **changes: object) -> StoredRecord:
    """A record whose rows on rung `raw` were changed; its gaps are 0.1 nats per token before."""
    values = synthetic_values(documents=DOCUMENTS, windows=1)
    change(values, values["rung"] == "raw")
    return stored(values, **changes)


TEMPLATE = synthetic_values(documents=DOCUMENTS, windows=1)
TEMPLATE = TEMPLATE[TEMPLATE["rung"].isin(["clean", "raw"])].reset_index(drop=True)


@cache
def template_record() -> Record:
    measurement = synthetic_record(synthetic_values()).measurement.model_copy(update={"rungs": ("raw",)})
    return synthetic_record(TEMPLATE, measurement=measurement)


def with_gap(size: float, noise: float = 0.0, seed: int = 1) -> StoredRecord:
    """Values whose raw gap is `size` nats per token, with a deviation of `noise` between documents."""
    values = TEMPLATE.copy()
    clean = values.loc[values["rung"] == "clean"].set_index("document")["loss"]
    raw = values["rung"] == "raw"
    gaps = size + noise * np.random.default_rng(seed).normal(size=int(raw.sum()))
    values.loc[raw, "loss"] = values.loc[raw, "document"].map(clean) + gaps * values.loc[raw, "tokens"]
    return StoredRecord(template_record(), canonical_values(values))


def one(a: StoredRecord, b: StoredRecord, key: str, margin: float = 0.0) -> Change:
    (change,) = find_changes(a, b, {key: margin})
    return change


def worse_kl(values: pd.DataFrame, raw: pd.Series) -> None:
    values.loc[raw, "kl"] *= 1.2
    values.loc[raw, "kl_histogram"] = ""


@pytest.fixture(scope="module")
def a() -> StoredRecord:
    return changed(lambda values, raw: None)


@pytest.fixture(scope="module")
def worse() -> StoredRecord:
    return changed(worse_kl, bits=190.0)


def stated(record: StoredRecord) -> list[str]:
    """Keys of all that the record has a number for."""
    return [key for key in KEYS if number_of(record.record, key).value is not None]


def test_the_same_measured_anew_passes_at_no_margin(a: StoredRecord) -> None:
    changes = find_changes(a, a, dict.fromkeys(stated(a), 0.0))
    assert {change.quantity.key for change in changes} == set(stated(a))
    for change in changes:
        assert (change.worse.value, change.verdict) == (0, "passed")
        assert change.a == change.b


def test_rounding_of_another_machine_passes_at_no_margin() -> None:
    first, rounded, more = with_gap(0.1), with_gap(0.1 + 2e-8), with_gap(0.1 + 2e-6)
    assert (one(first, rounded, "gap_raw").worse.low or 0) > 0
    assert (one(first, rounded, "gap_raw").verdict, one(first, more, "gap_raw").verdict) == (
        "passed",
        "regression",
    )


def test_a_real_regression_fails_with_one_message(a: StoredRecord, worse: StoredRecord) -> None:
    changes = find_changes(a, worse, {"kl_raw": 0.01, "gap_raw": 0.01, "bits_per_token": 5.0})
    assert [change.verdict for change in changes] == ["regression", "passed", "regression"]
    with pytest.raises(RegressionError) as caught:
        refuse(changes, a, worse)
    message = str(caught.value)
    for needed in (
        "family/task",
        "kl_raw (KL raw",
        "margin 0.01",
        "separable from 0: [0.0",
        "bits per token, margin 5",
    ):
        assert needed in message
    assert "gap" not in message
    assert caught.value.exit_code == 1


def test_a_regression_within_the_margin_passes(a: StoredRecord, worse: StoredRecord) -> None:
    change = one(a, worse, "kl_raw", 0.05)
    assert change.verdict == "passed"
    assert (change.worse.low or 0) > 0  # separable, and allowed
    refuse([change], a, worse)


def test_what_is_better_passes(a: StoredRecord, worse: StoredRecord) -> None:
    assert one(worse, a, "kl_raw").verdict == "passed"
    assert (one(worse, a, "kl_raw").worse.value or 0) < 0


def test_more_than_the_margin_that_may_be_chance_passes_and_is_told() -> None:
    first, second = with_gap(0.1, 0.1, seed=1), with_gap(0.13, 0.1, seed=5)
    change = one(first, second, "gap_raw", 0.005)
    assert (change.worse.value or 0) > 0.005
    assert change.verdict == "not separable"
    assert "not separable from 0: [-0." in str(change)
    refuse([change], first, second)


def failures(runs: int, a: float, b: float, margin: float) -> int:
    """How many of `runs` pairs of records with such gaps and independent errors fail."""
    pairs = ((with_gap(a, 0.05, 2 * run), with_gap(b, 0.05, 2 * run + 1)) for run in range(runs))
    return sum(one(*pair, "gap_raw", margin).verdict == "regression" for pair in pairs)


@pytest.mark.slow
def test_chance_rarely_fails_a_build_and_a_regression_does() -> None:
    """Of two that are equally good, 1 in 40 fails at no margin."""
    assert failures(20, 0.1, 0.1, 0.0) <= 3  # the chance of more is 0.2 %
    assert failures(10, 0.1, 0.16, 0.01) >= 9


@pytest.mark.slow
def test_the_share_of_false_alarms_is_the_nominal_one() -> None:
    assert failures(400, 0.1, 0.1, 0.0) <= 20  # 10 are expected; the chance of more than 20 is 0.2 %
    assert failures(200, 0.0, 0.0, 0.0) <= 5  # |Δ| near 0: both signs are allowed for
    assert failures(100, 0.1, 0.1, 0.02) <= 4


@pytest.mark.parametrize("key", ["gap_raw", "gap_gaussian", "kl_raw", "kl_gaussian"])
def test_intervals_are_those_of_compare_where_signs_are_plain(a: StoredRecord, key: str) -> None:
    other = stored(synthetic_values(documents=DOCUMENTS, windows=1, seed=3))
    (row,) = (d for d in compare_records(a, other).differences if d.key == key)
    assert one(a, other, key).worse == row.difference


def test_explained_variance_is_worse_when_it_falls(a: StoredRecord) -> None:
    def less(values: pd.DataFrame, raw: pd.Series) -> None:
        values.loc[raw, "residual_ss"] *= 1.3

    other = changed(less)
    (row,) = (d for d in compare_records(a, other).differences if d.key == "explained_variance")
    found = one(a, other, "explained_variance", 0.02)
    assert found.verdict == "regression"
    assert (found.worse.value, found.worse.low, found.worse.high) == pytest.approx(
        (-row.difference.value, -row.difference.high, -row.difference.low)
    )


def test_a_gap_below_zero_counts_by_its_size() -> None:
    """A model that its denoised self beats is not rendered faithfully either."""
    below, small = with_gap(-0.1, 0.02, seed=1), with_gap(0.03, 0.02, seed=2)
    assert one(small, below, "gap_raw", 0.01).verdict == "regression"
    assert one(below, small, "gap_raw", 0.0).verdict == "passed"
    assert one(below, small, "gap_raw").worse.value == pytest.approx(-0.07, abs=0.01)


def mirrored(record: StoredRecord) -> StoredRecord:
    """The same with its raw gap turned around in every document."""
    values = record.values.copy()
    clean = values.loc[values["rung"] == "clean"].set_index(["document", "window"])["loss"]
    raw = values["rung"] == "raw"
    keys = pd.MultiIndex.from_frame(values.loc[raw, ["document", "window"]])
    values.loc[raw, "loss"] = 2 * clean.loc[keys].to_numpy() - values.loc[raw, "loss"].to_numpy()
    return StoredRecord(record.record, canonical_values(values))


def test_across_zero_the_interval_is_that_of_the_mirrored_record() -> None:
    """|Δ_B| − |Δ_A| = Δ_B − (−Δ_A) for Δ_A < 0 < Δ_B, which `compare` can tell of a record with −Δ_A."""
    below, above = with_gap(-0.1, 0.02, seed=1), with_gap(0.15, 0.02, seed=2)
    (row,) = (d for d in compare_records(mirrored(below), above).differences if d.key == "gap_raw")
    found = one(below, above, "gap_raw").worse
    # Losses are kept to nine digits, so that the mirrored ones differ in the tenth.
    assert (found.value, found.low, found.high) == pytest.approx(
        (row.difference.value, row.difference.low, row.difference.high), abs=2e-6
    )


def test_where_a_sign_is_in_doubt_the_interval_allows_for_both() -> None:
    doubtful, above = with_gap(0.001, 0.02, seed=1), with_gap(0.02, 0.02, seed=2)
    plain = compare_records(doubtful, above).differences
    turned = compare_records(mirrored(doubtful), above).differences
    lows = [row.difference.low for rows in (plain, turned) for row in rows if row.key == "gap_raw"]
    assert one(doubtful, above, "gap_raw").worse.low == pytest.approx(min(lows), abs=2e-6)


def test_without_an_interval_the_estimate_decides() -> None:
    values = synthetic_values(documents=3)
    more = values.copy()
    raw = more["rung"] == "raw"
    more.loc[raw, "loss"] += 0.5 * more.loc[raw, "tokens"]
    change = one(stored(values), stored(more), "gap_raw", 0.1)
    assert (change.worse.low, change.verdict) == (None, "regression")
    assert "no interval: 3 documents" in str(change)


def test_only_common_windows_count(a: StoredRecord, worse: StoredRecord) -> None:
    part = worse.values[worse.values["document"] != "article-7"]
    smaller = one(a, stored(part, tier="tiny"), "kl_raw", 0.01)
    (row,) = (d for d in compare_records(a, stored(part, tier="tiny")).differences if d.key == "kl_raw")
    assert smaller.worse == row.difference
    assert smaller.worse != one(a, worse, "kl_raw").worse


def test_what_was_not_measured_is_refused(a: StoredRecord) -> None:
    values = a.values[a.values["rung"] != "full"]
    measurement = a.record.measurement.model_copy(update={"rungs": ("raw",)})
    with pytest.raises(RecordError, match="record B has no gap_gaussian: rung full was not measured"):
        find_changes(a, stored(values, measurement=measurement), {"gap_gaussian": 0.1})
    task = TaskInfo(id="family/task", version="2-0", hash=fake_hash("another"))
    with pytest.raises(RecordError, match="different tasks"):
        find_changes(a, stored(a.values, task=task), {"gap_raw": 0.1})


def test_margins_are_read() -> None:
    assert parse_margins("gap_raw=0.01") == {"gap_raw": 0.01}
    assert parse_margins(" kl_raw = 1e-3 ,bits_per_token=0, ") == {"kl_raw": 0.001, "bits_per_token": 0.0}


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("gaussian_gap=1", "no quantity 'gaussian_gap'", "gap_gaussian"),
        ("kl_rav=1", "no quantity 'kl_rav'", "use kl_raw"),
        ("0.01", "no quantity '0.01'", "choose from: bits_per_token, l0, kept, kl_coded"),
        ("gaussian_ratio=1", "no quantity 'gaussian_ratio'", "use "),
        ("gap_nothing=1", "no quantity 'gap_nothing'", "choose from: bits"),
        ("gap=0.01", "no quantity 'gap'", "use gap_raw; it was called gap before"),
        ("gaussian=0.01", "no quantity 'gaussian'", "use gap_gaussian; it was called"),
        ("kl=0.01", "no quantity 'kl'", "use kl_raw; it was called"),
        ("bits=0.01", "no quantity 'bits'", "use bits_per_token; it was called"),
        ("gap_raw", "is nothing, not a number", "write e.g. gap_raw=0.01"),
        ("gap_raw=", "is , not a number", "write e.g. gap_raw=0.01"),
        ("gap_raw=much", "is much, not a number", "nats per token"),
        ("gap_raw=-1", "is -1, not a number of 0 or more", "gap_raw=0.01"),
        ("gap_raw=nan", "is nan, not a number", "gap_raw=0.01"),
        ("gap_raw=inf", "is inf, not a number", "gap_raw=0.01"),
        ("gap_raw=1,gap_raw=2", "gap_raw is given twice", "one margin"),
        (" , ", "no margin is given", "keys are bits_per_token, l0"),
    ],
)
def test_malformed_margins_are_refused(text: str, message: str, fix: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse_margins(text)
    assert message in caught.value.what
    assert fix in (caught.value.fix or "")


def test_every_sentence_tells_value_margin_and_chance() -> None:
    for worse, words in {
        Number(
            value=0.03, low=0.01, high=0.05
        ): "worse by 0.030 nats per token, margin 0.02 (separable from 0: [",
        Number(value=0.03, low=-0.01, high=0.07): "margin 0.02 (not separable from 0: [-0.010, 0.070])",
        Number(
            value=-0.03, low=-0.05, high=-0.01
        ): "better by 0.030 nats per token, margin 0.02 (95 % interval [",
        Number(value=0.0, low=0.0, high=0.0): "is the same",
    }.items():
        assert words in str(Change(QUANTITIES["gap_raw"], 0.1, 0.13, worse, 0.02))


# the command


@pytest.fixture
def files(a: StoredRecord, worse: StoredRecord, tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, record in zip(paths, (a, worse), strict=True):
        write_record(record.record, record.values, path)
    return paths


def test_the_command_fails_with_1_and_says_why(files: tuple[Path, Path], remainder: Command) -> None:
    outcome = remainder(
        "compare", *files, "--fail-on-regression", "kl_raw=0.01,gap_raw=0.01,bits_per_token=20"
    )
    assert outcome.code == 1
    assert outcome.err.count("remainder: ") == 1
    assert "Traceback" not in outcome.err
    assert "To mend it" in outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 80
    for needed in ("regression", "passed", "Margin", "B − A"):
        assert needed in outcome.out
    back = remainder(
        "compare", *files[::-1], "--fail-on-regression", "kl_raw=0.01,gap_raw=0.01,bits_per_token=20"
    )
    assert (back.code, back.err) == (0, "")


def test_what_programs_read_is_unchanged(files: tuple[Path, Path], remainder: Command) -> None:
    for format in ("json", "csv"):
        plain = remainder("compare", *files, "--format", format)
        gated = remainder("compare", *files, "--format", format, "--fail-on-regression", "kl_raw=0.01")
        assert (plain.code, gated.code) == (0, 1)
        assert gated.out == plain.out
        assert gated.err.startswith("\nregression: kl_raw (KL raw")
    json.loads(remainder("compare", *files, "--format", "json").out)


def test_margins_are_refused_before_anything_is_shown(files: tuple[Path, Path], remainder: Command) -> None:
    for given in ("gape=1", "gap_raw=x", ""):
        outcome = remainder("compare", *files, "--fail-on-regression", given)
        assert (outcome.code, outcome.out) == (RecordError.exit_code, "")
        assert "--fail-on-regression: " in outcome.err


def test_tables_hold_every_change(a: StoredRecord, worse: StoredRecord) -> None:
    changes = find_changes(a, worse, dict.fromkeys(stated(a), 0.01))
    for format in ("table", "markdown", "latex"):
        text = render_changes(changes, format)
        assert text.count("regression") == sum(change.verdict == "regression" for change in changes)
        assert text.endswith("\n")
    assert max(map(len, render_changes(changes).splitlines())) <= 80
    assert issubclass(RegressionError, RemainderError)
