"""Near and far, token by token: what is kept of it, and all numbers that follow from the tokens' values.

1. Of every scored token, for the first order of keeping and each number k of near sources: the losses of some
   rungs less the clean one, and the KL of those that a ratio needs. Of other orders, their sums over each
   document: they are compared with the first at equal k.
2. Of a tissue, a group of tokens, the same numbers as of all. One with fewer than `FEWEST` evaluation tokens,
   or in fewer documents than an interval needs, has none.
3. `between`: how far tissues differ beyond sampling and beyond the entropy of the clean model
   (`record.between`), in what leaving the bath out costs, in what a Gaussian costs, and in shape.
4. Statements that the picture of a hierarchy makes, for each k:

   | statement | asks |
   |---|---|
   | `near` | raw of the first order − raw of each other < 0, where neither none nor all are kept |
   | `far` | abs(full − permuted) and abs(full − cluster) ≤ 5 % of full − mean |
   | `alike` | abs(full − permuted) ≤ 5 % of full − mean, in every tissue |
   | `own` | labels that are permuted within deciles of entropy spread raw as far in fewer than the level |

   The first three hold where upper ends are below 0 and fail where a lower end is above; ends are
   simultaneous over k, sides and tissues. `own` is Bonferroni's over k, and cannot fail. These seven families
   of claims share the level by Holm's rule.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.record.between import Between, Groups, bands_of, between, simultaneous_means
from remainder.record.intervals import MINIMUM_DOCUMENTS, Bootstrap, Ratio
from remainder.record.json import significant
from remainder.record.number import FrozenModel, Number, Real, Sha256
from remainder.record.schema import SubmissionInfo, TaskInfo
from remainder.record.verdicts import Sides, Verdict, verdicts_of, within

__all__ = [
    "FEWEST",
    "LOSSES",
    "QUANTITIES",
    "RATIO",
    "STATEMENTS",
    "At",
    "Follows",
    "Shell",
    "Spread",
    "Summaries",
    "Tissue",
    "TissueAt",
    "TissueValues",
    "Tissues",
    "Worst",
    "column_of",
    "columns_of",
    "summaries_of",
]

LOSSES = ("raw", "mean", "full", "permuted", "cluster")
"""Rungs whose losses are kept."""
RATIO = ("raw", "mirror", "noise-fitted")
"""Rungs whose KLs are kept, of which ρ is made."""
STATEMENTS = ("near", "far", "alike", "own")
"""Statements at each number of near sources, in the order of tables."""
QUANTITIES = ("raw", "full", "shape")
"""Quantities in which tissues may differ."""
FEWEST = 50
"""Evaluation tokens below which a tissue has no numbers."""

_SHARE = 0.05
_KL_ROUNDING = 1e-8  # nats a token

Array = NDArray[np.float64]


def columns_of() -> list[str]:
    """Names of the values of a token at one k."""
    return [*LOSSES, *(f"kl_{rung}" for rung in RATIO)]


def column_of(name: str, keep: int) -> str:
    """The column of the table of tokens."""
    return f"{name}:{keep}"


class Tissue(FrozenModel):
    """A group of tokens whose codes point the same way."""

    calibration: int
    """Calibration tokens."""
    tokens: int
    """Scored evaluation tokens."""
    documents: int
    """Evaluation documents that have one."""
    entropy: Real | None
    """Mean of the clean model's, nats; null where targets are numbers."""
    sources: tuple[int, ...]
    """Sources that stand out against other tissues."""
    words: tuple[str, ...]
    """Input tokens that stand out; empty where there is no text."""


class At(FrozenModel):
    """Numbers of one order at one number of near sources; losses are less the clean one, nats a token."""

    raw: Number
    mean: Number
    full: Number
    permuted: Number
    cluster: Number
    shape: Number
    """full − permuted."""
    told: Number
    """full − cluster: what a Gaussian gains that knows the cell of what is near."""
    rho_even: Number
    rho_odd: Number


class TissueAt(FrozenModel):
    """Numbers of a tissue."""

    raw: Number
    mean: Number
    full: Number
    permuted: Number
    shape: Number
    rho_even: Number


class Spread(FrozenModel):
    """The differences of tissues in one quantity."""

    variance: Real | None
    """τ², nats²."""
    error: Real | None
    p: Real | None
    permuted: Real | None
    """95 % of permuted labels have a τ² below."""
    reason: str | None = None

    @classmethod
    def of(cls, found: Between | str) -> Spread:
        if isinstance(found, str):
            return cls(variance=None, error=None, p=None, permuted=None, reason=found)
        return cls(**found._asdict())


class Worst(FrozenModel):
    """The tissue that leaving the bath out harms most."""

    tissue: int | None
    """The number of the tissue, from 1; null where there is none."""
    raw: Number
    """The value, with an interval that is valid for all tissues at once."""


class Shell(FrozenModel):
    """Everything at one number of near sources."""

    keep: int
    orders: dict[str, At]
    """Results by order; with none or all kept only the first is there: all others keep the same."""
    nearer: dict[str, Number]
    """Raw of the first order less raw of each other."""
    tissues: tuple[TissueAt, ...]
    """The tissues by the first order."""
    between: dict[str, Spread]
    worst: Worst


class Follows(FrozenModel):
    """The part that follows from the values."""

    tissues: tuple[Tissue, ...]
    shells: tuple[Shell, ...]
    statements: dict[str, tuple[Verdict, ...]]
    """Verdicts at each number of near sources, by the name of the statement."""


class Tissues(FrozenModel):
    """Near and far on one task, and the tissues of its tokens."""

    tissues_version: int = 1
    protocol: str
    task: TaskInfo
    submission: SubmissionInfo
    tier: str
    dtype: str
    seed: int
    orders: tuple[str, ...]
    """The orders in which near sources are chosen; tissues are by the first."""
    sources: int
    """How many there are to keep; the largest number at one token, or of `index` in the dictionary."""
    asked: int
    """Tissues that k-means was asked for, before those with too few tokens were dissolved."""
    calibration_windows: int
    documents: int
    tokens: int
    unmeasured: dict[str, dict[str, dict[str, str]]]
    """Reasons why a rung has no values, by order, number of near sources and rung."""
    sums: dict[str, dict[str, dict[str, tuple[Real, ...]]]]
    """The sums over each document, by order (but the first), number and column."""
    follows: Follows
    values_sha256: Sha256
    """The hash of the table of tokens beside it."""


class Summaries(NamedTuple):
    """A measurement with the table that its numbers follow from."""

    tissues: Tissues
    tokens: pd.DataFrame


@dataclass(frozen=True)
class TissueValues:
    """Values that everything follows from."""

    orders: tuple[str, ...]
    sources: int
    tokens: pd.DataFrame
    """A row a scored token: `document`, `window`, `position`, `tissue` (from 0), `entropy`, and the values of
    the
    first order by `column_of`."""
    sums: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
    unmeasured: Mapping[str, Mapping[str, Mapping[str, str]]]
    stated: Sequence[Tissue]
    """Tissues, of which only what calibration tells is taken."""

    @property
    def keeps(self) -> list[int]:
        """Numbers of near sources, ascending."""
        return sorted({int(name.partition(":")[2]) for name in self.tokens.columns if ":" in name})

    @cached_property
    def documents(self) -> list[str]:
        """Sorted."""
        return sorted(self.tokens["document"].unique())

    @cached_property
    def groups(self) -> Groups:
        """Tokens by document and tissue."""
        document = np.searchsorted(self.documents, self.tokens["document"].to_numpy(dtype=str))
        label = self.tokens["tissue"].to_numpy(dtype=np.int64)
        return Groups(document.astype(np.int64), label, len(self.documents), len(self.stated))

    def column(self, name: str, keep: int) -> Array | str:
        """Values of all tokens, or why there are none."""
        place = column_of(name, keep)
        if place in self.tokens:
            return self.tokens[place].to_numpy(dtype=np.float64)
        return self.reason(self.orders[0], name, keep)

    def reason(self, order: str, name: str, keep: int) -> str:
        """Why an order has no values of this name."""
        rung = name.removeprefix("kl_")
        return self.unmeasured.get(order, {}).get(str(keep), {}).get(rung, f"rung {rung} was not measured")


def summaries_of(values: TissueValues, *, seed: int) -> Follows:
    """Everything that follows from the values.

    Args:
        seed: of the bootstrap and the permutations.
    """
    return _Summary(values, seed).follows()


class _Sums(NamedTuple):
    """Sums over each document, of some tokens in one order at one k; or why there are none."""

    tokens: Array
    columns: Mapping[str, Array | str]

    def ratio(self, *names: str) -> Ratio | str:
        """The first column less the second, a token."""
        found = [self.columns[name] for name in names]
        if missing := [one for one in found if isinstance(one, str)]:
            return missing[0]
        first = np.asarray(found[0])
        return Ratio(first if len(found) == 1 else first - np.asarray(found[1]), self.tokens)

    def rho(self, sign: int) -> Ratio | str:
        """ρ even (sign 1) or odd (−1)."""
        found = [self.columns[f"kl_{rung}"] for rung in RATIO]
        if missing := [one for one in found if isinstance(one, str)]:
            return missing[0]
        raw, mirror, noise = (np.asarray(one) for one in found)
        if noise.sum() < _KL_ROUNDING * self.tokens.sum():
            return "noise of the bath's covariance does no harm"
        return Ratio((raw + sign * mirror) / 2, noise, "positive" if sign > 0 else "plain")


class _Summary:
    """The numbers of one set of values."""

    def __init__(self, values: TissueValues, seed: int) -> None:
        self.values, self.seed = values, seed
        self.bootstrap = Bootstrap(len(values.documents), seed=seed)
        self.counts = values.groups.counts()
        self.tokens = self.counts.sum(1)
        self.whole = {keep: self._whole(keep) for keep in values.keeps}
        self.parts = {keep: self._parts(keep) for keep in values.keeps}

    def _columns(self, keep: int) -> dict[str, Array | str]:
        """Sums over documents and tissues."""
        found: dict[str, Array | str] = {}
        for name in columns_of():
            own = self.values.column(name, keep)
            found[name] = own if isinstance(own, str) else self.values.groups.sums(own[:, None])[..., 0]
        return found

    def _whole(self, keep: int) -> dict[str, _Sums]:
        first = {
            name: one if isinstance(one, str) else one.sum(1) for name, one in self._columns(keep).items()
        }
        found = {self.values.orders[0]: _Sums(self.tokens, first)}
        for order in self.values.orders[1:]:
            if (own := self.values.sums.get(order, {}).get(str(keep))) is not None:
                columns: dict[str, Array | str] = {
                    name: np.array(own[name], dtype=np.float64)
                    if name in own
                    else self.values.reason(order, name, keep)
                    for name in columns_of()
                }
                found[order] = _Sums(self.tokens, columns)
        return found

    def _parts(self, keep: int) -> list[_Sums | str]:
        columns = self._columns(keep)
        found: list[_Sums | str] = []
        for tissue in range(len(self.values.stated)):
            tokens = self.counts[:, tissue]
            own = {name: one if isinstance(one, str) else one[:, tissue] for name, one in columns.items()}
            found.append(self._few(tissue) or _Sums(tokens, own))
        return found

    def _few(self, tissue: int) -> str | None:
        """Why a tissue has no numbers."""
        tokens, documents = int(self.counts[:, tissue].sum()), int((self.counts[:, tissue] > 0).sum())
        if tokens < FEWEST:
            return f"{tokens} evaluation tokens; a tissue needs {FEWEST}"
        if documents < MINIMUM_DOCUMENTS:
            return f"it is in {documents} evaluation documents; an interval needs {MINIMUM_DOCUMENTS}"
        return None

    @cached_property
    def _enough(self) -> NDArray[np.int64]:
        """Tissues that have numbers."""
        return np.flatnonzero([self._few(tissue) is None for tissue in range(len(self.values.stated))])

    # ------------------------------------------------------------------------------------------ numbers

    def follows(self) -> Follows:
        spreads = self._spreads()
        shells = tuple(
            Shell(
                keep=keep,
                orders={order: self._at(sums) for order, sums in self.whole[keep].items()},
                nearer=self._nearer(keep),
                tissues=tuple(self._tissue_at(part) for part in self.parts[keep]),
                between={name: Spread.of(spreads[keep, name]) for name in QUANTITIES},
                worst=self._worst(keep),
            )
            for keep in self.values.keeps
        )
        return Follows(tissues=self._tissues(), shells=shells, statements=self._statements(spreads))

    def _number(self, ratio: Ratio | str) -> Number:
        return Number.of_ratio(self.bootstrap, ratio)

    def _at(self, sums: _Sums) -> At:
        return At(
            **{rung: self._number(sums.ratio(rung)) for rung in LOSSES},
            shape=self._number(sums.ratio("full", "permuted")),
            told=self._number(sums.ratio("full", "cluster")),
            rho_even=self._number(sums.rho(1)),
            rho_odd=self._number(sums.rho(-1)),
        )

    def _tissue_at(self, part: _Sums | str) -> TissueAt:
        def number(*names: str) -> Number:
            return Number.null(part) if isinstance(part, str) else self._number(part.ratio(*names))

        return TissueAt(
            **{rung: number(rung) for rung in ("raw", "mean", "full", "permuted")},
            shape=number("full", "permuted"),
            rho_even=Number.null(part) if isinstance(part, str) else self._number(part.rho(1)),
        )

    def _nearer(self, keep: int) -> dict[str, Number]:
        first, *others = self.whole[keep].items()
        return {
            order: self._number(
                _Sums(self.tokens, {"a": first[1].columns["raw"], "b": sums.columns["raw"]}).ratio("a", "b")
            )
            for order, sums in others
        }

    def _tissues(self) -> tuple[Tissue, ...]:
        entropy = self.values.tokens["entropy"].to_numpy(dtype=np.float64)
        label = self.values.groups.label
        return tuple(
            stated.model_copy(
                update={
                    "tokens": int(self.counts[:, tissue].sum()),
                    "documents": int((self.counts[:, tissue] > 0).sum()),
                    "entropy": _mean(entropy[label == tissue]),
                }
            )
            for tissue, stated in enumerate(self.values.stated)
        )

    def _worst(self, keep: int) -> Worst:
        parts = {
            tissue: ratio
            for tissue in self._enough
            if not isinstance(part := self.parts[keep][tissue], str)
            and isinstance(ratio := part.ratio("raw"), Ratio)
        }
        if not parts:
            return Worst(tissue=None, raw=Number.null("no tissue has a number"))
        numerators = np.stack([ratio.numerator for ratio in parts.values()], axis=1)
        denominators = np.stack([ratio.denominator for ratio in parts.values()], axis=1)
        found = simultaneous_means(self.bootstrap, numerators, denominators)
        at = int(found.values.argmax())
        low, high = float(found.low[at]), float(found.high[at])
        bounded = bool(np.isfinite([low, high]).all())
        return Worst(
            tissue=1 + int(list(parts)[at]),
            raw=Number(
                value=float(found.values[at]),
                low=low if bounded else None,
                high=high if bounded else None,
                reason=None if bounded else "unbounded: a tissue is in too few documents",
            ),
        )

    def _spreads(self) -> dict[tuple[int, str], Between | str]:
        """τ² of every k and quantity, all by the same permutations."""
        groups = self.values.groups
        chosen = np.isin(groups.label, self._enough)
        entropy = self.values.tokens["entropy"].to_numpy(dtype=np.float64)
        bands = bands_of(None if np.isnan(entropy).all() else entropy[chosen], int(chosen.sum()))
        some = Groups(
            groups.document[chosen],
            np.searchsorted(self._enough, groups.label[chosen]),
            groups.documents,
            len(self._enough),
        )
        found: dict[tuple[int, str], Between | str] = {}
        columns: dict[tuple[int, str], Array] = {}
        for keep in self.values.keeps:
            for name in QUANTITIES:
                value = self._quantity(name, keep)
                if isinstance(value, str):
                    found[keep, name] = value
                else:
                    columns[keep, name] = value[chosen]
        if columns:
            stacked = np.stack(list(columns.values()), axis=1)
            found |= dict(zip(columns, between(some, stacked, bands, seed=self.seed), strict=True))
        return found

    def _quantity(self, name: str, keep: int) -> Array | str:
        names = ("full", "permuted") if name == "shape" else (name,)
        found = [self.values.column(one, keep) for one in names]
        if missing := [one for one in found if isinstance(one, str)]:
            return missing[0]
        first = np.asarray(found[0])
        return first if len(found) == 1 else first - np.asarray(found[1])

    # --------------------------------------------------------------------------------------- statements

    def _statements(self, spreads: Mapping[tuple[int, str], Between | str]) -> dict[str, tuple[Verdict, ...]]:
        keeps = self.values.keeps
        sides = {
            "near": [self._near(keep) for keep in keeps],
            "far": [self._far(keep) for keep in keeps],
            "alike": [self._alike(keep) for keep in keeps],
        }
        own = [spreads[keep, "raw"] for keep in keeps]
        tests = {"own": [one if isinstance(one, str) else one.p for one in own]}
        return verdicts_of(sides, self.tokens, seed=self.seed, tests=tests)

    def _near(self, keep: int) -> Sides | str:
        first, *others = self.whole[keep].values()
        if not others:
            same = keep in (0, self.values.sources)
            return "every order keeps the same" if same else "one order alone was measured"
        found = []
        for other in others:
            a, b = first.columns["raw"], other.columns["raw"]
            if isinstance(a, str) or isinstance(b, str):
                return a if isinstance(a, str) else str(b)
            found.append(a - b)
        return Sides.of(found)

    def _far(self, keep: int) -> Sides | str:
        sums = self.whole[keep][self.values.orders[0]]
        room, *sizes = (sums.ratio("full", other) for other in ("mean", "permuted", "cluster"))
        return _within([*sizes], [room, room])

    def _alike(self, keep: int) -> Sides | str:
        parts = [self.parts[keep][tissue] for tissue in self._enough]
        known = [part for part in parts if not isinstance(part, str)]
        if len(known) < 2:
            return "one tissue alone has nothing to be like"
        return _within(
            [part.ratio("full", "permuted") for part in known], [part.ratio("full", "mean") for part in known]
        )


def _within(sizes: Sequence[Ratio | str], rooms: Sequence[Ratio | str]) -> Sides | str:
    """|size| ≤ 5 % of its room, as two sides each; or why there are none."""
    found = []
    for size, room in zip(sizes, rooms, strict=True):
        if isinstance(size, str) or isinstance(room, str):
            return size if isinstance(size, str) else str(room)
        found.append(within(size.numerator, room.numerator, _SHARE))
    return Sides.of(*found)


def _mean(values: Array) -> float | None:
    return None if not len(values) or np.isnan(values).any() else significant(float(values.mean()))
