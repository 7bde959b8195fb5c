"""The draw of documents: whoever alters a quarter of them is met, however often it is pushed again."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import random
import shutil
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.verify import Verdict
from remainder.errors import RecordError
from remainder.publish.draws import PATIENCE, SHARE, number_drawn, read_draws, settings_of
from remainder.publish.remeasure import choose_documents
from remainder.record.store import StoredRecord, read_record, values_path

COUNTS = (1, 2, 3, 4, 5, 8, 15, 25, 30, 32, 33, 40, 44, 60, 64, 128, 1000)
"""Numbers of documents: those of the committed records (30 to 128), of the smallest tiers, and others."""


def record_of(documents: int) -> StoredRecord:
    values = synthetic_values(documents=documents, windows=1)
    return StoredRecord(synthetic_record(values), values)


def missed(documents: int, altered: int, drawn: int) -> Fraction:
    """Probability that none of the altered documents is drawn (hypergeometric)."""
    return Fraction(math.comb(documents - altered, drawn), math.comb(documents, drawn))


@pytest.mark.parametrize("documents", COUNTS)
def test_no_choice_of_a_quarter_avoids_the_draw(documents: int) -> None:
    drawn = number_drawn(documents)
    altered = math.ceil(documents / 4)
    assert 1 <= drawn <= documents
    assert all(missed(documents, more, drawn) == 0 for more in range(altered, documents + 1))
    # The least such number: with one document fewer somebody could get through.
    assert drawn == 1 or missed(documents, altered, drawn - 1) > 0
    assert number_drawn(documents, PATIENCE - 1) == drawn
    assert number_drawn(documents, PATIENCE) == documents


def test_the_formula_is_a_count_of_all_draws() -> None:
    """Of 8 documents, all subsets one by one."""
    for altered in range(9):
        for drawn in range(9):
            draws = list(combinations(range(8), drawn))
            free = sum(all(document >= altered for document in draw) for draw in draws)
            assert Fraction(free, len(draws)) == missed(8, altered, drawn)


def test_four_documents_were_too_few() -> None:
    """What the review drew before: of 32 documents with 8 altered, every third push passed."""
    assert 1 / float(missed(32, 8, 4)) == pytest.approx(3.38, abs=0.01)


@pytest.mark.parametrize("share", [SHARE, Fraction(1, 8)])
def test_pushes_again_and_again(share: Fraction) -> None:
    """Each push is another record, with the HMAC of its id as key; the forger needs one that passes."""
    stored = record_of(32)
    names = sorted(stored.values["document"].unique())
    wins = 0
    rng = random.Random(1)
    for campaign in range(60):
        altered = set(rng.sample(names, math.ceil(share * len(names))))
        for push in range(20):
            record_id = hashlib.sha256(f"{campaign} {push}".encode()).hexdigest()
            key = hmac.digest(b"s" * 32, record_id.encode(), "sha256").hex()
            settings = settings_of(stored.record, key, failed=push)
            chosen = choose_documents(stored, settings["documents"], settings["seed"], settings["nonce"])
            if altered.isdisjoint(chosen):
                wins += 1
                break
    # An eighth: three pushes with the chance of C(28, 25) / C(32, 25) each, and none afterwards.
    once = float(missed(32, math.ceil(share * 32), 25))
    expected = 60 * (1 - (1 - once) ** PATIENCE)
    assert wins <= expected + 4 * math.sqrt(expected)
    assert share < SHARE or wins == 0


def test_the_same_record_draws_the_same() -> None:
    stored = record_of(32)
    first, second = (settings_of(stored.record, letter * 64) for letter in "ab")

    def chosen(settings: dict[str, object]) -> tuple[str, ...]:
        return choose_documents(stored, 25, str(settings["seed"]), str(settings["nonce"]))

    assert chosen(first) == chosen(dict(first))
    assert chosen(first) != chosen(second)
    assert settings_of(stored.record, "a" * 64, documents=3)["documents"] == 3


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"a": "b"}', f'{{"{"a" * 64}": 1}}', f'{{"{"a" * 64}": "{"A" * 64}"}}', "[" * 100_000],
)
def test_what_is_no_file_of_draws_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "draws.json"
    path.write_text(text)
    with pytest.raises(RecordError, match="draws"):
        read_draws(path)


def test_draws_are_read(tmp_path: Path) -> None:
    path = tmp_path / "draws.json"
    path.write_text(json.dumps({"a" * 64: "b" * 64}))
    assert read_draws(path) == {"a" * 64: "b" * 64}


def test_draws_say_which_records_are_measured_again(
    remainder: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two has a key; that it cannot be measured stops nothing, and fails the command at its end."""
    results = tmp_path / "results"
    sources = sorted((project_root() / "leaderboard/results/tiny/induction").glob("*/*/*.json"))[:2]
    for path in sources:
        for file in (path, values_path(path)):
            target = results / file.relative_to(project_root() / "leaderboard/results")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    draws = tmp_path / "draws.json"
    draws.write_text(json.dumps({sources[0].stem: "a" * 64}))
    asked: list[tuple[Path, dict[str, Any]]] = []

    def measure_afresh(plans: dict[Path, dict[str, Any]]) -> Iterator[tuple[Path, RecordError]]:
        asked.extend(plans.items())
        yield from ((path, RecordError("no machine")) for path in plans)

    def sound(roots: list[Path], *, jobs: int | None) -> list[Verdict]:
        (root,) = roots
        return [Verdict(path, read_record(path).record, (), root) for path in sorted(root.rglob("*.json"))]

    monkeypatch.setattr("remainder.publish.afresh.measure_afresh", measure_afresh)
    monkeypatch.setattr("remainder.board.verify.verify_paths", sound)
    done = remainder("verify", results, "--write", "--rerun", "--draws", draws)
    assert done.code == 1, done.err
    assert "could not be measured again: no machine" in done.err
    ((path, settings),) = asked
    assert path.stem == sources[0].stem
    assert settings == {**settings_of(read_record(path).record, "a" * 64), "trust_code": False}
    # It stays without a verdict, which is what the board's job takes for new, and so is tried again.
    assert {path.stem for path in (tmp_path / "verifications").glob("*.json")} == {sources[1].stem}
    for more in (("--nonce", "n"), ("--documents", 3)):
        refused = remainder("verify", results, "--rerun", "--draws", draws, *more)
        assert f"and so does {more[0]}" in " ".join(refused.err.split())
    assert "add --rerun" in " ".join(remainder("verify", results, "--draws", draws).err.split())
