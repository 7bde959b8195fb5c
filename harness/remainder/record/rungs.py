"""The table of rungs: what each adds to those before it, and how it is made and spliced in.

A rung is one class and one line here; everything else (plans, measurement, tables, figures, tests) reads this
table. Classes are named by strings, so that tables of finished records are made without torch.

Source: protocol 1, sections 3 and 5; protocol 2, sections 1 and 3.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

__all__ = [
    "ALL",
    "AMPLITUDES",
    "ANNEALED",
    "AROUND",
    "BARE",
    "BATH",
    "BATH_PAIRS",
    "BESIDE",
    "BOARD",
    "BOARD_RUNGS",
    "CIRCUIT_RUNGS",
    "CODED",
    "CONDITIONAL_MEANS",
    "COUPLED",
    "COUPLINGS",
    "CURVE",
    "ERROR_RUNGS",
    "FOLDS",
    "GAUSSIANITY",
    "KERNELS",
    "NULLS",
    "PARTS",
    "PERTURBATIVE",
    "REFERENCE_MEAN",
    "REFITS",
    "RUNGS",
    "SAMPLERS",
    "SCALED",
    "SMALL",
    "STEPS",
    "RungSpec",
    "draws_of",
    "is_deep",
    "is_paid",
    "reference_rung",
    "reference_step",
]

BARE = frozenset({"raw", "true"})
"""Rungs of exact codes alone: where there are no others no bits are counted."""

ALL = "all"
"""Asks for every rung, and for what is only worth its time together with them."""

BOARD = "board"
"""Asks for `BOARD_RUNGS`: what every row of the board has."""

PERTURBATIVE = (2, 4, 8, 32)
"""How many residuals the rungs `perturbative-m` average; m = 1 is `permuted`."""

SMALL = 0.3
"""The amplitude at which a loss is nearly quadratic in what is added."""

AMPLITUDES = {f"full-{SMALL:g}": SMALL, "full-0.6": 0.6, "full": 1.0}
"""Amplitudes of the Gaussian residual by their rungs, ascending; common noise."""

BATH_PAIRS = {f"full-{SMALL:g}": 2, "full-0.6": 4, "full": 4}
"""Fewest antithetic pairs of these rungs wherever all amplitudes are measured."""

BATH = ("full-0.6", "full")
"""Amplitudes whose annealed loss every row of the board has: two tests, fixed beforehand."""

FOLDS = 3
"""Parts that calibration documents are dealt into, for held-out likelihoods and the spread of refits."""


STEPS = 12
"""Steps at which codes are counted: Δ_j = rms · 2^(−j/2), j = 0 … 11."""

CODED = "coded"
"""The rung, and the point of the curve, at which quantising costs next to nothing."""

CURVE = {CODED: 0.01, "coded-10": 0.10, "coded-35": 0.35, "coded-100": 1.00}
"""Points of a rate–distortion curve, finest first: the relative error that quantising is to add at each."""

REFERENCE_MEAN = "reference-mean"
"""The mean activation spliced in: transform coding at no bits."""
_REFERENCE = "reference-"


def reference_rung(step: int) -> str:
    """The rung of transform coding at step Δ_j = rms · 2^(−j/2), j = `step`."""
    return f"{_REFERENCE}{step}"


def reference_step(rung: str) -> int | None:
    """The j of `reference_rung`; None of any other rung."""
    number = rung.removeprefix(_REFERENCE)
    return int(number) if number != rung and number.isdecimal() else None


def is_paid(rung: str) -> bool:
    """Whether the bits of this rung are counted: quantised codes of any kind."""
    return rung in CURVE or rung == REFERENCE_MEAN or reference_step(rung) is not None


class RungSpec(NamedTuple):
    """A rung: what it says, the class that samples it, and what the harness must know to splice it in."""

    adds: str
    """A few words for tables: what the rung adds to those before it."""
    model: str
    """`module:class`; the class is called with a `Calibration`, then with `arguments`."""
    noise: Literal["none", "normal", "bank"] = "none"
    """Source of its draws: none; normal values, in antithetic pairs; or rows of the bank, independently."""
    base: Literal["reconstruction", "activation", "nothing"] = "reconstruction"
    """The place that a sample is added to: x̂, x, or nothing (the sample takes the place of x̂)."""
    needs: tuple[str, ...] = ()
    """Optional fields of `Context` that it may see; all others are withheld."""
    arguments: tuple[float, ...] = ()
    keeps: bool = False
    """Whether it is fitted to all calibration rows (`residual.rows`)."""


_GAUSSIAN = "remainder.residual.gaussian"
_REAL = "remainder.residual.real"
_LADDER = "remainder.residual.ladder"
_AROUND = "remainder.residual.around"
_CONDITIONAL = "remainder.residual.conditional"
_CLUSTER = "remainder.residual.cluster"
_NEIGHBOUR = "remainder.residual.neighbour"
_SPACETIME = "remainder.residual.spacetime"

RUNGS = {
    "raw": RungSpec("nothing: what is left out is zero", f"{_LADDER}:Raw"),
    CODED: RungSpec("quantised codes: what the bits are of", f"{_LADDER}:Raw"),
    "mean": RungSpec("bias", f"{_LADDER}:Mean"),
    "isotropic": RungSpec("total power", f"{_GAUSSIAN}:Isotropic", "normal"),
    "diagonal": RungSpec("power of each coordinate", f"{_GAUSSIAN}:Diagonal", "normal"),
    **{
        rung: RungSpec(
            f"the same, noise × {amplitude:g}", f"{_GAUSSIAN}:Coupled", "normal", arguments=(amplitude, 1.0)
        )
        for rung, amplitude in AMPLITUDES.items()
        if amplitude != 1
    },
    "full": RungSpec("correlations: the Gaussian residual", f"{_GAUSSIAN}:Full", "normal"),
    "full-unshrunk": RungSpec("the same, covariance not shrunk", f"{_GAUSSIAN}:FullUnshrunk", "normal"),
    "linear-mean": RungSpec("what x̂ tells linearly, no noise", f"{_GAUSSIAN}:LinearMean"),
    "linear": RungSpec("the joint Gaussian of x̂ and r", f"{_GAUSSIAN}:Linear", "normal"),
    "temporal": RungSpec("correlation across tokens", f"{_GAUSSIAN}:Temporal", "normal"),
    "full-temporal": RungSpec(
        "covariance of 4 tokens in a row", f"{_SPACETIME}:FullTemporal", "normal", keeps=True
    ),
    "radial": RungSpec("the real scale of each token", f"{_GAUSSIAN}:Radial", "normal"),
    **{
        f"perturbative-{m}": RungSpec(
            f"cumulants, the n-th × {m}^(1−n/2)", f"{_REAL}:Perturbative", "bank", arguments=(m,)
        )
        for m in reversed(PERTURBATIVE)
    },
    "permuted": RungSpec("all one-token shape", f"{_REAL}:Permuted", "bank"),
    "permuted-block": RungSpec("shape, real correlation across tokens", f"{_REAL}:PermutedBlock", "bank"),
    "matched": RungSpec("dependence on x̂ (cells)", f"{_REAL}:Matched", "bank"),
    "cluster": RungSpec("a Gaussian in each cell of x̂", f"{_CLUSTER}:Cluster", "normal", keeps=True),
    "hetero": RungSpec(
        "scale read off the codes", f"{_CONDITIONAL}:Hetero", "normal", needs=("codes",), keeps=True
    ),
    "context": RungSpec("x̂ here and 3 tokens before", f"{_CONDITIONAL}:ContextNoise", "normal", keeps=True),
    "renormalised": RungSpec(
        "what codes tell, and noise", f"{_CONDITIONAL}:Renormalised", "normal", needs=("codes",), keeps=True
    ),
    "renormalised-mean": RungSpec(
        "what codes tell, no noise", f"{_CONDITIONAL}:RenormalisedMean", needs=("codes",), keeps=True
    ),
    "neighbour": RungSpec("residual of the nearest x̂", f"{_NEIGHBOUR}:Neighbour", keeps=True),
    "neighbour-mean": RungSpec("the same, scaled", f"{_NEIGHBOUR}:NeighbourMean", keeps=True),
    "token": RungSpec("input token (diagnostic)", f"{_CONDITIONAL}:Token", needs=("tokens",), keeps=True),
    "true": RungSpec(
        "everything: must equal the clean model", f"{_LADDER}:TrueResidual", needs=("residual",)
    ),
}
"""The ladder, in its order, by the names that tasks and records use.

Rungs above `coded` are of what quantised codes leave out; where nothing is quantised, of what `raw` does.
"""

SAMPLERS = ("cluster", "hetero", "context", "renormalised")
"""Conditional rungs with a density: of these the best stands in the telescope."""

CONDITIONAL_MEANS = ("renormalised-mean", "neighbour-mean", "token")
"""Conditional rungs without noise, which stand against `mean`."""

REFITS = {
    f"full-fold-{fold + 1}": RungSpec(
        f"`full`, fitted without fold {fold + 1}", f"{_GAUSSIAN}:FullFold", "normal", arguments=(fold,)
    )
    for fold in range(FOLDS)
}
"""Refits of `full`, whose spread shows what the choice of calibration documents does."""

NULLS = {
    "noise-fitted": RungSpec(
        "the Gaussian of −r around x", f"{_GAUSSIAN}:FittedNoise", "normal", "activation"
    ),
    "noise-directional": RungSpec(
        "its directions, the length of r",
        f"{_GAUSSIAN}:DirectionalNoise",
        "normal",
        "activation",
        ("residual",),
    ),
    "noise-isotropic": RungSpec(
        "any direction, the length of r", f"{_GAUSSIAN}:IsotropicNoise", "normal", "activation", ("residual",)
    ),
}
"""Noise around the clean activation: the denominators of the Gaussian ratio."""


def _around(
    says: str,
    model: str,
    noise: Literal["none", "normal", "bank"] = "none",
    needs: tuple[str, ...] = (),
    arguments: tuple[float, ...] = (),
) -> RungSpec:
    return RungSpec(says, f"{_AROUND}:{model}", noise, "activation", needs, arguments)


AROUND = {
    "mirror": _around("x + r − 2μ, x̂ mirrored", "AboutMean", needs=("residual",), arguments=(1.0,)),
    "minus-mean": _around("x − μ", "MinusMean"),
    f"residual-{SMALL:g}": _around(
        f"x − μ − {SMALL:g} (r − μ)", "AboutMean", needs=("residual",), arguments=(-SMALL,)
    ),
    f"mirror-{SMALL:g}": _around(
        f"x − μ + {SMALL:g} (r − μ)", "AboutMean", needs=("residual",), arguments=(SMALL,)
    ),
    f"noise-{SMALL:g}": _around(
        f"the Gaussian of −r, × {SMALL:g} about its mean", "ScaledNoise", "normal", arguments=(SMALL,)
    ),
    "noise-centred": _around("the Gaussian of r less its mean", "CentredNoise", "normal"),
    "noise-run": _around("−r of other tokens, as they follow each other", "Run", "bank"),
    "cov-random": _around(
        "directions of the covariance of x, the length of r", "CovRandom", "normal", ("residual",)
    ),
    "real-mixture": _around(
        "the difference of two other activations, the length of r", "RealMixture", "bank", ("residual",)
    ),
    "activation-difference": _around(
        "towards another activation, the length of r", "ActivationDifference", "bank", ("residual",)
    ),
}
"""Other splices around the clean activation, which take the Gaussian ratio apart; see `record.ratio`."""

KERNELS = {**RUNGS, **AROUND, **NULLS}
"""All that may be asked for by name."""

BOARD_RUNGS = (
    *("raw", CODED, "mean", *AMPLITUDES, "permuted"),
    *("renormalised", "cluster", "neighbour"),
    *("mirror", "minus-mean", "noise-fitted", "noise-centred"),
)
"""Rungs of every row of the board, beside the further points of its curve: about forty passes."""


def is_deep(rung: str) -> bool:
    """Whether of a site only the deep plan, `all`, measures this rung: no row of the board has to have it."""
    known = rung in KERNELS or rung in REFITS or rung in BESIDE
    return known and rung not in (*BOARD_RUNGS, *CURVE, "true")


ANNEALED = ("full", "permuted", "coupled")
"""Rungs whose annealed loss is a headline of the deep plan."""


def draws_of(
    rung: str, rungs: Collection[str], pairs: int, annealed_pairs: int, *, whole: bool = False
) -> int:
    """Number of draws of a noisy rung, measured among `rungs`.

    Args:
        pairs: antithetic pairs of every rung.
        annealed_pairs: of those in `ANNEALED`, if more; in plans that are not whole, of the bath's rungs.
        whole: whether the plan is the deep one.
    """
    together = set(rungs) >= BATH_PAIRS.keys()
    more = annealed_pairs if rung in (ANNEALED if whole else (*BATH, *COUPLINGS)) else 0
    return 2 * max(pairs, more, BATH_PAIRS.get(rung, 0) if together else 0)


COUPLED = RungSpec("noise × α*, source × β*", f"{_GAUSSIAN}:Coupled", "normal")
"""`full` with fitted amplitudes; its `arguments` are α and β."""

SCALED = COUPLED._replace(adds="source × β₀*, no noise", noise="none")
"""The mean residual beside the source at the amplitude that is best without noise; α is 0."""

COUPLINGS = ("coupled", "scaled")
"""Rungs with fitted amplitudes: of the deep plan, and of others that name one of them."""

GAUSSIANITY = "gaussianity"
"""The name that asks for tests of Gaussianity, which are no rung."""

PARTS = (*COUPLINGS, GAUSSIANITY)
"""Parts of the deep plan that another plan may name among its rungs."""

BESIDE = {"coupled": COUPLED.adds, "scaled": SCALED.adds, "model": "the untouched model"}
"""Rows of a record that tables show below the ladder, and what each adds."""

CIRCUIT_RUNGS = {
    "raw": "the mean at each position",
    "mean": "one mean for all positions",
    "zero": "nothing",
    "optimal-constant": "the constant that loses least",
    "full": "a Gaussian, one bath a source",
    "full-independent": "a Gaussian, one bath a reader",
    "full-sequential": "the same, layers below coarse-grained",
    "full-sequential-independent": "both",
    "full-counterterm": "a Gaussian that restores moments",
    "full-counterterm-independent": "the same, one bath a reader",
    "permuted": "real values of another prompt",
    "counterfactual": "those of the counterfactual prompt",
}
"""Backgrounds of a circuit, by the name of the rung: what removed edges carry."""

ERROR_RUNGS = {
    "errors-kept": "the mean; but all errors are kept",
    "errors-mean": "the mean; all errors too, kept or not",
    "errors-gaussian": "the mean; all errors a Gaussian",
}
"""Measured of every circuit of features besides: what SAEs miss follows the circuit in all other rungs."""
