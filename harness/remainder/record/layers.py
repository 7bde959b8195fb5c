"""Across layers: what a site's remainder looks like, and costs, once sites below it are coarse-grained.

1. Sites s = 1 … S of one model, in the order of a pass, each with an interpretation x̂_s of which k sources
   are kept at every token. What is left over is r_s = x_s − x̂_s(x_s). To *coarse-grain* a site is to put
   x̂_s(x'_s) there (`raw`), or x̂_s(x'_s) + ε_s with Gaussian ε_s (`full`); x' is the activation in that pass.
2. `raw s` and `full s`: site s alone (*single-shot*). `raw to s` and `full to s`: all sites up to s, with ε
   of single-shot statistics. `sequential to s`: the same, each ε with the statistics of
   r'_s = x'_s − x̂_s(x'_s) where the sites below are coarse-grained so already. Of the first site all three
   are the site alone: nothing lies below it.
3. The *gap given below* is loss(to s) − loss(to s − 1), beside the single-shot gap, loss(s) − clean loss.
4. Remainders: sums over tokens of ‖r_s − mean‖² alone, with `raw` and with `sequential` below; the means are
   those of calibration.
5. How the remainder of site s − 1 *arrives* at s. With b = x̂ + μ put at s − 1 and F the map from there to
   x_s: sums over tokens of ‖F(b + ε) − F(b)‖² (`gaussian`), of ‖x_s − F(b)‖², which is the remainder itself
   (`real`), and of ‖J ε‖², J the derivative of F at b, whose covariance is J Σ Jᵀ (`linear`). Noise is at all
   tokens at once, so that attention carries it along; draws are the same in both.
6. Statements that the picture of a hierarchy makes of a site with sites below, for each k:

   | statement | in words | asks that abs(…) |
   |---|---|---|
   | `kept` | Gaussian layers below leave its power | power given noise − power alone ≤ 10 % of power alone |
   | `linear` | noise below arrives linearly | gaussian − linear ≤ 10 % of linear |
   | `noise` | the remainder below arrives as noise does | real − gaussian ≤ 10 % of gaussian |
   | `additive` | it costs what it costs alone | gap given below − gap alone ≤ 10 % of gap alone |
   | `corrected` | statistics given below do not matter | sequential − full ≤ 5 % of full's gap |

   Verdicts are those of `record.verdicts`: ends are simultaneous over k and sites, and the ten families of
   claims share 5 % by Holm's rule.

Source: protocol 1, section 8; protocol 2, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.number import FrozenModel, Number, Real
from remainder.record.schema import Pinned, Provenance, SubmissionInfo, TaskInfo
from remainder.record.verdicts import Sides, Verdict, verdicts_of, within

__all__ = [
    "ARRIVALS",
    "REMAINDERS",
    "STATEMENTS",
    "Against",
    "Arrived",
    "Chain",
    "ChainNumbers",
    "LayerNumbers",
    "LayerRatios",
    "LayerShell",
    "LayerSite",
    "LayerSums",
    "Layers",
    "RungNumbers",
    "RungSums",
    "SiteFit",
    "SiteNumbers",
    "SiteSums",
    "Spectrum",
    "numbers_of",
    "ratios_of",
    "rungs_of",
    "statements_of",
]

Array = NDArray[np.float64]

STATEMENTS = ("kept", "linear", "noise", "additive", "corrected")
"""Statements of a site with sites below, in the order of tables."""

REMAINDERS = ("alone", "raw", "gaussian")
"""States of the sites below one whose remainder is looked at: the model itself, x̂, or x̂ with noise."""
ARRIVALS = ("linear", "gaussian", "real")
"""Arrivals at a site from the one below: J ε, noise, and the remainder itself."""

_SHARE, _OF_COST = 0.10, 0.05
"""Room that statements leave."""

_NOTHING_BELOW = "nothing lies below it"


class LayerSite(FrozenModel):
    """A site with its interpretation."""

    task: TaskInfo
    submission: SubmissionInfo
    hook: str
    """The hook that is rebuilt."""
    width: int
    sources: int
    """The largest number of sources that are on at one token."""


class RungSums(FrozenModel):
    """Sums over the scored tokens of each document, averaged over draws."""

    loss: tuple[Real, ...]
    """Nats above the clean loss."""
    kl: tuple[Real, ...]
    """KL(clean, spliced), nats."""
    top1: tuple[Real, ...] | None
    """Tokens whose most likely class is the clean one; null of numbers."""


class SiteSums(FrozenModel):
    """Sums of squares over the spliced tokens of each document, averaged over draws."""

    activation: tuple[Real, ...]
    """‖x − mean‖² in the untouched model."""
    remainder: dict[str, tuple[Real, ...]]
    """‖x − x̂ − mean‖² by what lies below, one of `REMAINDERS`; of the first site `alone` only."""
    arrival: dict[str, tuple[Real, ...]]
    """One of `ARRIVALS`; of the first site none."""


class LayerSums(FrozenModel):
    """Everything that is summed over documents for one k."""

    rungs: dict[str, RungSums]
    sites: tuple[SiteSums, ...]


class Spectrum(FrozenModel):
    """A covariance."""

    power: Real
    """The trace."""
    leading: tuple[Real, ...]
    """The largest eigenvalues, as shares of the trace, descending."""
    directions: Real
    """(tr Σ)² / tr Σ²: in how many directions it lies."""


class Against(FrozenModel):
    """A mean and covariance beside others, to which they are compared."""

    mean: Real
    """‖μ' − μ‖ / √tr Σ."""
    distance: Real
    """‖Σ' − Σ‖ / ‖Σ‖, of Frobenius."""
    overlap: Real
    """‖Vᵀ V'‖² / m of their leading m eigenvectors: 1 where they span the same space, m/d by chance."""


class Arrived(FrozenModel):
    """Covariances of what arrives from the site below."""

    linear: Spectrum
    """J Σ Jᵀ, over draws and tokens."""
    gaussian: Spectrum
    real: Spectrum
    gaussian_to_linear: Against | None
    """Null where nothing arrives."""
    real_to_linear: Against | None


class SiteFit(FrozenModel):
    """Statistics of a site's remainder, on calibration."""

    alone: Spectrum
    raw: Spectrum | None = None
    """The remainder with x̂ below; null of the first site."""
    gaussian: Spectrum | None = None
    """The remainder with x̂ and noise below."""
    raw_to_alone: Against | None = None
    gaussian_to_alone: Against | None = None
    arrived: Arrived | None = None


class RungNumbers(FrozenModel):
    """One way to coarse-grain sites, per scored token."""

    gap: Number
    """Nats above the clean loss."""
    kl: Number
    top1: Number
    """Share of tokens whose most likely class is the clean one."""


class SiteNumbers(FrozenModel):
    """One site, alone and with sites below it coarse-grained."""

    left_out: Number
    """Power of the remainder over that of the activation, in the untouched model."""
    raw_given: Number
    """Gap of `raw` given below, nats a token."""
    gaussian_given: Number
    """Gap of `sequential` given below, nats a token."""
    power_raw: Number
    """Power of the remainder with x̂ below, over that alone."""
    power_gaussian: Number
    """Power of the remainder with x̂ and noise below, over that alone."""
    arrives: Number
    """Power of J ε over that of the site's own remainder."""
    gaussian_to_linear: Number
    """Power of the noise that arrives over that of J ε."""
    real_to_linear: Number
    """Power of the remainder that arrives over that of J ε."""


class ChainNumbers(FrozenModel):
    """All sites coarse-grained at once, nats a token."""

    raw_sum: Number
    """Gaps of `raw` of all sites alone, added up."""
    raw_excess: Number
    """Gap of all sites at once less that sum."""
    gaussian_sum: Number
    """Gaps of `full` of all sites alone, added up."""
    gaussian_excess: Number
    """Gap of `sequential` of all sites at once less that sum."""
    correction: Number
    """Gap of `sequential` of all sites less that of `full`: statistics given below, or single-shot ones."""


class LayerShell(FrozenModel):
    """The chain with so many sources kept at every site."""

    keep: int
    """Number of sources at each token and site; where fewer are on, these."""
    sums: LayerSums
    fits: tuple[SiteFit, ...]
    rungs: dict[str, RungNumbers]
    sites: tuple[SiteNumbers, ...]
    whole: ChainNumbers


class Chain(FrozenModel):
    """A chain of sites, and how it is measured."""

    protocol: str
    sites: tuple[LayerSite, ...]
    """Sites in the order of a pass."""
    model: Pinned
    data: Pinned
    tier: str
    dtype: str
    order: str
    """The order in which sources are kept."""
    seed: int
    """Seed of noise and bootstrap: that of the first site's task."""
    pairs: int
    """Antithetic pairs of draws."""
    step: Real
    """Share of the noise by which J is taken, as a central difference."""
    leading: int
    """m of the overlaps: how many leading eigenvectors are compared, at most."""
    calibration_windows: int


class Layers(FrozenModel):
    """A chain of sites with ever fewer sources kept at each, and what is said of it."""

    layers_version: int = 1
    chain: Chain
    documents: tuple[str, ...]
    """Documents of the evaluation split, sorted."""
    tokens: tuple[int, ...]
    """Scored tokens of each: those that are scored at every site."""
    clean: tuple[Real, ...]
    """Loss of the untouched model, summed over these, nats."""
    shells: tuple[LayerShell, ...]
    """Ascending by how many sources are kept."""
    statements: dict[str, tuple[Verdict, ...]]
    """Verdicts by statement: of each shell in turn, and in it of each site but the first."""
    provenance: Provenance

    @model_validator(mode="after")
    def _whole(self) -> Layers:
        count, keeps = len(self.documents), [shell.keep for shell in self.shells]
        rungs = rungs_of(len(self.chain.sites))
        if len(self.chain.sites) < 2:
            raise ValueError("one site has no layer below it")
        if not keeps or keeps != sorted(set(keeps)):
            raise ValueError("numbers of kept sources do not ascend")
        if list(self.documents) != sorted(set(self.documents)):
            raise ValueError("documents are not sorted, or one is listed twice")
        lists: list[Sequence[object]] = [self.tokens, self.clean]
        for shell in self.shells:
            if set(shell.sums.rungs) != set(rungs):
                raise ValueError(f"rungs with {shell.keep} kept are not {', '.join(rungs)}")
            if len(shell.sums.sites) != len(self.chain.sites):
                raise ValueError(f"{len(shell.sums.sites)} sites with {shell.keep} kept")
            for rung in shell.sums.rungs.values():
                lists += [rung.loss, rung.kl, *([] if rung.top1 is None else [rung.top1])]
            for place, site in enumerate(shell.sums.sites):
                wanted = (set(REMAINDERS), set(ARRIVALS)) if place else ({"alone"}, set())
                if (set(site.remainder), set(site.arrival)) != wanted:
                    raise ValueError(f"sums of squares at site {place + 1} with {shell.keep} kept")
                lists += [site.activation, *site.remainder.values(), *site.arrival.values()]
        if any(len(one) != count for one in lists):
            raise ValueError(f"not every sum is of {count} documents")
        return self


def rungs_of(sites: int) -> list[str]:
    """Names of the rungs of so many sites."""
    places = range(1, sites + 1)
    alone = [f"{kind} {place}" for kind in ("raw", "full") for place in places]
    return alone + [f"{kind} to {place}" for kind in ("raw", "full", "sequential") for place in places[1:]]


class LayerNumbers(NamedTuple):
    """Numbers that follow from the sums of one shell."""

    rungs: dict[str, RungNumbers]
    sites: tuple[SiteNumbers, ...]
    whole: ChainNumbers


class LayerRatios(NamedTuple):
    """The same as ratios of sums over documents, by the fields of `SiteNumbers` and `ChainNumbers`."""

    sites: tuple[dict[str, Ratio | str], ...]
    """A word in place of a ratio says why there is none."""
    whole: dict[str, Ratio | str]


def ratios_of(sums: LayerSums, tokens: Sequence[int]) -> LayerRatios:
    """Ratios of sums over documents.

    Args:
        tokens: scored tokens of each document.
    """
    counts, chain, last = np.array(tokens, dtype=np.float64), _Chain(sums), len(sums.sites)
    places = range(1, last + 1)
    raw = np.sum([chain.loss(f"raw {place}") for place in places], axis=0)
    full = np.sum([chain.loss(f"full {place}") for place in places], axis=0)
    sequential = chain.upto("sequential", last)
    whole = {
        "raw_sum": raw,
        "raw_excess": chain.upto("raw", last) - raw,
        "gaussian_sum": full,
        "gaussian_excess": sequential - full,
        "correction": sequential - chain.upto("full", last),
    }
    return LayerRatios(
        tuple(_of_site(chain, place, counts) for place in range(last)),
        {name: Ratio(numerator, counts) for name, numerator in whole.items()},
    )


def _of_site(chain: _Chain, place: int, counts: Array) -> dict[str, Ratio | str]:
    """Ratios of a site, counted from 0."""
    alone = chain.remainder(place, "alone")

    def share(numerator: Array, denominator: Array) -> Ratio | str:
        return Ratio(numerator, denominator, "positive") if denominator.any() else "nothing is left over"

    found: dict[str, Ratio | str] = {
        "left_out": share(alone, np.array(chain.sums.sites[place].activation)),
        "raw_given": Ratio(chain.given("raw", place + 1), counts),
        "gaussian_given": Ratio(chain.given("sequential", place + 1), counts),
    }
    if place == 0:
        return {**dict.fromkeys(SiteNumbers.model_fields, _NOTHING_BELOW), **found}
    linear = chain.arrival(place, "linear")
    return found | {
        "power_raw": share(chain.remainder(place, "raw"), alone),
        "power_gaussian": share(chain.remainder(place, "gaussian"), alone),
        "arrives": share(linear, alone),
        "gaussian_to_linear": share(chain.arrival(place, "gaussian"), linear),
        "real_to_linear": share(chain.arrival(place, "real"), linear),
    }


def numbers_of(sums: LayerSums, tokens: Sequence[int], *, seed: int) -> LayerNumbers:
    """Numbers with intervals over documents.

    Args:
        tokens: scored tokens of each document.
        seed: of the bootstrap.
    """
    counts = np.array(tokens, dtype=np.float64)
    bootstrap = Bootstrap(len(counts), seed=seed)

    def numbers(ratios: Mapping[str, Ratio | str]) -> dict[str, Number]:
        return {name: Number.of_ratio(bootstrap, ratio) for name, ratio in ratios.items()}

    def of_rung(own: RungSums) -> RungNumbers:
        none = "its outputs are no classes"
        top1 = none if own.top1 is None else Ratio(np.array(own.top1), counts, "share")
        return RungNumbers(
            gap=Number.of_ratio(bootstrap, Ratio(np.array(own.loss), counts)),
            kl=Number.of_ratio(bootstrap, Ratio(np.array(own.kl), counts, "positive")),
            top1=Number.of_ratio(bootstrap, top1),
        )

    ratios = ratios_of(sums, tokens)
    return LayerNumbers(
        {name: of_rung(own) for name, own in sums.rungs.items()},
        tuple(SiteNumbers(**numbers(one)) for one in ratios.sites),
        ChainNumbers(**numbers(ratios.whole)),
    )


def statements_of(
    sums: Sequence[LayerSums], tokens: Sequence[int], *, seed: int
) -> dict[str, tuple[Verdict, ...]]:
    """Verdicts on each site but the first, shell by shell.

    Args:
        sums: of all shells, ascending by how many sources are kept.
    """
    places = [(_Chain(one), place) for one in sums for place in range(1, len(one.sites))]
    sides = {name: [of(chain, place) for chain, place in places] for name, of in _SIDES.items()}
    return verdicts_of(sides, np.array(tokens, dtype=np.float64), seed=seed)


class _Chain(NamedTuple):
    """Sums of one shell."""

    sums: LayerSums

    def loss(self, rung: str) -> Array:
        return np.array(self.sums.rungs[rung].loss)

    def upto(self, kind: str, site: int) -> Array:
        """Loss above the clean one with all sites up to this one coarse-grained; 0: none."""
        if site == 0:
            return np.zeros(len(self.sums.sites[0].activation))
        if site == 1:  # nothing lies below it
            return self.loss("raw 1" if kind == "raw" else "full 1")
        return self.loss(f"{kind} to {site}")

    def given(self, kind: str, site: int) -> Array:
        return self.upto(kind, site) - self.upto(kind, site - 1)

    def remainder(self, site: int, below: str) -> Array:
        return np.array(self.sums.sites[site].remainder[below])

    def arrival(self, site: int, of: str) -> Array:
        return np.array(self.sums.sites[site].arrival[of])


def _near(part: Array, whole: Array, share: float = _SHARE) -> Sides:
    return Sides.of(within(part - whole, whole, share))


_SIDES: dict[str, Callable[[_Chain, int], Sides]] = {
    "kept": lambda chain, site: _near(chain.remainder(site, "gaussian"), chain.remainder(site, "alone")),
    "linear": lambda chain, site: _near(chain.arrival(site, "gaussian"), chain.arrival(site, "linear")),
    "noise": lambda chain, site: _near(chain.arrival(site, "real"), chain.arrival(site, "gaussian")),
    "additive": lambda chain, site: _near(chain.given("raw", site + 1), chain.loss(f"raw {site + 1}")),
    "corrected": lambda chain, site: _near(
        chain.upto("sequential", site + 1), chain.upto("full", site + 1), _OF_COST
    ),
}
"""Sides of each statement at a site, counted from 0, that has sites below."""
