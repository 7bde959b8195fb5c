"""What controls may claim, and what is said of a claim that is malformed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from remainder.errors import TaskError
from remainder.record.rungs import ALL, RUNGS
from remainder.validation.claims import needs, parse_quantity, read_claims, read_laws
from remainder.validation.figures import read_figure


def script(**functions: Any) -> ModuleType:
    module = ModuleType("expected")
    vars(module).update(functions)
    return module


@pytest.mark.parametrize(
    ("text", "kind", "rung", "side"),
    [
        ("clean", "loss", "clean", "equal"),
        ("clean error", "error", "clean", "equal"),
        ("full", "loss", "full", "equal"),
        ("full-unshrunk kl", "kl", "full-unshrunk", "equal"),
        ("permuted gap", "gap", "permuted", "equal"),
        ("perturbative-8 annealed at least", "annealed", "perturbative-8", "at least"),
        ("raw error at most", "error", "raw", "at most"),
        ("shape", "shape", None, "equal"),
        ("rest at least", "rest", None, "at least"),
        ("radial kurtosis at most", "radial kurtosis", None, "at most"),
    ],
)
def test_quantities_are_read(text: str, kind: str, rung: str | None, side: str) -> None:
    found = parse_quantity(text, "here")
    assert (found.kind, found.rung, found.side, found.text) == (kind, rung, side, text)
    assert found.bare == text.replace(" at least", "").replace(" at most", "")


@pytest.mark.parametrize(
    "text", ["", "clean kl", "clean gap", "fool", "full loss", "full  kl", "kl", "at least"]
)
def test_other_quantities_are_refused(text: str) -> None:
    with pytest.raises(TaskError, match=r"here: there is no quantity .*\n.*annealed.*radial kurtosis"):
        parse_quantity(text, "here")


@pytest.mark.parametrize(
    ("texts", "rungs", "pairs"),
    [
        (["clean", "clean error"], {"raw"}, None),
        (["full kl", "permuted at least"], {"raw", "full", "permuted"}, None),
        (["shape"], {"raw", "full", "permuted"}, None),
        (["dependence"], {"raw", "permuted", "matched"}, None),
        (["rest"], {"raw", "matched"}, None),
        (["mean annealed", "full"], {"raw", "mean", "full"}, 8),
        (["alpha", "full"], {ALL}, None),
        (["radial kurtosis"], {ALL}, None),
        (["coupled annealed"], {ALL}, None),
    ],
)
def test_only_what_is_needed_is_measured(texts: list[str], rungs: set[str], pairs: int | None) -> None:
    found = needs([parse_quantity(text, "here") for text in texts])
    assert set(found.rungs) == rungs
    assert found.pairs == pairs
    assert set(found.rungs) <= {*RUNGS, ALL}


def test_claims_are_of_the_seed_and_the_parameters() -> None:
    def claims(seed: int, slope: float = 1.0) -> dict[str, Any]:
        return {"one": {"raw": slope * seed, "full at most": (0.5, 0.25)}, "two": {"clean": 1}}

    found = read_claims(script(claims=claims), 7, {"slope": 2.0}, "here")
    assert [(one.interpretation, one.quantity.text, one.expected, one.allowance) for one in found] == [
        ("one", "raw", 14.0, 0.0),
        ("one", "full at most", 0.5, 0.25),
        ("two", "clean", 1.0, 0.0),
    ]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({}, "claims nothing"),
        ([1], r"claims\(\): is no table"),
        ({"one": 3.0}, "here: one: is no table"),
        ({"one": {"raw": "much"}}, "one: raw: 'much' is not a finite number"),
        ({"one": {"raw": float("nan")}}, "one: raw: nan is not a finite number"),
        ({"one": {"raw": (1.0, 2.0, 3.0)}}, "is not a finite number"),
        ({"one": {"raw": (1.0, -0.1)}}, "allowance is negative"),
        ({"one": {"row": 1.0}}, "here: one: there is no quantity 'row'"),
    ],
)
def test_malformed_claims_are_refused(made: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        read_claims(script(claims=lambda seed: made), 0, {}, "here")


def test_a_script_without_claims_is_refused() -> None:
    with pytest.raises(TaskError, match="here defines no function claims"):
        read_claims(script(), 0, {}, "here")


LAW = {
    "name": "inverse",
    "quantity": "shape",
    "interpretation": "mean",
    "tasks": {"c/1": 1, "c/2": 2, "c/3": 3},
    "exponent": -1,
    "tolerance": 0.1,
}


def test_laws_are_read() -> None:
    assert read_laws(script(), "here") == []
    (law,) = read_laws(script(laws=lambda: [LAW]), "here")
    assert (law.name, law.quantity, dict(law.tasks)["c/3"]) == ("inverse", "shape", 3)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"colour": "red"}, r"laws\(\): fields missing or foreign: colour"),
        ({"exponent": "one"}, "law inverse: exponent: 'one' is not a finite number"),
        ({"tasks": [1, 2, 3]}, "law inverse: is no table"),
        ({"quantity": "form"}, "law inverse: there is no quantity 'form'"),
        ({"tasks": {"c/1": 1, "c/2": 2}}, "at least three positive x"),
        ({"tasks": {"c/1": 1, "c/2": 2, "c/3": 0}}, "at least three positive x"),
    ],
)
def test_malformed_laws_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        read_laws(script(laws=lambda: [{**LAW, **changed}]), "here")


def panel(**changed: Any) -> dict[str, Any]:
    return {
        "kind": "bars",
        "title": "",
        "xlabel": "",
        "ylabel": "nats",
        "series": [{"quantity": "raw", "label": "raw"}],
        "points": [{"task": "c/1", "interpretation": "mean", "x": "one"}],
        **changed,
    }


def figure(**changed: Any) -> dict[str, Any]:
    return {"name": "made-up", "title": "t", "caption": "c", "panels": [panel(**changed)]}


def test_figures_are_read() -> None:
    assert read_figure(script(), "here") is None
    found = read_figure(script(figure=figure), "here")
    assert found is not None
    assert list(found.every_number()) == [("c/1", "mean", "raw")]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kind": "pie"}, r"figure\(\): panels.0.kind"),
        ({"series": []}, r"panels.0.series"),
        ({"colour": "red"}, r"panels.0.colour"),
        ({"kind": "sweep"}, "x is 'one'\n.*sweep need a number"),
        ({"points": [{"task": "c/1", "interpretation": "mean", "x": 1.0}]}, "bars need a name"),
        (
            {"kind": "law", "points": [{"task": "c/1", "interpretation": "mean", "x": 0.0}]},
            "law need a positive number",
        ),
    ],
)
def test_malformed_figures_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        read_figure(script(figure=lambda: figure(**changed)), "here")
