"""The claims of a control: values that its numbers must have, from formulas apart from the harness.

A task whose `[build]` names a script `expected` is a control. The script defines

    def claims(seed: int, **parameters) -> dict[str, dict[str, float | tuple[float, float]]]

by interpretation and quantity: the expected value, or that and an allowance (by how much a correct
measurement may be off, since a formula is asymptotic or a fit has a finite sample). Losses and KL are nats
per scored token, errors shares of scored tokens. Quantities:

| quantity | is |
|---|---|
| `clean`, `clean error` | loss of the untouched model; share of targets that it does not find likeliest |
| `RUNG`, `RUNG error`, `RUNG kl`, `RUNG gap` | quenched loss on that rung, and so on |
| `RUNG annealed` | annealed loss |
| `shape`, `dependence`, `rest` | terms of the telescope |
| `alpha` | fitted amplitude of the noise |
| `radial kurtosis` | that of the whitened residual, less what Gaussian surrogates have |
| `one`, `two`, `a2`, … | orders of the loss in the Gaussian residual, with ` kl` of the KL |
| `bath 0.6`, `bath 1` | annealed loss of the Gaussian residual at that amplitude, less the loss of `mean` |
| `net bits`, `code bits` | bits a token that codes save with a Gaussian remainder, and that they spend |
| `rho`, `rho even`, `rho odd`, `rho NULL`, … | the Gaussian ratio, its parts, and those to other nulls |
| `K: QUANTITY` | any of these of the shell that keeps K sources, of a flow (see `validation.flows`) |
| `k SCALE`, `K: margin SCALE` | where a scale of a flow is crossed; by how much a shell fails it |
| `K: bath`, `K: sources apart`, `K: reading Λ`, … | of one Gaussian mode a shell (see `validation.levels`) |
| `K: NAME at S`, `K: NAME` | number of the S-th site of a chain, or of all of it (see `validation.layers`) |
| `K: tau2 NAME`, `K: spread NAME` | how far tissues of tokens differ (see `validation.tissues`) |

All that are made of several rungs are in `validation.combined`. Each may end in ` at least` or ` at most`:
then only a deviation to the other side counts. The script may also define `laws() -> list[dict]`, power laws
across tasks, with the fields of `Law`, and `figure() -> dict` (see `remainder.validation.figures`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, Literal, NamedTuple

from remainder.errors import TaskError
from remainder.record.flow import SCALES
from remainder.record.layers import ChainNumbers, SiteNumbers
from remainder.record.modes import KINDS
from remainder.record.rungs import ALL, AMPLITUDES, KERNELS
from remainder.record.tissues import QUANTITIES
from remainder.task.script import guarded
from remainder.validation.combined import COMBINED

__all__ = ["Claim", "ClaimedQuantity", "Law", "Needs", "needs", "parse_quantity", "read_claims", "read_laws"]

Kind = Literal[
    "loss",
    "error",
    "kl",
    "gap",
    "annealed",
    "shape",
    "dependence",
    "rest",
    "alpha",
    "radial kurtosis",
    "combined",
    "scale",
    "margin",
    "of a shell",
    "of layers",
    "of modes",
    "tau2",
    "spread",
]
Side = Literal["equal", "at least", "at most"]

_OF_A_RUNG: tuple[Kind, ...] = ("error", "kl", "gap", "annealed")
_TERMS: dict[Kind, tuple[str, ...]] = {
    "shape": ("full", "permuted"),
    "dependence": ("permuted", "matched"),
    "rest": ("matched",),
}
"""Terms of the telescope, and the rungs that each is made from."""
_OF_SCALES: dict[str, tuple[str, ...]] = {
    "shape": ("mean", "full", "permuted"),
    "perturbative": ("mean", *AMPLITUDES),
    "raw": (),
    "bath": ("mean", *AMPLITUDES),
}
"""Scales of a flow, and the rungs that their criteria take beside `raw`."""
_OF_TISSUES: tuple[Kind, ...] = ("tau2", "spread")
_WHOLE: tuple[Kind, ...] = ("alpha", "radial kurtosis")
_OF_LAYERS: dict[str, bool] = {
    **{name.replace("_", " "): True for name in SiteNumbers.model_fields},
    **{name.replace("_", " "): False for name in ChainNumbers.model_fields},
}
"""Numbers of layers, and whether each is of a site."""
_OF_MODES = re.compile(rf"bath|sources apart|({'|'.join(KINDS)}) [0-9.]+")
_RUNGS = {*KERNELS, "coupled", "full-sequential", "full-counterterm"}
"""The last two are of several sites at once: `validation.several_sites`."""
_ANNEALED_PAIRS = 8
_SIDES: tuple[Side, ...] = ("at least", "at most")


@dataclass(frozen=True)
class ClaimedQuantity:
    """A number that is compared, and the side to which a deviation counts."""

    text: str
    """The name that the control gives it."""
    kind: Kind
    rung: str | None
    """`clean`, a rung, the name of a scale, or None for what belongs to none."""
    side: Side = "equal"
    shell: int | None = None
    """How many sources the shell keeps; None where it is of no shell."""
    inner: ClaimedQuantity | None = None
    """The quantity of the shell, as of any record; of kind `of a shell` only."""
    site: int | None = None
    """The site of a chain that it is of, from 1; None where it is of none."""

    @property
    def bare(self) -> str:
        """The name without the side."""
        return self.text.removesuffix(f" {self.side}")


@dataclass(frozen=True)
class Claim:
    """One expected value of a control."""

    interpretation: str
    quantity: ClaimedQuantity
    expected: float
    allowance: float = 0.0


@dataclass(frozen=True)
class Law:
    """|quantity| ∝ x^exponent across tasks."""

    name: str
    quantity: str
    interpretation: str
    tasks: Mapping[str, float]
    """x by the id of a task."""
    exponent: float
    tolerance: float


class Needs(NamedTuple):
    """All that must be measured for some quantities; `pairs` is None for as many as the tier has."""

    rungs: tuple[str, ...]
    pairs: int | None


def parse_quantity(text: str, place: str) -> ClaimedQuantity:
    """The quantity that a control writes as `text`.

    Raises:
        TaskError: if there is none of that name; the message begins with `place`.
    """
    bare = text
    side: Side = "equal"
    for one in _SIDES:
        if text.endswith(f" {one}"):
            bare, side = text.removesuffix(f" {one}"), one
    if (of_flow := _of_a_flow(text, bare, side, place)) is not None:
        return of_flow
    if bare in COMBINED:
        return ClaimedQuantity(text, "combined", None, side)
    if bare in _TERMS or bare in _WHOLE:
        return ClaimedQuantity(text, bare, None, side)
    rung, _, word = bare.partition(" ")
    if rung == "clean" and word in ("", "error"):
        return ClaimedQuantity(text, word or "loss", rung, side)  # type: ignore[arg-type]
    if rung in _RUNGS and word in ("", *_OF_A_RUNG):
        return ClaimedQuantity(text, word or "loss", rung, side)  # type: ignore[arg-type]
    raise TaskError(
        f"{place}: there is no quantity {text!r}",
        fix=f"write a rung, alone or before {', '.join(_OF_A_RUNG)}; clean, clean error; or one of "
        f"{', '.join([*_TERMS, *_WHOLE, *COMBINED])}; at least or at most may follow",
    )


def _of_a_flow(text: str, bare: str, side: Side, place: str) -> ClaimedQuantity | None:
    """The quantity of a flow, one of its shells, layers or modes that this is; None if it is of none."""
    keep, colon, own = bare.partition(": ")
    if colon and keep.isdecimal():
        name, at, site = own.partition(" at ")
        if _OF_LAYERS.get(name) is bool(at) and (not at or site.isdecimal()):
            return ClaimedQuantity(
                text,
                "of layers",
                name.replace(" ", "_"),
                side,
                int(keep),
                site=int(site) if at else None,
            )
        if _OF_MODES.fullmatch(own):
            return ClaimedQuantity(text, "of modes", own, side, int(keep))
        scale = own.removeprefix("margin ")
        if scale in SCALES and scale != own:
            return ClaimedQuantity(text, "margin", scale, side, int(keep))
        word, _, name = own.partition(" ")
        if word in _OF_TISSUES and name in QUANTITIES:
            return ClaimedQuantity(text, word, name, side, int(keep))
        return ClaimedQuantity(text, "of a shell", None, side, int(keep), parse_quantity(own, place))
    if bare.startswith("k ") and (scale := bare.removeprefix("k ")) in SCALES:
        return ClaimedQuantity(text, "scale", scale, side)
    return None


def read_claims(
    script: ModuleType, seed: int, parameters: Mapping[str, Any], place: str, *, more: bool = False
) -> list[Claim]:
    """The claims that a script makes about the world of `seed`.

    Args:
        parameters: the parameters of the task's build script.
        place: name of the script in messages.
        more: whether these come beside others, so that there may be none.

    Raises:
        TaskError: if it defines none, or one is malformed.
    """
    made = _call(script, "claims", place, seed, **parameters)
    found = []
    for interpretation, quantities in _mapping(made, f"{place}: claims()").items():
        inside = f"{place}: {interpretation}"
        for text, value in _mapping(quantities, inside).items():
            expected, allowance = value if isinstance(value, tuple) and len(value) == 2 else (value, 0.0)
            here = f"{inside}: {text}"
            quantity = parse_quantity(text, inside)
            found.append(Claim(interpretation, quantity, _number(expected, here), _number(allowance, here)))
            if found[-1].allowance < 0:
                raise TaskError(f"{here}: the allowance is negative", fix="give its size")
    if not found and not more:
        raise TaskError(f"{place} claims nothing", fix="claim a value, or remove `expected` from [build]")
    return found


def read_laws(script: ModuleType, place: str) -> list[Law]:
    """The power laws that a script states, if any.

    Raises:
        TaskError: if one is malformed.
    """
    if not hasattr(script, "laws"):
        return []
    laws = _call(script, "laws", place)
    if not isinstance(laws, (list, tuple)):
        raise TaskError(f"{place}: laws() gave {type(laws).__name__}", fix="give a list of laws")
    return [_law(content, place) for content in laws]


def needs(quantities: Iterable[ClaimedQuantity]) -> Needs:
    """The rungs and pairs of draws that some quantities of one interpretation take."""
    rungs: dict[str, None] = {"raw": None}
    pairs = None
    for claimed in quantities:
        quantity = claimed if claimed.inner is None else claimed.inner
        if quantity.kind in ("scale", "margin"):
            rungs |= dict.fromkeys(_OF_SCALES[str(quantity.rung)])
            continue
        if quantity.kind in _WHOLE or quantity.rung == "coupled":
            return Needs((ALL,), None)
        rungs |= dict.fromkeys(_TERMS.get(quantity.kind, ()))
        if quantity.kind == "combined":
            rungs |= dict.fromkeys(COMBINED[quantity.bare].rungs)
        if quantity.rung not in (None, "clean"):
            rungs[str(quantity.rung)] = None
        if quantity.kind == "annealed":
            pairs = _ANNEALED_PAIRS
    return Needs(tuple(rungs), pairs)


def _law(content: Any, place: str) -> Law:
    given = _mapping(content, f"{place}: laws()")
    wanted = {field.name for field in fields(Law)}
    if given.keys() != wanted:
        odd = ", ".join(sorted(given.keys() ^ wanted))
        raise TaskError(f"{place}: laws(): fields missing or foreign: {odd}", fix="give the fields of a Law")
    here = f"{place}: law {given['name']}"
    numbers = {name: _number(given[name], f"{here}: {name}") for name in ("exponent", "tolerance")}
    tasks = {task: _number(x, f"{here}: {task}") for task, x in _mapping(given["tasks"], here).items()}
    if len(tasks) < 3 or min(tasks.values()) <= 0:
        raise TaskError(f"{here}: x by task is {tasks}", fix="give at least three positive x")
    parse_quantity(given["quantity"], here)
    return Law(**{**given, **numbers, "tasks": tasks})


def _call(script: ModuleType, name: str, place: str, *arguments: Any, **keywords: Any) -> Any:
    if not callable(getattr(script, name, None)):
        raise TaskError(f"{place} defines no function {name}", fix=f"define {name}(seed, **parameters)")
    with guarded(f"{place}: {name}()"):
        return getattr(script, name)(*arguments, **keywords)


def _mapping(content: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise TaskError(f"{place}: is no table by name", fix="give a dict whose keys are names")
    return content


def _number(value: Any, place: str) -> float:
    """A finite number, whichever library made it."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TaskError(f"{place}: {value!r} is not a finite number", fix="give a number, or a pair of them")
    return number
