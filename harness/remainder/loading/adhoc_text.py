"""The text of an ad-hoc task: token ids, windows, splits and tiers, by the rules of `loading.adhoc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from remainder.errors import TaskError
from remainder.loading.adapt import GivenModel
from remainder.loading.fetch import tokenize
from remainder.loading.texts import Text
from remainder.record.intervals import MINIMUM_DOCUMENTS
from remainder.task.spec import CorpusSpec, SplitSpec, Task, Tier
from remainder.task.text import Corpus

__all__ = ["CONTEXTS", "FEWEST", "Asked", "Prepared", "prepare", "tiers_of"]

CONTEXTS = (128, 96, 64, 48, 32, 24, 16)
"""Tokens of a window, the beginning-of-sequence token included."""

FEWEST = 2 * MINIMUM_DOCUMENTS + 2
"""Documents of at least a window: for intervals of evaluation, as many of calibration, and two of fit."""

_ENOUGH = 40  # documents that a window leaves, if any does
_EVALUATION, _CALIBRATION = 64, 256  # documents at most
_SHARE = 0.4  # of documents for evaluation, and for calibration
_CALIBRATION_WINDOWS, _FIT_WINDOWS = 1000, 200  # at most
_STANDARD = 4  # windows of a document


class Asked(NamedTuple):
    """Settings that are chosen, not found; None takes what the rules give.

    See `loading.adhoc.adhoc_task`.
    """

    context: int | None = None
    bos: int | None = None
    seed: int | None = None
    like: Task | None = None


class Prepared(NamedTuple):
    """A text in windows and splits."""

    corpus: Corpus
    words: str
    """Sentences on what was taken."""


def prepare(text: Text, given: GivenModel, asked: Asked) -> Prepared:
    """Tokenise a text, and choose windows and splits.

    Raises:
        TaskError: the tokenizer has no beginning-of-sequence token, an id is outside of the vocabulary, or
            the text has too few documents.
    """
    tokenizer = _tokenizer(text, given)
    bos, special = _special(tokenizer, given, asked)
    ids = _token_ids(text, tokenizer, given, bos)
    window = _window(text, [len(row) for row in ids], given, asked)
    usable = sum(len(row) >= window - 1 for row in ids)
    short = len(ids) - usable
    left_out = [*text.left_out, *([f"{short:,} shorter than a window of {window} tokens"] if short else [])]
    spec = CorpusSpec(
        name=text.name,
        licence="unknown",
        attribution="A text of whoever measured; these are its token ids.",
        reader="tokens",
        window=window,
        bos=bos,
        special_tokens=special,
        tokens_sha256="0" * 64,
        left_out=f"Documents of {text.name} left out: {', '.join(left_out)}." if left_out else None,
    )
    splits = _splits(text, usable, window, asked)
    corpus = Corpus.of_documents(spec, splits, text.ids, text.titles, ids)
    pinned = spec.model_copy(update={"tokens_sha256": corpus.hash})
    words = (
        f"{text.rule}; {usable:,} hold at least one window of {window} tokens: {splits.evaluation} for "
        f"evaluation, {splits.calibration} for calibration, "
        f"{usable - splits.evaluation - splits.calibration} for fit."
        f"{'' if spec.left_out is None else f' {spec.left_out}'}"
    )
    return Prepared(Corpus.of_documents(pinned, splits, text.ids, text.titles, ids), words)


def tiers_of(corpus: Corpus) -> dict[str, Tier]:
    """Tiers of what the text holds."""
    documents, available = corpus.splits.evaluation, len(corpus.windows("evaluation"))
    amounts = {
        "calibration_windows": min(_CALIBRATION_WINDOWS, len(corpus.windows("calibration"))),
        "fit_windows": min(_FIT_WINDOWS, len(corpus.windows("fit"))),
    }
    return {
        "quick": Tier(evaluation_windows=documents, pairs=1, dtype="float32", **amounts),
        "standard": Tier(
            evaluation_windows=min(_STANDARD * documents, available), pairs=2, dtype="float32", **amounts
        ),
    }


def _tokenizer(text: Text, given: GivenModel) -> Any | None:
    """The model's tokenizer; a text of token ids can do without."""
    try:
        return given.tokenizer
    except TaskError:
        if text.has_tokens:
            return None
        raise


def _special(tokenizer: Any | None, given: GivenModel, asked: Asked) -> tuple[int, tuple[int, ...]]:
    """The beginning-of-sequence token, and all special tokens."""
    if asked.like is not None and asked.like.corpus is not None:
        return asked.like.corpus.bos, asked.like.corpus.special_tokens
    known = () if tokenizer is None else map(int, tokenizer.all_special_ids)
    bos = asked.bos
    if bos is None and tokenizer is not None:
        bos = tokenizer.bos_token_id
    if bos is None:
        end = None if tokenizer is None else tokenizer.eos_token_id
        instead = "" if end is None else f", such as {end}, that of the end of a text"
        raise TaskError(
            f"the tokenizer of {given.spec.name} has no beginning-of-sequence token, which stands before "
            "every window",
            fix=f"choose a token for it by its id: `bos` (--bos ID){instead}",
        )
    if bos < 0 or bos >= (given.vocabulary or bos + 1):
        raise TaskError(
            f"the beginning-of-sequence token is {bos}; the vocabulary of {given.spec.name} has "
            f"{given.vocabulary} tokens",
            fix="give the id of one of them: `bos` (--bos ID)",
        )
    return int(bos), tuple(sorted({*known, int(bos)}))


def _token_ids(text: Text, tokenizer: Any | None, given: GivenModel, bos: int) -> list[Any]:
    """Token ids of each document, without a beginning-of-sequence token, which every window gets."""
    if text.has_tokens:
        ids: list[Any] = [row[1:] if len(row) and row[0] == bos else row for row in text.contents]
    else:
        ids = [tokenize(tokenizer, str(content)) for content in text.contents]
    highest = max((int(max(row)) for row in ids if len(row)), default=-1)
    if given.vocabulary is not None and highest >= given.vocabulary:
        raise TaskError(
            f"{text.name}: there is a token id {highest}; the vocabulary of {given.spec.name} has "
            f"{given.vocabulary} tokens",
            fix="give ids of that model's tokenizer, or the text itself",
        )
    return ids


def _window(text: Text, lengths: Sequence[int], given: GivenModel, asked: Asked) -> int:
    """Tokens of a window."""
    longest = given.context
    if asked.context is not None or asked.like is not None:
        window = asked.context
        if window is None:
            assert asked.like is not None
            assert asked.like.corpus is not None
            window = asked.like.corpus.window
        if window < 3 or (longest is not None and window > longest):
            most = "any" if longest is None else str(longest)
            raise TaskError(
                f"a window of {window} tokens; {given.spec.name} takes 3 to {most}", fix="choose another one"
            )
        return window
    if len(lengths) == 1:
        raise TaskError(
            f"{text.rule}: a single one, and splits and intervals are by document",
            fix=f"separate documents by blank lines, or give several (at least {FEWEST}): files, lines of "
            ".jsonl, or a list",
        )
    fitting = [window for window in CONTEXTS if longest is None or window <= longest] or [longest or 3]
    counts = {window: sum(length >= window - 1 for length in lengths) for window in fitting}
    for enough in (_ENOUGH, FEWEST):
        if found := [window for window, count in counts.items() if count >= enough]:
            return found[0]
    raise TaskError(f"{text.rule}: too few of at least one window ({_counted(counts)})", fix=_more())


def _splits(text: Text, usable: int, window: int, asked: Asked) -> SplitSpec:
    """How many documents each split has."""
    if asked.like is not None and asked.like.splits is not None:
        splits = asked.like.splits
        if usable <= splits.evaluation + splits.calibration:
            raise TaskError(
                f"{text.rule}: {_counted({window: usable})}; the splits of {asked.like.id} need more than "
                f"{splits.evaluation + splits.calibration}",
                fix="give a larger text, or leave out `like` (--like)",
            )
        return splits
    if usable < FEWEST:
        raise TaskError(
            f"{text.rule}: too few of at least one window ({_counted({window: usable})})", fix=_more()
        )
    share = max(MINIMUM_DOCUMENTS, int(_SHARE * usable))
    return SplitSpec(
        seed=asked.seed or 0, evaluation=min(share, _EVALUATION), calibration=min(share, _CALIBRATION)
    )


def _counted(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{count} of {window} tokens" for window, count in counts.items())


def _more() -> str:
    return (
        f"give at least {FEWEST} such documents: a larger text, another `split` of it (--split), or a "
        "shorter window: `context` (--context)"
    )
