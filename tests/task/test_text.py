"""Reading wiki markup, cutting windows, and splits that never share a document."""

from __future__ import annotations

import bz2
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remainder.errors import AssetError
from remainder.task.spec import CorpusSpec, SplitSpec, WheelSpec
from remainder.task.text import Corpus, build_corpus, read_mediawiki

BOS = 99
SPLITS = ("evaluation", "calibration", "fit")

ARTICLE = """{{Infobox person|name=Nobody|born={{date|1900}}}}
[[File:Face.jpg|thumb|A [[face]] in a caption]]
'''Anna''' was a [[physicist|scholar]] of [[Prague]].<ref name="a/b">A
book.</ref> She &amp; others<ref name=x/> left.
<!-- a remark
of two lines -->
{| class="wikitable"
! Head
|-
| cell
|}
Energy is <math>E = mc^2</math>.

== Life ==
Born ''early'', see [https://example.org the page] and [[:Category:Shown]].{{citation needed}}
<gallery>
Image:One.jpg|caption of one
</gallery>

=== Youth ===
* first
* second

== See also ==
* [[Somebody]]
=== Lists ===
* [[A list]]

== External links ==
* [http://example.org link]
<references/>

== Work ==
Prose again.

[[Category:People]]
[[de:Anna]]
[[zh-min-nan:Anna]]
[[simple:Anna]]
"""

PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>{id}</id>{redirect}
<revision><id>5{id}</id><text xml:space="preserve">{text}</text></revision></page>"""


def page(number: int, text: str, title: str = "T", ns: int = 0, redirect: str = "") -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return PAGE.format(id=number, text=text, title=title, ns=ns, redirect=redirect)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    pages = [
        page(10, ARTICLE, "Anna"),
        page(11, "#REDIRECT [[Anna]]", redirect='<redirect title="Anna" />'),
        page(12, "Talk about it.", "Talk:Anna", ns=1),
        page(13, "{{only|a template}}", "Empty"),
        page(14, "Short &amp; plain.", "R&amp;D"),
    ]
    content = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo><sitename>W</sitename>'
        f"</siteinfo>{''.join(pages)}</mediawiki>"
    )
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2.compress(content.encode()))
    return path


def test_articles_are_read_as_prose(dump: Path) -> None:
    documents = list(read_mediawiki(dump))
    assert [(document.id, document.title) for document in documents] == [
        ("page-10", "Anna"),
        ("page-14", "R&D"),
    ]
    assert documents[1].text == "Short & plain."
    assert documents[0].text == (
        "Anna was a scholar of Prague. She & others left.\n\nEnergy is .\n\nLife\n"
        "Born early, see the page and :Category:Shown.\n\nYouth\nfirst\nsecond\n\nWork\nProse again."
    )


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


def test_built_and_loaded_again(dump: Path, tmp_path: Path) -> None:
    splits = SplitSpec(seed=0, evaluation=2, calibration=2)
    build_corpus(dump, spec(), lambda text: [ord(letter) for letter in text], tmp_path)
    corpus = Corpus.load(tmp_path, spec(), splits)
    assert corpus.ids == ("page-10", "page-14")
    assert corpus.titles == ("Anna", "R&D")
    texts = [document.text for document in read_mediawiki(dump)]
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
        build_corpus(dump, spec(), tokenize, tmp_path)
        with pytest.raises(AssetError, match="the task pins") as raised:
            Corpus.load(tmp_path, spec(sha256=corpus.hash), splits)
        assert "constraints.txt" in (raised.value.fix or "")
