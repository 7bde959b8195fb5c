"""Tables for people: they fit, they say what is missing and why, and hold what the record holds."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values, with_coding

from remainder.errors import RecordError
from remainder.record.metrics import AnnealedMetrics, RatioParts
from remainder.record.number import Number
from remainder.record.rungs import RUNGS
from remainder.record.schema import Check, Complexity, MethodInfo, Record, SubmissionInfo
from remainder.record.store import StoredRecord
from remainder.record.values import canonical_values
from remainder.report.compare import compare_records
from remainder.report.layout import FORMATS
from remainder.report.quantities import (
    QUANTITIES,
    SECOND_COLUMNS,
    SITE_COLUMNS,
    Quantity,
    applicable,
    default_columns,
    number_of,
)
from remainder.report.tables import render, rows, troubles
from remainder.report.text import Notes, format_interval, format_value


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """A plain one, one with huge negative gaps and a long name, and one with little measured."""
    plain = synthetic_values()
    huge = synthetic_values(seed=1)
    huge["loss"] -= 1300 * huge["kl"]
    bare = plain[~plain["rung"].isin(["full", "noise-fitted"])]
    few = synthetic_record(plain).measurement.model_copy(update={"rungs": ("raw",)})
    unknown = Complexity(
        live_features=Number.null("no codes"), bits_per_token=Number.null("no codes"), features=None
    )
    return [
        synthetic_record(bare, name="bare", measurement=few, complexity=unknown),
        synthetic_record(plain, name="relu-sae-16k-seed-0-of-5", bits=180.0),
        synthetic_record(
            huge,
            name="name-of-thirty-two-characters-ab",
            bits=12345.6,
            warnings=["few calibration tokens: 5,000 for 576 dimensions, where at least 2,880 are wanted"],
            checks={"true_equals_clean": Check(passed=False, value=2e-3, limit=1e-4, note="see docs")},
        ),
    ]


def test_the_table_fits_80_columns(records: list[Record]) -> None:
    lines = render(records).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "".join(lines).count("…") == 1  # of a long name; nothing else was cut off to make it fit


def test_the_table_says_what_matters(records: list[Record]) -> None:
    text = render(records)
    record = records[1]
    for key in ("kl_raw", "kl_gaussian", "gaussian_ratio"):
        number = number_of(record, key)
        assert format_interval(number, short=True) in text
        assert format_value(number.value) in text
        assert f"{QUANTITIES[key].heading}: {QUANTITIES[key].about}." in " ".join(text.split())
    for needed in (
        "family/task, version 1-0, tier quick",
        f"{record.documents.tokens:,} scored tokens of 12 documents",
        "clean loss 2.48",
        "relu-sae-16k-seed-0-of-5",
        "rung full was not measured",
        "no codes",
        "nats per scored token",
    ):
        assert needed in " ".join(text.split())


@pytest.mark.parametrize("format", ["table", "markdown", "latex"])
def test_troubles_are_shown(records: list[Record], format: str) -> None:
    text = " ".join(render(records, format).split())
    assert "check true_equals_clean failed (value 0.002, limit 0.0001, see docs)" in text
    assert "few calibration tokens" in text


def test_a_nested_record_says_what_stands_for_the_model(records: list[Record]) -> None:
    fine = SubmissionInfo(
        name="fine-one",
        kind="reconstruction",
        files={},
        hash="0" * 64,
        method=MethodInfo(format=None),
    )
    nested = records[0].model_copy(update={"reference": fine})
    text = " ".join(render([records[0], nested]).split())
    assert text.count(" KL Gaussian ") == 2  # two tables: their clean losses are of different things
    assert "(of fine-one, which stands for the model)" in text
    assert list(rows([records[0], nested])["reference"]) == ["", "fine-one"]


def test_what_is_said_of_several_records_is_said_once(records: list[Record]) -> None:
    same = [record.model_copy(update={"warnings": ("few tokens",)}) for record in records[:2]]
    other = records[2].model_copy(update={"warnings": ("no tokens",)})
    lines = [line for line in troubles([*same, other]) if line.startswith("!")]
    names = ", ".join(record.submission.name for record in same)
    assert lines == [f"! {names}: few tokens", f"! {other.submission.name}: no tokens"]


def test_rows_go_by_bits_with_unknown_bits_last(records: list[Record]) -> None:
    assert list(rows(records)["submission"]) == [
        "relu-sae-16k-seed-0-of-5",
        "name-of-thirty-two-characters-ab",
        "bare",
    ]


def test_rows_hold_the_numbers_of_the_record(records: list[Record]) -> None:
    frame = rows(records).set_index("submission")
    record = records[1]
    row = frame.loc[record.submission.name]
    gap = record.metrics.rungs["full"].quenched.gap
    assert (row["gap_gaussian"], row["gap_gaussian_low"], row["gap_gaussian_high"]) == (
        gap.value,
        gap.low,
        gap.high,
    )
    assert row["gaussian_ratio"] == record.metrics.gaussian_ratio.fitted.value
    assert row["explained_variance"] == record.metrics.reconstruction.explained_variance.value
    assert row["features"] == 512
    assert pd.isna(frame.loc["bare", "gap_gaussian"])
    assert frame.loc["name-of-thirty-two-characters-ab", "failed_checks"] == "true_equals_clean"


def test_csv_and_json_are_the_rows(records: list[Record]) -> None:
    frame = rows(records)
    read = pd.read_csv(
        io.StringIO(render(records, "csv")), keep_default_na=False, na_values={"gap_raw": [""]}
    )
    assert list(read.columns) == list(frame.columns)
    assert list(read["gap_raw"]) == list(frame["gap_raw"])
    content = json.loads(render(records, "json"))
    assert [row["kl_raw"] for row in content] == list(frame["kl_raw"])
    assert content[2]["gap_gaussian"] is None


def test_markdown_is_one_table_with_every_quantity(records: list[Record]) -> None:
    table = [line for line in render(records, "markdown").splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(records)
    (heading,) = {line.count("|") for line in table}
    assert heading == 2 + len(applicable(records))
    for key in ("bits_per_token", "l0", "kl_raw", "kl_gaussian", "gap_raw", "gap_gaussian", "gaussian_ratio"):
        assert f" {QUANTITIES[key].heading} " in table[0]
    gap = number_of(records[1], "gap_raw")
    assert f"{format_value(gap.value)} {format_interval(gap)}" in table[2]


def test_where_codes_are_paid_for_the_table_is_of_them() -> None:
    values = with_coding(synthetic_values())
    record = synthetic_record(values, name="sae")
    assert [column.key for column in default_columns([record])] == [
        "bits_per_token",
        "kl_coded",
        "efficiency",
    ]
    text = render([record, synthetic_record(synthetic_values(), name="exact")])
    assert max(map(len, text.splitlines())) <= 80
    (heading,) = (line for line in text.splitlines() if line.startswith("Submission"))
    assert heading.split() == ["Submission", "Bits", "KL", "coded", "efficiency"]
    for key in ("kl_coded", "efficiency"):
        assert format_interval(number_of(record, key), short=True) in text
    assert "its codes were not spliced in" in text


def test_the_second_score_stands_in_a_table_in_which_any_row_has_it() -> None:
    without = synthetic_record(with_coding(synthetic_values()), name="without")
    number = Number.bare(0.3, "made up")
    parts = RatioParts(even=number, odd=number, small=number, mean_kl=number, factors={}, others={})
    annealed = AnnealedMetrics(loss=number, gap=number, draws=8, nested={})
    full = without.metrics.rungs["full"].model_copy(update={"annealed": annealed})
    rungs = without.metrics.rungs | {"full": full}
    metrics = without.metrics.model_copy(update={"ratio_parts": parts, "rungs": rungs})
    record = without.model_copy(update={"metrics": metrics})
    assert [column.key for column in default_columns([without, record])] == list(SITE_COLUMNS)
    assert SITE_COLUMNS[-2:] == SECOND_COLUMNS
    assert [column.key for column in default_columns([without])] == list(SITE_COLUMNS[:-2])


def test_columns_are_there_on_demand(records: list[Record]) -> None:
    text = render(records, columns=["l0", "gap_raw"])
    assert "L0" in text
    assert "Δ raw" in text
    assert "KL raw" not in text
    every = render(records, columns=["all"])
    assert max(map(len, every.splitlines())) <= 80
    for quantity in applicable(records):
        assert (quantity.short if quantity.is_cost else quantity.heading).lower() in every.lower()
    table = [line for line in render(records, "markdown", columns=["l0"]).splitlines() if line[0:1] == "|"]
    assert table[0].count("|") == 3
    with pytest.raises(RecordError, match=r"no column 'kl_rav'.*\n.*kl_raw"):
        render(records, columns=["kl_rav"])
    # What is like nothing is not taken for what it is farthest from: all names there are are told.
    for word in ("nonsense", "zzz"):
        with pytest.raises(RecordError, match=r"choose from: ") as caught:
            render(records, columns=[word])
        assert all(key in str(caught.value) for key in QUANTITIES)


def with_rungs(*names: str) -> Record:
    """A record that has further rungs, copies of `full`."""
    values = synthetic_values()
    full = values[values["rung"] == "full"]
    every = pd.concat([values, *(full.assign(rung=name) for name in names)], ignore_index=True)
    stated = synthetic_record(values).measurement
    rungs = (*stated.rungs, *names)
    return synthetic_record(every, measurement=stated.model_copy(update={"rungs": rungs}))


def test_a_rung_that_was_asked_for_is_shown_and_no_other() -> None:
    record = with_rungs("linear", "temporal")
    assert "linear" not in render([record])
    lines = render([record], rungs=["raw", "full", "linear"]).splitlines()
    (row,) = (line for line in lines if " linear " in line)
    number = record.metrics.rungs["linear"].quenched.gap
    assert f"{number.value:.3f}" in row
    assert format_interval(number, short=True) in lines[lines.index(row) + 1]
    assert max(map(len, lines)) <= 80
    assert not any("temporal" in line for line in lines)
    for format in ("markdown", "latex", "csv", "json"):
        shown = render([record], format, rungs=["linear"])
        assert "linear" in shown
        assert "linear" not in render([record], format)
    row = rows([record], rungs=["linear"]).iloc[0]
    assert (row["gap_linear"], row["kl_linear_low"]) == (
        number.value,
        record.metrics.rungs["linear"].quenched.kl.low,
    )
    assert number_of(record, "gap_linear") == number


def test_a_rung_that_could_not_be_measured_is_shown_with_the_reason() -> None:
    record = with_rungs("linear")
    stated = record.measurement.model_copy(update={"unmeasured": {"temporal": "the windows are too short"}})
    record = record.model_copy(update={"measurement": stated})
    text = " ".join(render([record], rungs=["temporal"]).split())
    assert "temporal" in text
    assert "the windows are too short" in text


def test_of_many_rungs_the_table_names_the_command_that_shows_them() -> None:
    there = set(synthetic_values()["rung"])
    names = [name for name in RUNGS if name not in there | {"coded"}][:7]
    text = render([with_rungs(*names)], rungs=names)
    assert "Δ on 7 further rungs: remainder explain RECORD" in text
    assert names[0] in render([with_rungs(*names)], rungs=names[:6])


def test_a_quantity_that_is_added_is_shown_everywhere(
    records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Quantity("accuracy_raw", "Acc. raw", "Right answers", right_answers, unit="as a share")
    monkeypatch.setitem(QUANTITIES, new.key, new)  # type: ignore[arg-type]
    value = right_answers(records[0]).value
    assert rows(records).set_index("submission").loc["bare", "accuracy_raw"] == value
    assert "Acc. raw" in render(records, "markdown")
    stored = StoredRecord(records[1], canonical_values(synthetic_values()))
    assert "accuracy_raw" in [row.key for row in compare_records(stored, stored).differences]


def right_answers(record: Record) -> Number:
    return record.metrics.rungs["raw"].quenched.accuracy


def test_latex_needs_no_packages_for_its_signs(records: list[Record]) -> None:
    body = [line for line in render(records, "latex").splitlines() if not line.startswith("%")]
    assert "\n".join(body).isascii()
    assert body[0].startswith(r"\begin{tabular}")


def test_tasks_and_tiers_get_tables_of_their_own(records: list[Record]) -> None:
    other = synthetic_record(synthetic_values(), tier="full", name="elsewhere")
    text = render([*records, other])
    assert text.count("Submission") == 2
    assert text.index("elsewhere") < text.index("tier quick")


def test_names_are_text_not_markup(records: list[Record]) -> None:
    odd = synthetic_record(synthetic_values(), name="[red]a|b_c:smile:")
    assert "[red]a|b_c:smile:" in render([odd])
    assert "a\\|b_c" in render([odd], "markdown")
    assert r"b\_c" in render([odd], "latex")


def test_colour_only_when_asked(records: list[Record]) -> None:
    assert "\x1b[" not in render(records)
    assert "\x1b[" in render(records, color=True)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_ends_with_one_newline(records: list[Record], format: str) -> None:
    text = render(records, format)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_unknown_formats_and_no_records_are_errors(records: list[Record]) -> None:
    with pytest.raises(RecordError, match=r"'html'.*\n.*markdown"):
        render(records, "html")
    with pytest.raises(RecordError, match="no record to show"):
        render([])


@pytest.mark.parametrize(
    ("value", "low", "high", "shown", "interval"),
    [
        (0.4512, 0.401, 0.512, "0.451", "[0.401, 0.512]"),
        (-0.012, -0.03, 0.001, "-0.012", "[-0.030, 0.001]"),
        (3.14159, 3.0, 3.5, "3.14", "[3.00, 3.50]"),
        (31.4159, 30.0, 35.0, "31.4", "[30.0, 35.0]"),
        (3141.59, 3000.0, 3500.0, "3142", "[3000, 3500]"),
        (0.00036, -0.0018, 0.0011, "0.0004", "[-0.0018, 0.0011]"),
        (0.00002, 0.00001, 0.00004, "2.0e-5", "[1.0e-5, 4.0e-5]"),
        (0.0, 0.0, 0.0, "0.000", "[0.000, 0.000]"),
    ],
)
def test_decimals_follow_size_and_interval(
    value: float, low: float, high: float, shown: str, interval: str
) -> None:
    number = Number(value=value, low=low, high=high)
    assert Notes().cell(number) == f"{shown} {interval}"


def test_short_intervals_drop_leading_zeros() -> None:
    assert format_interval(Number(value=0.1, low=-0.05, high=0.3), short=True) == "[-.050,.300]"
    assert format_interval(Number(value=10.1, low=10.05, high=20.0), short=True) == "[10.1,20.0]"


def test_one_footnote_per_reason() -> None:
    notes = Notes()
    assert [notes.cell(Number.null(reason)) for reason in ("one", "two", "one")] == ["–¹", "–²", "–¹"]
    assert notes.lines() == ["¹ one", "² two"]


def test_a_long_name_is_cut_in_the_middle_in_the_table_only() -> None:
    values = synthetic_values()
    long = "a-very-long-name-of-a-submission-at-40-x"
    other = long.replace("name-of-a", "none-of-a")
    one = synthetic_record(values, name=long)
    table = render([one, synthetic_record(values, name="n" * 24)])
    assert "a-very-long-…ion-at-40-x" in table
    assert "n" * 24 in table
    assert long in render([one], "markdown")
    assert long in render([one], "csv")
    both = render([one, synthetic_record(values, name=other)], width=100)
    assert "…" not in both.partition("Δ:")[0]  # they would look the same
