"""Forged records, hashes made anew: what moves a place is caught, and what is not caught is on the page.

By files alone, or else by measuring again the documents that a review draws; docs/threats.md has the counts.
Records of tiny/digits are treated as ranked, since checks like these give no places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from forgeries import (
    OTHERS,
    PLACING,
    Forged,
    Ranking,
    caught_by,
    forgeries,
    gone,
    kl_of,
    moved,
    patched,
    ranking,
)
from forging import Original, read, remember_values
from threat_lists import is_listed, never, only_measuring

from remainder.board.shelf import Shelf
from remainder.board.tolerance import tolerance_of
from remainder.board.verify import verify_record
from remainder.publish import remeasure
from remainder.record.store import read_summary

NAMES = ("digits-pca-4", "digits-pca-16", "digits-random-16", "digits-topk-sae-8")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranking]:
    found = ranking("tiny/digits", NAMES, tmp_path_factory.mktemp("board") / "results")
    with pytest.MonkeyPatch.context() as patch:
        patched(found, patch)
        remember_values(patch)
        yield found


def test_the_honest_records_pass_both_checks(ranked: Ranking) -> None:
    for original in ranked.originals:
        verdict = verify_record(original.path, Shelf(original.path.parents[4]))
        assert verdict.passed, verdict.faults
        again = remeasure.rerun(original.path, seed="s", nonce="n", documents=10)
        assert again.passed, again.faults
    assert len({kl_of(ranked.record(original)) for original in ranked.originals}) == len(NAMES)


@pytest.mark.parametrize("count", [3, pytest.param(300, marks=pytest.mark.slow)])
def test_every_forgery_that_moves_a_place_is_caught(count: int, ranked: Ranking) -> None:
    caught: Counter[tuple[str, str]] = Counter()
    slipped, placed = [], 0
    for original, forged in forgeries(ranked, PLACING, seed=count):
        if moved(forged, original, ranked):
            placed += 1
            by = caught_by(forged, original, ranked)
            caught[forged.kind, str(by)] += 1
            slipped += [forged] if by is None else []
        gone(forged)
        if placed == count:
            break
    print(dict(caught))
    assert slipped == []
    by_files = sum(number for (_, by), number in caught.items() if by == "files")
    # Neither alone would do: files tell what is impossible, and only the model what is untrue.
    assert by_files > 0
    assert by_files < count or count < 100  # of three, all may be impossible


def is_small(original: Original, forged: Forged) -> bool:
    """Whether a figure of the fit or a cost was changed by less than its tolerance."""
    if forged.place is None or not is_listed(forged.place, only_measuring()):
        return False
    before, after = original.content, read(forged.path)[0]
    for key in forged.place:
        before, after = before[key], after[key]
    tolerance = tolerance_of(read_summary(original.path), same_device=True)
    share = tolerance.relative if forged.place[0] == "complexity" else tolerance.share
    return bool(abs(after - before) <= share * max(abs(before), abs(after)) * 1.01)


@pytest.mark.parametrize("count", [4, pytest.param(700, marks=pytest.mark.slow)])
def test_a_forgery_is_caught_or_its_field_is_on_the_page(count: int, ranked: Ranking) -> None:
    known, files_miss = never(), only_measuring()
    caught: Counter[tuple[str, str]] = Counter()
    wrong = []
    for original, forged in islice(forgeries(ranked, OTHERS, seed=count), count):
        by = caught_by(forged, original, ranked)
        caught[forged.kind, str(by)] += 1
        listed = forged.place is not None and (
            is_listed(forged.place, known) or (by == "measuring" and is_listed(forged.place, files_miss))
        )
        if by is None and not listed and not is_small(original, forged):
            wrong.append(forged)
        if by == "measuring" and forged.place is not None and not listed:
            wrong.append(forged)
        gone(forged)
    print(dict(caught))
    assert wrong == []
