"""Forged records are caught by `remainder verify`, or the field stands in docs/threats.md."""

from __future__ import annotations

import copy
import io
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from forging import (
    Original,
    Place,
    comes_with_the_benchmark,
    committed_records,
    copies,
    edited,
    fields,
    plain,
    put,
    read,
    remade,
    remember_values,
    resealed,
    root_of,
    seal,
    smallest_of_every_sort,
    write,
)
from threat_lists import fits, is_listed, listed, never, only_measuring

from remainder.board import consistency
from remainder.board.shelf import archives, results_folder
from remainder.board.verify import Shelf, Verdict, verify_record
from remainder.errors import RecordError
from remainder.interpretation.rules import Conformance
from remainder.measure.checks import CIRCUIT_LIMIT, DECODED_LIMIT, TRUE_LIMIT
from remainder.record import recompute as recompute_module
from remainder.record.json import canonical_json, sha256
from remainder.record.schema import MethodInfo
from remainder.record.store import read_record, values_path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Original]:
    """A record of every sort, in a copy of all that lies beside them."""
    return copies(smallest_of_every_sort(), tmp_path_factory.mktemp("board") / "results")


@pytest.fixture(scope="module")
def remembered() -> Iterator[None]:
    """What depends on the values alone is computed once: a thousand forgeries share a few tables."""
    with pytest.MonkeyPatch.context() as patch:
        remember_values(patch)
        yield


def forge(original: Original, place: Place, value: Any, shelf: Shelf) -> Verdict:
    """The verdict on a record with one field edited and every hash computed anew; it is gone afterwards."""
    content = copy.deepcopy(original.content)
    put(content, place, value)
    # Of nested interpretations the folder is named by hand; any other record goes where its name says.
    folder = original.folder if original.content["reference"] else None
    path = write(seal(content), original.values, shelf.root, folder)
    assert path != original.path
    try:
        return verify_record(path, shelf)
    finally:
        path.unlink()
        values_path(path).unlink()


@pytest.mark.parametrize("count", [3, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_random_edit_is_caught_or_its_field_is_on_the_page(
    count: int, originals: list[Original], remembered: None
) -> None:
    patterns, chance = [*only_measuring(), *never()], random.Random(count)
    shelf = Shelf(root_of(originals[0]))
    slipped, numbers, tried = [], 0, count
    while count:
        original = chance.choice(originals)
        place, value = chance.choice(fields(original.content))
        new = edited(value, chance)
        if canonical_json(new) == canonical_json(value) or place == ("reference",):
            continue  # a reference made of nothing has no hash to be sealed with
        count -= 1
        numbers += isinstance(value, (int, float))
        if forge(original, place, new, shelf).passed and not is_listed(place, patterns):
            slipped.append((".".join(map(str, place)), value, new))
    assert slipped == []
    assert numbers > tried / 4


def places_of(originals: list[Original]) -> set[Place]:
    """Every place of a field in any record, once."""
    return {place for original in originals for place, _ in fields(original.content)}


def of_pattern(originals: list[Original], pattern: str) -> list[tuple[Original, Place, Any]]:
    """All fields of all records that a pattern names."""
    return [
        (original, place, value)
        for original in originals
        for place, value in fields(original.content)
        if fits(place, pattern)
    ]


def test_every_field_on_the_page_exists(originals: list[Original]) -> None:
    patterns = [*only_measuring(), *never()]
    assert len(patterns) == len(set(patterns)) > 20
    # Some are of tasks that have records in the archive alone.
    old = [Original(path, read(path)[0], b"") for path in archives(results_folder())[0].rglob("*.json")]
    places = places_of([*originals, *old])
    missing = {pattern for pattern in patterns if not any(fits(place, pattern) for place in places)}
    newer = (
        "provenance.threads",
        "provenance.cpu",
        "provenance.tokens",
        "provenance.tf32",
        "complexity.coding.",
        "checks.decoded_",
        "calibration.description.folds",  # and only where calibration has tokens enough
    )  # than some committed records
    assert [pattern for pattern in missing if not pattern.startswith(newer)] == []


def sparse() -> Path:
    """The smallest committed record some of whose latents are silent: their number may be more or fewer."""

    def may_move(cost: dict[str, Any]) -> bool:
        live = cost["live_features"]["value"]
        return live is not None and cost["features"] is not None and live < cost["features"]

    sizes = {
        path: content["documents"]["rows"]
        for path, content in committed_records().items()
        if comes_with_the_benchmark(content) and may_move(content["complexity"])
    }
    return min(sizes, key=sizes.__getitem__)


@pytest.mark.slow
def test_no_field_on_the_page_is_caught(remembered: None, tmp_path: Path) -> None:
    """Else the page would promise less than is kept."""
    originals = copies([*smallest_of_every_sort(), sparse()], tmp_path / "results")
    shelf, chance = Shelf(root_of(originals[0])), random.Random(1)
    caught = []
    for pattern in [*only_measuring(), *never()]:
        there = of_pattern(originals, pattern)
        if all(value is None for _, _, value in there):
            continue  # no record by this protocol has such a figure
        chance.shuffle(there)
        edits = ((one, place, edited(value, chance)) for one, place, value in there[:10] for _ in range(16))
        if not any(forge(one, place, new, shelf).passed for one, place, new in edits):
            caught.append(pattern)
    assert caught == []


def test_fields_of_a_submission_that_is_not_here_are_on_the_page(tmp_path: Path, remembered: None) -> None:
    known = committed_records()
    # What a task brings itself has no files.
    path = next(
        (p for p in known if known[p]["submission"]["files"] and not comes_with_the_benchmark(known[p])), None
    )
    if path is None:
        pytest.skip("every record is of a submission that comes with the benchmark")
    (original,) = copies([path], tmp_path / "results")
    shelf, chance = Shelf(tmp_path / "results"), random.Random(2)
    unknown, always = listed("Fields of a submission that is not here"), [*only_measuring(), *never()]
    for pattern in unknown:
        places = [(place, value) for place, value in fields(original.content) if fits(place, pattern)]
        assert places, pattern
        assert any(forge(original, place, edited(value, chance), shelf).passed for place, value in places)
    for place, value in chance.sample(fields(original.content), 20):
        if not is_listed(place, [*unknown, *always]) and place != ("reference",):
            assert not forge(original, place, edited(value, chance), shelf).passed, place


def test_an_end_that_rounding_moves_is_held_to_what_rounding_does() -> None:
    """Platforms once put the lower end of this ratio, 0.8, at −0.939 to −0.912; on its scale all agree."""
    (path,) = archives(results_folder())[0].rglob("fde8adc153f6*.json")
    old, values = read_record(path)
    record = resealed(old, values, MethodInfo(format="pca"))  # its summaries are those of today's formulas
    for place, number, caught in (
        ("gaussian_ratio.isotropic.low", record.metrics.gaussian_ratio.isotropic.low, False),
        ("gaussian_ratio.isotropic.low", -0.92, True),
        ("gaussian_ratio.isotropic.low", 0.2, True),
        ("gaussian_ratio.isotropic.value", 0.8001, True),
        ("rungs.full.quenched.loss.low", 2e-7, True),
    ):
        content = record.model_dump(mode="json")
        put(content, ("metrics", *place.split(".")), number)
        forged = record.model_validate(content)
        if caught:
            with pytest.raises(RecordError, match=f"metrics.{place}: "):
                recompute_module.recompute(forged, values)
        else:
            recompute_module.recompute(forged, values)


@pytest.mark.parametrize("column", ["loss", "kl", "top1", "correct", "tokens", "residual_ss", "active"])
def test_values_that_are_edited_contradict_the_summaries(originals: list[Original], column: str) -> None:
    """With the hash of the values computed anew."""
    original = plain(originals)
    root = root_of(original)
    table = pd.read_csv(io.BytesIO(original.values), dtype=str, keep_default_na=False)
    rows = table.index[(table["split"] == "evaluation") & (table["rung"] == "raw")]
    row = max(rows, key=lambda row: float(table.loc[row, column]))  # a small one moves no digit of a mean
    value = float(table.loc[row, column])
    is_sum = column in ("loss", "kl", "residual_ss")
    table.loc[row, column] = f"{value * 0.9:.9g}" if is_sum else f"{value - 1:g}"
    data = table.to_csv(index=False, lineterminator="\n").encode()
    content = copy.deepcopy(original.content)
    content["documents"]["sha256"] = sha256(data)
    path = write(seal(content), data, root, original.folder)
    try:
        assert not verify_record(path, Shelf(root)).passed
    finally:
        path.unlink()
        values_path(path).unlink()


@pytest.mark.parametrize("format", ["identity", "edge-attribution"])
def test_a_format_that_is_not_the_submissions_is_caught(originals: list[Original], format: str) -> None:
    original = plain(originals)
    path = remade(original, root_of(original), lambda values: values, format)
    try:
        verdict = verify_record(path, Shelf(root_of(original)))
    finally:
        path.unlink()
        values_path(path).unlink()
    assert any(fault.startswith(f"submission.method.format: {format!r}") for fault in verdict.faults)


def test_a_forger_who_changes_values_and_summaries_alike_gets_through(
    originals: list[Original], tmp_path: Path
) -> None:
    """As docs/threats.md says: losses of one rung, lowered together; only measuring again tells.

    Beside an honest record of the same content the two would not agree.
    """
    original = plain(originals)

    def lower(values: pd.DataFrame) -> pd.DataFrame:
        values.loc[values["rung"] == "full", "loss"] *= 0.99
        return values

    path = remade(original, tmp_path / "results", lower)
    verdict = verify_record(path, Shelf(tmp_path / "results"))
    assert verdict.passed, verdict.faults


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("kl", "kl is not what its histogram allows"),
        ("clean", r"metrics\.clean\.loss\.value: .* other record\(s\) of this task have"),
        ("true", r"true misses the clean loss|true_equals_clean"),
        ("one true", "true misses the clean loss"),
        ("top1", "top1 is more than tokens"),
        ("active", "more codes are active than there are"),
    ],
)
def test_values_that_could_not_have_been_measured_are_caught(
    originals: list[Original], change: str, fault: str
) -> None:
    def forgery(values: pd.DataFrame) -> pd.DataFrame:
        if change.endswith("true"):  # a check that tasks make on one batch alone: here of all windows
            clean = values.loc[values["rung"] == "clean"].assign(rung="true")
            values = pd.concat([values, clean], ignore_index=True)
        raw, full = values["rung"] == "raw", values["rung"] == "full"
        if change == "kl":
            values.loc[full, "kl"] *= 0.5
        elif change == "clean":
            values.loc[values["rung"].isin(["clean", "true"]), "loss"] *= 1.05  # makes every gap smaller
        elif change == "true":
            values.loc[values.index[values["rung"] == "true"][0], "loss"] *= 1.1
        elif change == "one true":  # and another the other way, so that their mean is as it was
            first, second = values.index[values["rung"] == "true"][:2]
            values.loc[first, "loss"] += 5.0
            values.loc[second, "loss"] -= 5.0
        elif change == "top1":
            values.loc[raw, "top1"] = values.loc[raw, "tokens"] + 1
        else:
            values.loc[raw, "active"] = 1e9
        return values

    original = plain(originals)
    path = remade(original, root_of(original), forgery)
    try:
        verdict = verify_record(path, Shelf(root_of(original)))
    finally:
        path.unlink()
        values_path(path).unlink()
    assert re.search(fault, "\n".join(verdict.faults)), verdict.faults


def test_limits_are_those_that_are_measured_with() -> None:
    assert {
        "true_equals_clean": TRUE_LIMIT,
        "conformance": Conformance._field_defaults["limit"],
        "decoded_calibration": DECODED_LIMIT,
        "decoded_evaluation": DECODED_LIMIT,
        "full_equals_clean": CIRCUIT_LIMIT,
        "empty_equals_counterfactual": CIRCUIT_LIMIT,
    } == consistency.LIMITS


def test_committed_records_of_every_sort_pass(originals: list[Original]) -> None:
    shelf = Shelf(root_of(originals[0]))
    found = [verify_record(original.path, shelf) for original in originals]
    assert [(verdict.path.name, verdict.faults) for verdict in found if not verdict.passed] == []
