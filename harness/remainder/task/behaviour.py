"""Prompts for a behaviour, made from templates and fillers that a TOML file gives as data.

A template is a text with slots: `{S:name}` is the slot `S`, filled from the list `name`. `{S}` elsewhere is
the same filler, `{S.plural}` another form of it. Words in angle brackets, `<own>`, are replaced first, with
the words of a variant: variants make prompts with different answers that are aligned with each other. A list
of `numbers` has the forms `above` and `below`: all two-digit numbers that are greater or less.

1. Fillers of each list are ordered by a seeded hash and dealt to the three splits, so that no filler is in
   two.
2. Words that are not one token of the model's tokenizer are left out, and counted.
3. Prompts are drawn by seeded hashes: variants in turn, two slots of one list never alike, no fillers twice.
4. Prompt and counterfactual are tokenised. All prompts of a template must align: at every position they hold
   the same part of the template. Prompts that align otherwise than most are left out, and counted.
5. Answers are continuations of the prompt, of which the first token counts. Tokens that begin both right and
   wrong continuations (the tens digit of the year itself, where digits are split) are in neither set.

Source: protocol 1, section 8; for the behaviours see docs/behaviours.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from remainder.base.files import read_toml
from remainder.base.messages import placed_fault
from remainder.errors import TaskError
from remainder.task.prompts import PADDING, Prompts
from remainder.task.text import Split

__all__ = ["SPLITS", "Behaviour", "Candidates", "make_candidates", "read_behaviour"]

SPLITS: tuple[Split, ...] = ("evaluation", "calibration", "fit")

_SLOT = re.compile(r"\{(\w+)(?::(\w+))?(?:\.(\w+))?\}")
_TRIES = 50
"""Number of draws in a row without a new prompt after which a template counts as used up."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Numbers(_Data):
    """A range of two-digit numbers, the last one included."""

    first: int = Field(ge=0, le=99)
    last: int = Field(ge=0, le=99)


class Variant(_Data):
    """Words and answers in which prompts of one template differ."""

    words: dict[str, str] = {}
    correct: tuple[str, ...] = Field(default=(), description="default: the answers of the template")
    wrong: tuple[str, ...] = ()


class Template(_Data):
    """A prompt and its counterfactual with slots, and right and wrong continuations of the prompt."""

    name: str
    text: str
    counterfactual: str
    correct: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


class Behaviour(_Data):
    """Templates and fillers, as the file gives them."""

    title: str
    templates: tuple[Template, ...] = Field(min_length=1)
    variants: tuple[Variant, ...] = (Variant(),)
    fillers: dict[str, tuple[str | dict[str, str], ...]]
    numbers: dict[str, Numbers] = {}


class Candidates(NamedTuple):
    """Prompts on which a model is tried."""

    prompts: Mapping[Split, tuple[Prompts, ...]]
    left_out: Mapping[str, tuple[str, ...]]
    """Words of each list that are not one token of this tokenizer."""
    unaligned: int
    """Number of prompts whose tokens do not align with those of most others."""


def read_behaviour(path: Path) -> Behaviour:
    """Read and check a file of templates and fillers.

    Raises:
        TaskError: if the file is malformed; names the field, or the slot that cannot be filled.
    """
    try:
        behaviour = Behaviour(**read_toml(path))
    except ValidationError as problem:
        raise TaskError(
            f"{path}: {placed_fault(problem)}",
            fix="correct that field; tasks/behaviours/ has examples",
        ) from None
    for template in behaviour.templates:
        for variant in behaviour.variants:
            _Form.of(behaviour, template, variant, f"{path}: template {template.name}")
    return behaviour


def make_candidates(
    behaviour: Behaviour, tokenizer: Any, *, seed: int, count: int, bos: int | None, where: str
) -> Candidates:
    """`count` prompts of each template and split, or as many as there are.

    Args:
        tokenizer: a fast tokenizer of transformers.
        seed: seed of the split of the fillers and of the draw.
        bos: id of the token put before every prompt.
        where: prefix of error messages.

    Raises:
        TaskError: if fewer than two prompts of a template and split are left.
    """
    if not tokenizer.is_fast:
        raise TaskError(
            f"{where}: the tokenizer does not say where its tokens are in a text",
            fix="use the fast one of the model",
        )

    @cache
    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    lists, left_out = _deal(behaviour, ids_of, seed)
    groups: dict[Split, tuple[Prompts, ...]] = {}
    unaligned = 0
    for split in SPLITS:
        made = []
        for template in behaviour.templates:
            place = f"{where}: template {template.name}, {split}"
            forms = [_Form.of(behaviour, template, variant, place) for variant in behaviour.variants]
            drawn = _draw(forms, lists[split], f"{seed}|{template.name}|{split}", count)
            aligned = _aligned([_Tokens.of(one, tokenizer, bos) for one in drawn])
            unaligned += len(drawn) - len(aligned)
            if len(aligned) < 2:
                gone = ", ".join(f"{len(gone)} of {name}" for name, gone in left_out.items() if gone)
                raise TaskError(
                    f"{place}: {len(aligned)} prompts can be made (words that are not one token of this "
                    f"tokenizer: {gone or 'none'})",
                    fix="give more fillers, or leave this template to other tokenizers",
                )
            made.append(_prompts(template.name, aligned, ids_of, place))
        groups[split] = tuple(made)
    return Candidates(groups, left_out, unaligned)


class _Slot(NamedTuple):
    key: str
    form: str | None


_Entry = Mapping[str | None, tuple[str, ...]]
"""A filler: its texts by form. None is the form of fillers with one form; only answers have several texts."""


@dataclass(frozen=True)
class _Form:
    """A template with the words of a variant filled in."""

    text: tuple[str | _Slot, ...]
    counterfactual: tuple[str | _Slot, ...]
    correct: tuple[tuple[str | _Slot, ...], ...]
    wrong: tuple[tuple[str | _Slot, ...], ...]
    list_of: Mapping[str, str]
    """The list that each slot is filled from, in the order of the text."""
    words: frozenset[str]
    """Slots filled with words rather than numbers; words are one token each."""

    @classmethod
    def of(cls, behaviour: Behaviour, template: Template, variant: Variant, where: str) -> _Form:
        texts = {"text": template.text, "counterfactual": template.counterfactual}
        correct, wrong = (getattr(variant, kind) or getattr(template, kind) for kind in ("correct", "wrong"))
        if not correct:
            raise TaskError(f"{where}: there is no right answer", fix="name continuations in `correct`")
        texts |= {f"correct[{n}]": text for n, text in enumerate(correct)}
        texts |= {f"wrong[{n}]": text for n, text in enumerate(wrong)}
        for word, replacement in variant.words.items():
            texts = {kind: text.replace(f"<{word}>", replacement) for kind, text in texts.items()}
        list_of: dict[str, str] = {}
        for text in texts.values():
            for key, name, _ in _SLOT.findall(text):
                if name and list_of.setdefault(key, name) != name:
                    raise TaskError(
                        f"{where}: slot {key} is filled from {list_of[key]} and from {name}",
                        fix="name one list, or give the slots two names",
                    )
        parsed = {}
        for kind, text in texts.items():
            parsed[kind] = _parse(text, list_of, behaviour, f"{where}: {kind}")
        words = frozenset(key for key, name in list_of.items() if name in behaviour.fillers)
        for kind in ("text", "counterfactual"):
            for before, part in zip(("", *parsed[kind]), parsed[kind], strict=False):
                if isinstance(part, _Slot) and part.key in words and not str(before).endswith(" "):
                    raise TaskError(
                        f"{where}: {kind}: no space stands before the word {part.key}",
                        fix="put a space there: tokens of words begin with one; no text begins with a slot",
                    )
        return cls(
            parsed["text"],
            parsed["counterfactual"],
            tuple(parsed[f"correct[{n}]"] for n in range(len(correct))),
            tuple(parsed[f"wrong[{n}]"] for n in range(len(wrong))),
            list_of,
            words,
        )


def _parse(
    text: str, list_of: Mapping[str, str], behaviour: Behaviour, where: str
) -> tuple[str | _Slot, ...]:
    parts: list[str | _Slot] = []
    end = 0
    for match in _SLOT.finditer(text):
        key, _, form = match.groups()
        forms = _forms(behaviour, list_of.get(key, ""))
        if not forms:
            raise TaskError(
                f"{where}: slot {key} is filled from {list_of.get(key, 'no list')}, which is not given",
                fix=f"write {{{key}:LIST}} with: {', '.join([*behaviour.fillers, *behaviour.numbers])}",
            )
        if form not in forms:
            known = ", ".join(str(one) for one in forms if one is not None) or "none"
            raise TaskError(f"{where}: slot {key} has no form {form}", fix=f"name one of its forms: {known}")
        parts += [text[end : match.start()]] * (match.start() > end) + [_Slot(key, form)]
        end = match.end()
    parts += [text[end:]] * (end < len(text))
    for part in parts:
        if isinstance(part, str) and re.search(r"[{}<>]", part):
            raise TaskError(
                f"{where}: {part!r} has a bracket that is no slot",
                fix="write slots as {S:list}, variants as <own>",
            )
    return tuple(parts)


def _forms(behaviour: Behaviour, name: str) -> tuple[str | None, ...]:
    """Forms that all fillers of a list have; empty if there is no such list."""
    if name in behaviour.numbers:
        return (None, "above", "below")
    shared: set[str | None] | None = None
    for filler in behaviour.fillers.get(name, ()):
        own: set[str | None] = {None} if isinstance(filler, str) else set(filler)
        shared = own if shared is None else shared & own
    return tuple(sorted(shared or (), key=str))


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big")


def _entries(behaviour: Behaviour) -> dict[str, list[_Entry]]:
    entries: dict[str, list[_Entry]] = {}
    for name, fillers in behaviour.fillers.items():
        entries[name] = [
            {None: (filler,)} if isinstance(filler, str) else {form: (word,) for form, word in filler.items()}
            for filler in fillers
        ]
    for name, numbers in behaviour.numbers.items():
        entries[name] = [
            {
                None: (f"{n:02d}",),
                # The number itself is on both sides, so that its first token is in neither set of answers.
                "above": tuple(f"{m:02d}" for m in range(n, 100)),
                "below": tuple(f"{m:02d}" for m in range(n + 1)),
            }
            for n in range(numbers.first, numbers.last + 1)
        ]
    return entries


def _deal(
    behaviour: Behaviour, ids_of: Callable[[str], list[int]], seed: int
) -> tuple[dict[Split, dict[str, list[_Entry]]], dict[str, tuple[str, ...]]]:
    """Fillers of each split and list without words that are not one token; and these words.

    Fillers are dealt before any is left out, so that a filler is in the same split whatever the model.
    """
    dealt: dict[Split, dict[str, list[_Entry]]] = {split: {} for split in SPLITS}
    left_out: dict[str, tuple[str, ...]] = {}
    for name, entries in _entries(behaviour).items():
        order = sorted(entries, key=lambda entry: _hash(seed, name, json.dumps(list(entry.values()))))
        gone = []
        for number, split in enumerate(SPLITS):
            kept = []
            for entry in order[number :: len(SPLITS)]:
                bad = [
                    text
                    for texts in entry.values()
                    for text in texts
                    if name in behaviour.fillers and len(ids_of(f" {text}")) != 1
                ]
                gone += bad
                kept += [entry] * (not bad)
            dealt[split][name] = kept
        left_out[name] = tuple(sorted(gone))
    return dealt, left_out


class _Drawn(NamedTuple):
    form: _Form
    entries: Mapping[str, _Entry]

    def filled(self, parts: Sequence[str | _Slot]) -> list[str]:
        """The parts of the text, one for each part of the template."""
        return [part if isinstance(part, str) else self.entries[part.key][part.form][0] for part in parts]

    def continuations(self, answers: Sequence[Sequence[str | _Slot]]) -> list[str]:
        made = []
        for parts in answers:
            texts = [""]
            for part in parts:
                options = (part,) if isinstance(part, str) else self.entries[part.key][part.form]
                texts = [text + option for text in texts for option in options]
            made += texts
        return made

    @property
    def document(self) -> str:
        """The fillers of the prompt, which identify it within its template."""
        return " ".join(
            self.entries[part.key][part.form][0] for part in self.form.text if isinstance(part, _Slot)
        )


def _draw(
    forms: Sequence[_Form], lists: Mapping[str, Sequence[_Entry]], key: str, count: int
) -> list[_Drawn]:
    """Prompts, variants in turn, of which no two have the same fillers."""
    drawn: list[_Drawn] = []
    seen: set[str] = set()
    attempt = failures = 0
    while len(drawn) < count and failures < _TRIES:
        form = forms[len(drawn) % len(forms)]
        attempt, failures = attempt + 1, failures + 1
        chosen: dict[str, _Entry] = {}
        taken: set[tuple[str, int]] = set()
        for slot, name in form.list_of.items():
            if lists[name]:
                place = _hash(key, attempt, slot) % len(lists[name])
                chosen[slot] = lists[name][place]
                taken.add((name, place))
        one = _Drawn(form, chosen)
        if len(taken) < len(form.list_of):  # two slots share a filler, or a list is empty
            continue
        if one.document not in seen:
            seen.add(one.document)
            drawn.append(one)
            failures = 0
    return drawn


class _Tokens(NamedTuple):
    """Token ids of a prompt and its counterfactual, and their alignment with the template."""

    drawn: _Drawn
    prompt: list[int]
    counterfactual: list[int]
    fall: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, drawn: _Drawn, tokenizer: Any, bos: int | None) -> _Tokens:
        def tokens(parts: Sequence[str | _Slot]) -> tuple[list[int], tuple[tuple[int, int], ...]]:
            filled = drawn.filled(parts)
            encoded = tokenizer("".join(filled), add_special_tokens=False, return_offsets_mapping=True)
            fall = tuple(_place(end, filled) for _, end in encoded["offset_mapping"])
            return [bos] * (bos is not None) + encoded["input_ids"], fall

        prompt, counterfactual = tokens(drawn.form.text), tokens(drawn.form.counterfactual)
        return cls(drawn, prompt[0], counterfactual[0], (prompt[1], counterfactual[1]))


def _place(end: int, filled: Sequence[str]) -> tuple[int, int]:
    """The part of the template in which a token ends, and its distance from the part's end."""
    reached = 0
    for number, text in enumerate(filled):
        reached += len(text)
        if end <= reached:
            return number, reached - end
    raise AssertionError("a token ends behind its text")


def _aligned(tokens: Sequence[_Tokens]) -> list[_Tokens]:
    """Prompts aligned with the template as most are; prompt and counterfactual have one length."""
    fitting = [one for one in tokens if len(one.prompt) == len(one.counterfactual)]
    if not fitting:
        return []
    usual = Counter(one.fall for one in fitting).most_common(1)[0][0]
    return [one for one in fitting if one.fall == usual]


def _prompts(
    template: str, tokens: Sequence[_Tokens], ids_of: Callable[[str], list[int]], where: str
) -> Prompts:
    right, wrong = [], []
    for one in tokens:
        form = one.drawn.form
        sets = [
            {ids_of(text)[0] for text in one.drawn.continuations(answers) if ids_of(text)}
            for answers in (form.correct, form.wrong)
        ]
        right.append(sorted(sets[0] - sets[1]))
        wrong.append(sorted(sets[1] - sets[0]))
        if not right[-1] or (form.wrong and not wrong[-1]):
            raise TaskError(
                f"{where}: right and wrong answers to {one.drawn.document!r} begin with the same tokens",
                fix="name continuations that this tokenizer tells apart",
            )
    ids = np.array([one.prompt for one in tokens], dtype=np.int64)
    scored = np.zeros(ids.shape, dtype=np.bool_)
    scored[:, -1] = True
    return Prompts(
        template=template,
        tokens=ids,
        counterfactual=np.array([one.counterfactual for one in tokens], dtype=np.int64),
        documents=tuple(f"{template} {one.drawn.document}" for one in tokens),
        scored=scored,
        correct=_padded(right),
        wrong=_padded(wrong),
    )


def _padded(sets: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    padded = np.full((len(sets), 1, max(map(len, sets))), PADDING, dtype=np.int64)
    for row, ids in enumerate(sets):
        padded[row, 0, : len(ids)] = ids
    return padded
