"""Token ids of a pinned text, cut into windows of documents and split by document.

1. Read documents from the pinned file (`mediawiki`: article text without markup, references, tables).
2. Tokenise each document with the model's own tokenizer, cut it into windows of `window - 1` tokens,
   and put the beginning-of-sequence token before each. A remainder shorter than a window is not used.
3. Order documents by a seeded hash; the first go to `evaluation`, the next to `calibration`, the rest
   to `fit`. Within a split: the first window of every document, then the second of every document …,
   where the windows of a document are ordered by a seeded hash too (otherwise every first window
   would be the opening of an article).

Source of the splits and the order: protocol 1, section 1.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from remainder.errors import AssetError
from remainder.task.spec import CorpusSpec, SplitSpec

__all__ = ["Corpus", "Document", "SealedCorpus", "Split", "Windows", "build_corpus", "read_mediawiki"]

Split = Literal["fit", "calibration", "evaluation"]

# Sections of an article that are lists of links, not prose.
_LINK_SECTIONS = re.compile(
    r"^\s*(see also|references|external links|further reading|notes|footnotes|bibliography|sources|"
    r"notes and references|citations|works cited|literature)\s*$",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_REFERENCE = re.compile(r"<ref\b[^>]*?/>|<ref\b[^>]*?>.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
# Files, categories and links to other languages are also written [[prefix:…]].
_NOT_PROSE_LINK = re.compile(r"(file|image|category|simple|[a-z]{2,3}(-[a-z]+)*):", re.IGNORECASE)


class Document(NamedTuple):
    """A source article: the unit of splitting, resampling and keyed noise."""

    id: str
    title: str
    text: str


class Windows(NamedTuple):
    """Windows of a split in their fixed order, each with its document and its place there.

    For a text, targets and masks follow from the token ids and are None here.
    """

    inputs: NDArray[Any]  # [windows positions ...]; token ids (int64) or numbers
    documents: tuple[str, ...]  # id of the document of each window
    indices: tuple[int, ...]  # place of each window in its document
    targets: NDArray[Any] | None = None  # [windows positions]
    spliced: NDArray[np.bool_] | None = None  # [windows positions]
    scored: NDArray[np.bool_] | None = None  # [windows positions]

    def first(self, count: int) -> Windows:
        """The first `count` windows, or all if there are fewer."""
        return self.take(range(min(count, len(self))))

    def take(self, order: Sequence[int]) -> Windows:
        """The windows at these places, in this order."""
        rows = list(order)
        return Windows(
            self.inputs[rows],
            tuple(self.documents[i] for i in rows),
            tuple(self.indices[i] for i in rows),
            *(None if array is None else array[rows] for array in self[3:]),
        )

    def __len__(self) -> int:
        return len(self.documents)


@dataclass(frozen=True)
class Corpus:
    """A tokenised text, which measuring reads through `windows(split)` alone."""

    spec: CorpusSpec
    splits: SplitSpec
    tokens: NDArray[np.int32]  # all documents one after another
    bounds: NDArray[np.int64]  # [documents + 1]
    ids: tuple[str, ...]
    titles: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path, spec: CorpusSpec, splits: SplitSpec) -> Corpus:
        """Load a folder that `build_corpus` made.

        Raises:
            AssetError: if the token ids are not those that the task pins.
        """
        arrays = load_file(folder / "tokens.safetensors")
        documents = json.loads((folder / "documents.json").read_text(encoding="utf-8"))
        corpus = cls(
            spec=spec,
            splits=splits,
            tokens=arrays["tokens"],
            bounds=arrays["bounds"],
            ids=tuple(document["id"] for document in documents),
            titles=tuple(document["title"] for document in documents),
        )
        if spec.tokens_sha256 is not None and corpus.hash != spec.tokens_sha256:
            raise AssetError(
                f"the token ids of {spec.name} hash to {corpus.hash[:16]}…, the task pins "
                f"{spec.tokens_sha256[:16]}…",
                fix="install the versions of constraints.txt (mwparserfromhell, tokenizers, transformers, "
                "gguf), then `remainder fetch --force`",
            )
        return corpus

    @property
    def hash(self) -> str:
        """SHA-256 of token ids (little-endian int32) and document bounds (int64)."""
        digest = hashlib.sha256(self.tokens.astype("<i4").tobytes())
        digest.update(self.bounds.astype("<i8").tobytes())
        return digest.hexdigest()

    def documents(self, split: Split) -> list[int]:
        """Documents of a split in their seeded order; documents shorter than a window are in no split."""
        length = self.spec.window - 1
        long_enough = [i for i in range(len(self.ids)) if self.bounds[i + 1] - self.bounds[i] >= length]
        ordered = sorted(long_enough, key=lambda i: _seeded(self.splits.seed, self.ids[i]))
        first, second = self.splits.evaluation, self.splits.evaluation + self.splits.calibration
        if len(ordered) <= second:
            raise AssetError(
                f"{self.spec.name} has {len(ordered)} documents of at least {length} tokens; the splits "
                f"of the task need more than {second}",
                fix="ask for fewer documents in [splits]",
            )
        return {"evaluation": ordered[:first], "calibration": ordered[first:second], "fit": ordered[second:]}[
            split
        ]

    def windows(self, split: Split) -> Windows:
        """All windows of a split: one of each document first, then a second of each, and so on."""
        return self._windows(self.documents(split))

    def _windows(self, chosen: Sequence[int]) -> Windows:
        """The windows of some documents, in the order of `windows`."""
        length = self.spec.window - 1
        rounds: list[tuple[int, int, int]] = []  # (round, rank of document, place in document)
        for rank, document in enumerate(chosen):
            count = int(self.bounds[document + 1] - self.bounds[document]) // length
            name = self.ids[document]
            order = sorted(range(count), key=lambda w: _seeded(self.splits.seed, f"{name}|{w}"))
            rounds.extend((turn, rank, place) for turn, place in enumerate(order))
        rounds.sort()
        tokens = np.empty((len(rounds), self.spec.window), dtype=np.int64)
        tokens[:, 0] = self.spec.bos
        for row, (_, rank, place) in enumerate(rounds):
            start = int(self.bounds[chosen[rank]]) + place * length
            tokens[row, 1:] = self.tokens[start : start + length]
        return Windows(
            tokens,
            tuple(self.ids[chosen[rank]] for _, rank, _ in rounds),
            tuple(place for _, _, place in rounds),
        )


@dataclass(frozen=True)
class SealedCorpus(Corpus):
    """A task's text with other documents in place of those of its evaluation split."""

    sealed: Corpus
    """The other documents; those shorter than a window are not used."""

    def windows(self, split: Split) -> Windows:
        """Windows as those of `Corpus`, on the split `evaluation` those of the sealed documents."""
        if split != "evaluation":
            return super().windows(split)
        length, bounds = self.spec.window - 1, self.sealed.bounds
        return self.sealed._windows([i for i, size in enumerate(np.diff(bounds)) if size >= length])

    @property
    def hash(self) -> str:
        """SHA-256 of both texts' hashes."""
        return hashlib.sha256(f"{super().hash}|{self.sealed.hash}".encode()).hexdigest()

    @classmethod
    def of(cls, public: Corpus, documents: Sequence[tuple[str, Sequence[int]]]) -> SealedCorpus:
        """The text `public` with `documents` (id, token ids) in place of its evaluation split."""
        bounds = np.cumsum([0, *(len(ids) for _, ids in documents)]).astype(np.int64)
        tokens = np.concatenate([np.asarray(ids, dtype=np.int32) for _, ids in documents])
        names = tuple(name for name, _ in documents)
        sealed = Corpus(public.spec, public.splits, tokens, bounds, names, names)
        own = {each.name: getattr(public, each.name) for each in fields(Corpus)}
        return cls(**own, sealed=sealed)


def build_corpus(source: Path, spec: CorpusSpec, tokenize: Callable[[str], list[int]], folder: Path) -> None:
    """Read, tokenise and write a corpus into `folder`: token ids, titles, attribution.

    `tokenize` adds no special tokens.
    """
    readers: dict[str, Callable[[Path], Iterator[Document]]] = {"mediawiki": read_mediawiki}
    documents = list(readers[spec.reader](source))
    ids = [tokenize(document.text) for document in documents]
    bounds = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    tokens = np.concatenate([np.asarray(row, dtype=np.int32) for row in ids])
    save_file({"tokens": tokens, "bounds": bounds}, folder / "tokens.safetensors")
    listing = [{"id": document.id, "title": document.title} for document in documents]
    (folder / "documents.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
    (folder / "ATTRIBUTION").write_text(f"{spec.attribution}\nLicence: {spec.licence}\n", encoding="utf-8")


def read_mediawiki(source: Path) -> Iterator[Document]:
    """Articles of a MediaWiki dump (`.xml.bz2`) as prose; redirects and other namespaces are left out."""
    with bz2.open(source) as stream:
        for _, element in ElementTree.iterparse(stream):
            if element.tag.rpartition("}")[2] != "page":
                continue
            is_article = element.findtext("{*}ns") == "0" and element.find("{*}redirect") is None
            if is_article:
                markup = element.findtext("{*}revision/{*}text") or ""
                text = _prose(markup)
                if text:
                    page, title = element.findtext("{*}id"), element.findtext("{*}title")
                    yield Document(f"page-{page}", title or "", text)
            element.clear()


def _prose(markup: str) -> str:
    """Article text without references, tables, templates, files, categories and link sections."""
    import mwparserfromhell

    # References are cut before parsing: they are most of the markup, and never prose.
    code = mwparserfromhell.parse(_REFERENCE.sub("", _COMMENT.sub("", markup)))
    for section in code.get_sections(levels=[2], include_headings=True):
        headings = section.filter_headings()
        if headings and _LINK_SECTIONS.match(str(headings[0].title)):
            code.remove(section)
    # Only nodes at the top level are looked at: nested ones go with their parents. The list of nodes is built
    # anew, since `Wikicode.remove` compares the whole article for every node that it removes.
    code.nodes = [node for node in code.nodes if _is_prose(node)]
    text = str(code.strip_code(normalize=True, collapse=True))
    lines = (line.strip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _is_prose(node: object) -> bool:
    from mwparserfromhell import nodes

    if isinstance(node, nodes.Tag):
        return str(node.tag).strip().lower() not in {"table", "gallery", "timeline", "math"}
    if isinstance(node, nodes.Wikilink):
        return _NOT_PROSE_LINK.match(str(node.title).strip()) is None
    return not isinstance(node, nodes.Template)


def _seeded(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}|{name}".encode()).digest()
