"""Prompts made from templates and fillers: split, aligned, rightly answered, or refused with a reason."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from remainder.base.paths import project_root
from remainder.errors import TaskError
from remainder.task.behaviour import SPLITS, Candidates, make_candidates, read_behaviour
from remainder.task.prompts import Prompts

BEHAVIOURS = project_root() / "tasks" / "behaviours"
NAMES = ("ioi", "agreement", "greater-than", "pronouns")
BOS = 0
SINGLE = r"\d"
PAIRS = r"1776|\d\d"
"""Digits by two, and one year that is a token of its own."""


@cache
def words() -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(BEHAVIOURS.glob("*.toml"))]
    found = {word for text in texts for word in re.findall(r"[A-Za-z]+|[^\w\s]", text)}
    numbers = [f"{n:02d}" for n in range(100)] + [str(n) for n in range(10)]
    return ["<s>", "<unk>", *sorted(found), *numbers, "1776"]


@cache
def tokenizer(digits: str = SINGLE) -> Any:
    """One token a word, a number in pieces; what is unknown is one too."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words())}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Split(Regex(digits), "isolated"),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def make(path: Path, *, digits: str = SINGLE, **changed: Any) -> Candidates:
    arguments: dict[str, Any] = {"seed": 1, "count": 60, "bos": BOS, "where": "here"}
    return make_candidates(read_behaviour(path), tokenizer(digits), **{**arguments, **changed})


def of(name: str, **changed: Any) -> list[Prompts]:
    """All groups of all splits of a behaviour of this project."""
    found = make(BEHAVIOURS / f"{name}.toml", **changed).prompts
    return [group for split in SPLITS for group in found[split]]


def text(ids: Any) -> list[str]:
    return [words()[i] for i in ids if i >= 0]


# the behaviours of this project


@pytest.mark.parametrize("name", NAMES)
def test_no_filler_is_in_two_splits_and_no_prompt_is_twice(name: str) -> None:
    found = make(BEHAVIOURS / f"{name}.toml")
    assert not any(found.left_out.values())
    assert found.unaligned == 0
    varying: dict[str, dict[str, set[str]]] = {}
    documents: list[str] = []
    for split in SPLITS:
        assert [len(group) for group in found.prompts[split]] == [60, 60]
        for group in found.prompts[split]:
            documents += group.documents
            assert len({tuple(row) for row in group.tokens.tolist()}) == 60
            changing = (group.tokens != group.tokens[0]).any(0)
            for kind in (group.tokens, group.counterfactual):
                # Digits of years and forms of a noun are shared, and not fillers themselves.
                fillers = {word for word in text(kind[:, changing].ravel()) if not word.isdigit()}
                varying.setdefault(group.template, {}).setdefault(split, set()).update(fillers)
    assert len(documents) == len(set(documents)) == 3 * 2 * 60
    for by_split in varying.values():
        sets = [by_split[split] for split in SPLITS]
        assert all(len(one) >= 8 for one in sets)
        assert not sets[0] & sets[1]
        assert not sets[0] & sets[2]
        assert not sets[1] & sets[2]


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_begins_alike_and_is_scored_at_its_end(name: str) -> None:
    for group in of(name):
        assert (group.tokens[:, 0] == BOS).all()
        assert (group.counterfactual[:, 0] == BOS).all()
        assert group.scored[:, -1].all()
        assert group.scored.sum() == len(group)
        assert "<unk>" not in text(group.tokens.ravel())
        assert (group.tokens != group.counterfactual).any(1).all()


def test_the_indirect_object_is_named_once_and_its_counterfactual_turns_the_second_subject() -> None:
    seen = set()
    for group in of("ioi"):
        abba = group.template.endswith("abba")
        for row, other, right, wrong in zip(
            group.tokens, group.counterfactual, group.correct[:, 0], group.wrong[:, 0], strict=True
        ):
            (io,), (subject,) = text(right), text(wrong)
            prompt = text(row)
            assert prompt.count(io) == 1
            assert prompt.count(subject) == 2
            assert (prompt.index(io) < prompt.index(subject)) == abba
            (place,) = np.flatnonzero(row != other)
            assert prompt[place] == subject
            assert text(other)[place] == io
            seen |= {io, subject}
    assert len(seen) > 60


def test_the_verb_agrees_with_the_subject_and_a_noun_of_the_other_number_stands_between() -> None:
    singular, plural = {"is", "was", "has"}, {"are", "were", "have"}
    content = read_behaviour(BEHAVIOURS / "agreement.toml").fillers["noun"]
    number = {noun[form]: form for noun in content for form in ("singular", "plural")}
    answers = {"singular": (singular, plural), "plural": (plural, singular)}
    for group in of("agreement"):
        counts = {"singular": 0, "plural": 0}
        for row, other, right, wrong in zip(
            group.tokens, group.counterfactual, group.correct[:, 0], group.wrong[:, 0], strict=True
        ):
            subject, near = (number[word] for word in text(row) if word in number)
            assert {subject, near} == set(answers)
            assert (set(text(right)), set(text(wrong))) == answers[subject]
            (place,) = np.flatnonzero(row != other)
            changed = text(other)[place]
            assert number[changed] == near
            assert any({changed, text(row)[place]} == set(noun.values()) for noun in content)
            counts[subject] += 1
        assert counts == {"singular": 30, "plural": 30}


@pytest.mark.parametrize("digits", [SINGLE, PAIRS])
def test_later_years_are_right(digits: str) -> None:
    for group in of("greater-than", digits=digits):
        assert 55 <= len(group) <= 60  # without the year that is one token
        for row, other, right, wrong in zip(
            group.tokens, group.counterfactual, group.correct[:, 0], group.wrong[:, 0], strict=True
        ):
            start, first = (int(re.findall(r"17(\d\d)", "".join(text(ids)))[0]) for ids in (row, other))
            assert first == 1
            if digits == PAIRS:
                assert set(text(right)) == {f"{n:02d}" for n in range(100) if n > start}
                assert set(text(wrong)) == {f"{n:02d}" for n in range(100) if n < start}
            else:
                assert set(text(right)) == {str(n) for n in range(10) if n > start // 10}
                assert set(text(wrong)) == {str(n) for n in range(10) if n < start // 10}


def test_pronouns_have_the_gender_of_the_name() -> None:
    lists = read_behaviour(BEHAVIOURS / "pronouns.toml").fillers
    gender = {str(name): kind for kind in ("man", "woman") for name in lists[kind]}
    pronoun = {"man": "he", "woman": "she"}
    for group in of("pronouns"):
        for row, other, right, wrong in zip(
            group.tokens, group.counterfactual, group.correct[:, 0], group.wrong[:, 0], strict=True
        ):
            (own,), (another,) = (
                [gender[word] for word in text(ids) if word in gender] for ids in (row, other)
            )
            assert own != another
            assert (text(right), text(wrong)) == ([pronoun[own]], [pronoun[another]])


def test_the_seed_and_nothing_else_decides() -> None:
    first, again, other = of("ioi"), of("ioi"), of("ioi", seed=2)
    for a, b, c in zip(first, again, other, strict=True):
        assert (a.tokens == b.tokens).all()
        assert a.documents == b.documents
        assert set(a.documents) != set(c.documents)
    fewer = of("ioi", count=20)
    assert all(a.documents[:20] == b.documents for a, b in zip(first, fewer, strict=True))


# what does not fit a tokenizer

SMALL: dict[str, Any] = {
    "title": "Small",
    "templates": [
        {
            "name": "one",
            "text": "We saw the {a:thing} and 17{y:year} by",
            "counterfactual": "We saw the {b:thing} and 1701 by",
            "correct": [" {a}"],
            "wrong": [" {b}"],
        }
    ],
    "fillers": {"thing": ["book", "key", "box", "hat", "pen", "ring", "map", "coat", "two-way", "bag"]},
    "numbers": {"year": {"first": 70, "last": 81}},
}


def write(folder: Path, **changed: Any) -> Path:
    """A file of a behaviour: SMALL, with fields of its template (or tables) replaced."""
    content = json.loads(json.dumps(SMALL))
    for name, value in changed.items():
        (content if name in ("fillers", "numbers", "variants", "templates") else content["templates"][0])[
            name
        ] = value
    path = folder / "behaviour.toml"
    lines = [f"{name} = {_toml(value)}" for name, value in content.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def test_words_of_several_tokens_are_left_out_and_told(tmp_path: Path) -> None:
    found = make(write(tmp_path), count=10)
    assert found.left_out == {"thing": ("two-way",), "year": ()}
    assert found.unaligned == 0
    assert all("two-way" not in name for split in SPLITS for name in found.prompts[split][0].documents)


def test_a_filler_is_in_the_same_split_whatever_is_left_out(tmp_path: Path) -> None:
    def split_of(fillers: list[str]) -> dict[str, str]:
        found = make(write(tmp_path, fillers={"thing": fillers}), count=10).prompts
        return {document.split()[1]: split for split in SPLITS for document in found[split][0].documents}

    whole = SMALL["fillers"]["thing"]
    joined = split_of([name if name != "hat" else "hat" for name in whole])
    # The same list, in another order: it is the words that decide.
    assert split_of(whole[::-1]) == joined
    assert "two-way" not in joined


def test_prompts_that_fall_otherwise_are_left_out_and_told(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = make(path, digits=PAIRS, count=40)
    years = {document.split()[2] for split in SPLITS for document in found.prompts[split][0].documents}
    assert found.unaligned > 0
    assert years == {str(year) for year in range(70, 82)} - {"76"}  # 1776 is one token
    assert make(path, count=40).unaligned == 0


def test_a_template_without_prompts_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, fillers={"thing": ["book", "a-b", "c-d", "e-f", "key", "g-h"]})
    with pytest.raises(TaskError, match=r"here: template one, \w+: [01] prompts can be made .*4 of thing"):
        make(path, count=10)


def test_answers_that_begin_alike_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, correct=[" book"], wrong=[" book"])
    with pytest.raises(TaskError, match="begin with the same tokens"):
        make(path, count=10)


def test_without_wrong_answers_all_others_are(tmp_path: Path) -> None:
    group = make(write(tmp_path, wrong=[]), count=10, bos=None).prompts["fit"][0]
    assert group.wrong.shape == (len(group), 1, 0)
    assert text(group.tokens[0])[0] == "We"


# files that are refused


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"text": "We saw {a}"}, "slot a is filled from no list"),
        (
            {"text": "We saw {a:things}", "counterfactual": "We"},
            "slot a is filled from things, which is not",
        ),
        ({"text": "We saw the {a:thing.plural}"}, "slot a has no form plural"),
        (
            {"text": "We saw the {a:thing} {b:thing} and the {b:year}"},
            "slot b is filled from thing and from",
        ),
        ({"text": "We saw the {a:thing} of <own> {b:thing}"}, "has a bracket that is no slot"),
        ({"text": "We saw the {a:thing"}, "has a bracket that is no slot"),
        ({"text": "{a:thing} was seen by"}, "text: no space stands before the word a"),
        (
            {"counterfactual": "We saw the {b:thing} of 17{a:thing}"},
            "counterfactual: no space stands before the word a",
        ),
        ({"correct": []}, "there is no right answer"),
        ({"counterfactuals": "We"}, "templates.0.counterfactuals: Extra inputs are not permitted"),
        ({"templates": []}, "templates: "),
        ({"numbers": {"year": {"first": 1, "last": 100}}}, "numbers.year.last: .*less than or equal to 99"),
        ({"fillers": {"thing": ["book", {"one": "key"}]}}, "slot a is filled from thing, which is not"),
    ],
)
def test_a_file_that_cannot_be_filled_is_refused(changed: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=what) as caught:
        read_behaviour(write(tmp_path, **changed))
    assert "behaviour.toml: " in str(caught.value)
    assert caught.value.fix is not None


def test_a_tokenizer_that_hides_where_tokens_are_is_refused(tmp_path: Path) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(TaskError, match="does not say where its tokens are"):
        make_candidates(read_behaviour(write(tmp_path)), Slow(), seed=1, count=9, bos=None, where="here")
