"""What the pages say of rows besides numbers: order, resolution, makers, badges, data, changes."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from statistics import pstdev

import pytest
from synthetic_board import small_board

from remainder.base.paths import project_root
from remainder.board.badges import badge_name, write_badges
from remainder.board.changes import changes_between
from remainder.board.data import BoardFile, csv_text, json_text, rows_of
from remainder.board.makers import copy_texts, maker_of
from remainder.board.merge import BoardRow, folders_of_tasks, read_entries
from remainder.board.resolution import resolution
from remainder.board.second_order import second_order
from remainder.board.view import Board, boards
from remainder.record.find import fullest_record
from remainder.record.metrics import AnnealedMetrics
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.store import read_summary
from remainder.report.quantities import number_of


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[BoardRow]:
    results = tmp_path_factory.mktemp("results")
    small_board(results)
    return read_entries(results, folders_of_tasks(results)["family/task"])[0]


@pytest.fixture(scope="module")
def board(entries: list[BoardRow]) -> Board:
    (found,) = boards(entries)
    return found


def named(entries: list[BoardRow], name: str) -> BoardRow:
    """The current entry of that name that stands in the main table."""
    (found,) = (
        one for one in entries if one.record.submission.name == name and one.current and not one.is_nested
    )
    return found


def test_two_rows_are_told_apart_by_a_few_standard_errors_of_their_paired_difference(
    entries: list[BoardRow],
) -> None:
    first, second = named(entries, "even"), named(entries, "equal")
    found = resolution([first, second], "raw")
    assert found is not None
    tokens = first.sums.tokens
    losses = first.sums.kl["raw"] - second.sums.kl["raw"]
    # The jackknife: the difference of the ratios without each document in turn.
    count = len(tokens)
    without = [(losses.sum() - losses[d]) / (tokens.sum() - tokens[d]) for d in range(count)]
    error = pstdev(without) * (count - 1) ** 0.5
    # Student's quantile with 11 degrees of freedom is 2.2; the bootstrap of twelve documents is no finer.
    assert 1.7 * error < found.middle < 4 * error
    means = [one.sums.kl["raw"].sum() / tokens.sum() for one in (first, second)]
    assert found.share == pytest.approx(found.middle / (sum(means) / 2))
    assert (found.least, found.most, found.pairs, found.documents) == (found.middle, found.middle, 1, 12)
    assert found.trained
    assert resolution([first], "raw") is None
    assert f"{found.middle:.2g} nats" in found.sentence


def annealed(entry: BoardRow, value: float) -> BoardRow:
    """The entry with a Δ annealed of a narrow interval."""
    number = Number(value=value, low=value - 0.01, high=value + 0.01)
    metrics = entry.record.metrics
    full = metrics.rungs["full"].model_copy(
        update={"annealed": AnnealedMetrics(loss=number, gap=number, draws=8, nested={})}
    )
    changed = metrics.model_copy(update={"rungs": metrics.rungs | {"full": full}})
    return replace(entry, record=entry.record.model_copy(update={"metrics": changed}))


def test_the_second_order_is_by_the_size_of_the_gap_and_says_where_it_differs(
    entries: list[BoardRow],
) -> None:
    good, even, equal = (named(entries, name) for name in ("good", "even", "equal"))
    assert second_order([good, even, equal], "raw") is None
    # By KL `good` comes first; a large gap below 0 is no better than one above it.
    found = second_order([annealed(good, -0.9), annealed(even, 0.2), annealed(equal, 0.205)], "raw")
    assert found is not None
    assert found.names == ("even", "equal", "good")
    assert found.pairs == 3
    assert set(found.turned) == {("even", "good"), ("equal", "good")}
    kl = [number_of(one.record, "kl_raw").value or 0.0 for one in (even, equal)]
    assert found.unsure == (kl[0] > kl[1])


def test_data_for_scripts_have_every_row_with_the_numbers_of_its_record(board: Board) -> None:
    rows = rows_of(board)
    text = json_text(rows, "2", None)
    read = BoardFile.model_validate_json(text)
    assert [row.submission for row in read.rows] == [row.entry.record.submission.name for row in board.rows]
    lines = list(csv.DictReader(io.StringIO(csv_text(rows))))
    for row, line, shown in zip(read.rows, lines, board.rows, strict=True):
        assert line["record_id"] == row.record_id == shown.entry.record.record_id
        number = number_of(shown.entry.record, "kl_raw")
        assert row.numbers["kl_raw"].value == number.value
        assert [float(line[f"kl_raw{end}"]) for end in ("", "_low", "_high")] == [
            number.value,
            number.low,
            number.high,
        ]
        assert line["kl_coded"] == ""
        assert "kl_coded" not in row.numbers
    formula = rows[0].model_copy(update={"submission": "=HYPERLINK()"})
    assert next(csv.DictReader(io.StringIO(csv_text([formula]))))["submission"].startswith("'=")


def test_a_badge_is_sound_and_only_of_rows_that_have_a_score(board: Board, tmp_path: Path) -> None:
    row = next(row for row in board.rows if row.entry.record.submission.name == "good")
    assert badge_name(row) == ""  # neither efficiency nor place
    cell = row.cells["efficiency"]._replace(value="0.3<&", order="0.3")
    scored = row._replace(cells=row.cells | {"efficiency": cell})
    assert badge_name(scored) == "badges/family.task.good"
    write_badges(board._replace(rows=(scored,)), tmp_path)
    drawn = ET.fromstring((tmp_path / "badges/family.task.good.svg").read_text(encoding="utf-8"))
    assert drawn.attrib["aria-label"] == "remainder family/task: efficiency 0.3<&"
    left, right = (one for one in drawn.iter() if one.tag.endswith("}text"))
    assert float(right.attrib["x"]) - float(left.attrib["x"]) > float(left.attrib["textLength"]) / 2
    odd = scored.entry.record.submission.model_copy(update={"name": "gооd"})  # of Cyrillic letters
    record = scored.entry.record.model_copy(update={"submission": odd})
    assert badge_name(scored._replace(entry=replace(scored.entry, record=record))) == ""


@pytest.fixture(scope="module")
def real() -> Record:
    """The record of an autoencoder that comes with the benchmark."""
    results = project_root() / "leaderboard" / "results"
    return read_summary(fullest_record(results / "smollm2-135m" / "resid-15" / "2" / "topk-sae-16"))


def test_the_maker_is_known_by_the_hashes_of_the_files(real: Record, tmp_path: Path) -> None:
    maker = maker_of(real)
    assert maker is not None
    assert maker.authors == ("Remainder contributors",)
    links = {link.word: link for link in maker.links}
    assert links["weights"].where == "baselines/topk-sae-16/weights"
    assert links["log"].href == "submissions/topk-sae-16/train.log"
    assert links["code"].href == "submissions/train.py"
    copy_texts(real, tmp_path)
    log = project_root() / "baselines/topk-sae-16/train.log"
    assert (tmp_path / "submissions/topk-sae-16/train.log").read_bytes() == log.read_bytes()
    circuits = project_root() / "leaderboard" / "results" / "smollm2-135m" / "ioi" / "2"
    # A circuit of features names files of other baselines, from which it is made.
    assert maker_of(read_summary(fullest_record(circuits / "feature-circuit"))) is not None
    files = dict.fromkeys(real.submission.files, "0" * 64)
    other = real.submission.model_copy(update={"files": files})
    assert maker_of(real.model_copy(update={"submission": other})) is None


def test_what_changed_is_told_by_place_and_id() -> None:
    before = {"a/b/1/same/1.json": "1", "a/b/1/moved/2.json": "2", "a/b/1/gone/3.json": "3"}
    after = {"a/b/1/same/1.json": "1", "a/b/1/moved/4.json": "4", "a/b/2/fresh/5.json": "5"}
    found = changes_between(before, after, ("2026.12", ""))
    assert [(one.task, one.name, one.what, one.before, one.after) for one in found.rows] == [
        ("a/b/1", "gone", "gone", ("3",), ()),
        ("a/b/1", "moved", "replaced", ("2",), ("4",)),
        ("a/b/2", "fresh", "new", (), ("5",)),
    ]
    assert (found.same, found.count("new"), sorted(found.by_task)) == (1, 1, ["a/b/1", "a/b/2"])
    assert changes_between(after, after, ("", "")).rows == ()
