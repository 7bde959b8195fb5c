"""Token ids of a pinned text, cut into windows of documents and split by document.

1. Read the documents of a text of this project (`tasks/texts`), or the modules of pinned wheels
   (`task.modules`).
2. Tokenise each document with the model's own tokenizer, cut it into windows of `window - 1` tokens,
   and put the beginning-of-sequence token before each. A remainder shorter than a window is not used.
3. Order documents by a seeded hash; the first go to `evaluation`, the next to `calibration`, the rest
   to `fit`. Within a split: the first window of every document, then the second of every document …,
   where the windows of a document are ordered by a seeded hash too (otherwise every first window
   would be the opening of an article).

Source of the splits and the order: protocol 1, section 1.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from remainder.base.paths import project_root
from remainder.errors import AssetError
from remainder.task.spec import CorpusSpec, SplitSpec, WheelSpec

__all__ = [
    "Corpus",
    "Document",
    "SealedCorpus",
    "Split",
    "TransferCorpus",
    "Windows",
    "build_corpus",
    "read_documents",
    "text_of",
]

Split = Literal["fit", "calibration", "evaluation"]

_TOKENS, _DOCUMENTS, _TEXT = "tokens.safetensors", "documents.json", "documents.jsonl.xz"
_LETTERS = 12  # of a hash, in the name of a text's folder


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
        for name in (_TOKENS, _DOCUMENTS):
            if not (folder / name).is_file():
                raise AssetError(f"{folder} lacks {name}, of its text {spec.name}", fix="restore that file")
        try:
            arrays = load_file(folder / _TOKENS)
            documents = json.loads((folder / _DOCUMENTS).read_text(encoding="utf-8"))
        except (SafetensorError, ValueError) as problem:
            what = f"{folder}: its text {spec.name} cannot be read: {problem}"
            raise AssetError(what, fix="restore its files") from problem
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
                f"{folder / _TOKENS}: token ids of {spec.name} hash to {corpus.hash[:16]}…, the task pins "
                f"{spec.tokens_sha256[:16]}…",
                fix="restore the files of the text, or install tokenizers, transformers and gguf as in "
                "constraints.txt and `remainder fetch --force`",
            )
        return corpus

    def save(self, folder: Path) -> None:
        """Write what `load` reads into `folder`, and whose text it is."""
        save_file({"tokens": self.tokens, "bounds": self.bounds}, folder / _TOKENS)
        listing = [{"id": name, "title": title} for name, title in zip(self.ids, self.titles, strict=True)]
        (folder / _DOCUMENTS).write_text(json.dumps(listing, indent=1), encoding="utf-8")
        licence = f"{self.spec.attribution}\nLicence: {self.spec.licence}\n"
        (folder / "ATTRIBUTION").write_text(licence, encoding="utf-8")

    @staticmethod
    def of_documents(
        spec: CorpusSpec,
        splits: SplitSpec,
        ids: Sequence[str],
        titles: Sequence[str],
        tokens: Sequence[Sequence[int] | NDArray[Any]],
    ) -> Corpus:
        """The text of documents by their ids, titles and token ids."""
        bounds = np.cumsum([0, *(len(row) for row in tokens)]).astype(np.int64)
        joined = np.concatenate([np.asarray(row, dtype=np.int32) for row in tokens])
        return Corpus(spec, splits, joined, bounds, tuple(ids), tuple(titles))

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
        names, ids = zip(*documents, strict=True)
        sealed = Corpus.of_documents(public.spec, public.splits, names, names, ids)
        own = {each.name: getattr(public, each.name) for each in fields(Corpus)}
        return cls(**own, sealed=sealed)


@dataclass(frozen=True)
class TransferCorpus(Corpus):
    """A task's text for fitting and calibration, and another one for evaluation."""

    other: Corpus
    """The text of the evaluation split, which is the one that it has in a task of its own."""

    def windows(self, split: Split) -> Windows:
        """Windows as those of `Corpus`, on the split `evaluation` those of the other text."""
        return self.other.windows(split) if split == "evaluation" else super().windows(split)

    @property
    def hash(self) -> str:
        """SHA-256 of both texts' hashes."""
        return hashlib.sha256(f"{super().hash}|{self.other.hash}".encode()).hexdigest()

    @classmethod
    def of(cls, public: Corpus, other: Corpus) -> TransferCorpus:
        """The text `public` with the evaluation split of `other` in place of its own."""
        return cls(**{each.name: getattr(public, each.name) for each in fields(Corpus)}, other=other)


def text_of(wheel: WheelSpec) -> Path:
    """The text of this project that was made of a file: `tasks/texts/NAME-HASH/documents.jsonl.xz`.

    Raises:
        AssetError: if there is none.
    """
    texts = project_root() / "tasks" / "texts"
    found = sorted(texts.glob(f"*-{wheel.sha256[:_LETTERS]}/{_TEXT}"))
    if not found:
        raise AssetError(
            f"{texts} holds no text of {wheel.file} (SHA-256 {wheel.sha256[:16]}…)",
            fix="of a text of your own, let `remainder score --save-task` make the task",
        )
    return found[0]


def read_documents(path: Path) -> list[Document]:
    """The documents of a text of this project, in its order."""
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        return [Document(**json.loads(line)) for line in stream]


def build_corpus(
    documents: Sequence[Document],
    spec: CorpusSpec,
    splits: SplitSpec,
    tokenize: Callable[[str], list[int]],
    folder: Path,
) -> None:
    """Tokenise documents, and write what `Corpus.load` reads; `tokenize` adds no special tokens."""
    names, titles, texts = zip(*documents, strict=True)
    Corpus.of_documents(spec, splits, names, titles, [tokenize(text) for text in texts]).save(folder)


def _seeded(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}|{name}".encode()).digest()
