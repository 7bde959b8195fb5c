"""Groups of tokens: how far they differ beyond sampling, by a test that permutes labels, and all their ends.

A quantity v of every token has the mean m_g over the tokens of group g. Documents are what is sampled, and
one document has tokens of several groups.

1. The covariance S of the m_g is that of their linearised errors, summed by document: with n_g tokens,
   e_dg = Σ_{t in d and g} (v_t − m_g)/n_g and S = D/(D − 1) Σ_d e_d e_dᵀ.
2. With weights w_g and A = diag(w) − wwᵀ/Σw, the spread Q = mᵀAm has the mean tr(AS) + τ² tr A, where τ² is
   the variance of the groups' true means. So τ² = (Q − tr(AS))/tr A, which may come out below 0. With w_g =
   1/S_gg and a diagonal S it is the estimate of DerSimonian and Laird (1986); any fixed weights will do
   (DerSimonian and Kacker 2007), and n_g, which is taken here, is one that a group without any spread leaves
   finite.
3. Its standard error is the jackknife's, over documents.
4. Test: labels are permuted among the tokens of a band, which keeps what the bands alone explain, and
   Q/tr(AS) is compared with that of the permuted ones.

Bands are deciles of the clean model's entropy. Needs no torch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from remainder.record.intervals import MINIMUM_DOCUMENTS, Bootstrap
from remainder.record.scales import SCALES

__all__ = [
    "BANDS",
    "PERMUTATIONS",
    "Between",
    "Ends",
    "Groups",
    "bands_of",
    "between",
    "simultaneous_means",
    "spread_of",
]

BANDS = 10
PERMUTATIONS = 1999

_SAME = 1e-9  # of a statistic, by which two of equal size may differ in rounding

Array = NDArray[np.float64]


class Between(NamedTuple):
    """The spread of groups in one quantity."""

    variance: float
    """τ², in the square of the quantity's unit; below 0 where groups differ less than sampling makes them."""
    error: float
    """The standard error."""
    p: float
    """Share of permuted labels that spread as much, these included."""
    permuted: float
    """95 % of permuted labels have a τ² below this."""


class Ends(NamedTuple):
    """Values with the ends of their intervals, `[m]`."""

    values: Array
    low: Array
    high: Array


class Groups(NamedTuple):
    """Tokens by document and group."""

    document: Int[np.ndarray, " tokens"]
    """Numbers from 0."""
    label: Int[np.ndarray, " tokens"]
    """Groups, numbers from 0."""
    documents: int
    groups: int

    def sums(self, values: Float[np.ndarray, "tokens q"]) -> Float[np.ndarray, "documents groups q"]:
        """Sums over the tokens of each document and group."""
        place = self.document * self.groups + self.label
        shape = (len(place), self.documents * self.groups)
        from scipy import sparse  # slow to load, and whoever reads a record needs none

        chosen = sparse.csr_matrix((np.ones(len(place)), place, np.arange(len(place) + 1)), shape)
        found: Array = (chosen.T @ values).reshape(self.documents, self.groups, -1)
        return found

    def counts(self) -> Float[np.ndarray, "documents groups"]:
        """Tokens of each document and group."""
        place = self.document * self.groups + self.label
        found: Array = np.bincount(place, minlength=self.documents * self.groups).astype(np.float64)
        return found.reshape(self.documents, self.groups)


def bands_of(entropy: Float[np.ndarray, " tokens"] | None, tokens: int) -> Int[np.ndarray, " tokens"]:
    """The decile of each token's entropy, equal ones in the order of tokens; one band where there is none."""
    if entropy is None:
        return np.zeros(tokens, dtype=np.int64)
    rank = np.empty(tokens, dtype=np.int64)
    rank[np.argsort(entropy, kind="stable")] = np.arange(tokens)
    found: NDArray[np.int64] = rank * BANDS // tokens
    return found


def spread_of(
    means: Float[np.ndarray, " groups"],
    covariance: Float[np.ndarray, "groups groups"],
    weights: Float[np.ndarray, " groups"],
) -> tuple[float, float]:
    """τ², and Q/tr(AS): the spread of means over what their covariance makes (steps 1 and 2).

    The latter is infinite where nothing but the groups varies.
    """
    matrix = np.diag(weights) - np.outer(weights, weights) / weights.sum()
    spread, made = float(means @ matrix @ means), float((matrix * covariance).sum())
    return (spread - made) / float(np.trace(matrix)), spread / made if made > 0 else np.inf


def _spreads(
    sums: Float[np.ndarray, "documents groups q"], counts: Float[np.ndarray, "documents groups"]
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """`spread_of` every quantity, weights the numbers of tokens."""
    tokens, documents = counts.sum(0), len(counts)
    means = sums.sum(0) / tokens[:, None]
    errors = (sums - counts[..., None] * means) / tokens[:, None]
    share = tokens / tokens.sum()
    centred = means - share @ means
    spread = tokens @ centred**2
    # tr(AS) = Σ_d e_dᵀ A e_d, without forming S.
    of_documents = np.einsum("dgq,g->dq", errors**2, tokens) - np.einsum("dgq,g->dq", errors, tokens) ** 2 / (
        tokens.sum()
    )
    made = documents / (documents - 1) * of_documents.sum(0)
    scale = tokens.sum() - (tokens**2).sum() / tokens.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return (spread - made) / scale, np.where(made > 0, spread / made, np.inf)


def between(
    groups: Groups,
    values: Float[np.ndarray, "tokens q"],
    bands: Int[np.ndarray, " tokens"],
    *,
    seed: int,
    permutations: int = PERMUTATIONS,
) -> list[Between | str]:
    """The spread of groups in each of some quantities, or why it has none.

    Args:
        values: of every token.
        bands: within which labels are permuted.
        seed: of the permutations, which all quantities share.
    """
    counts = groups.counts()
    if groups.groups < 2:
        return ["one group alone has nothing to differ from"] * values.shape[1]
    if groups.documents < MINIMUM_DOCUMENTS:
        few = f"{groups.documents} documents; {MINIMUM_DOCUMENTS} are needed"
        return [few] * values.shape[1]
    sums = groups.sums(values)
    variance, ratio = _spreads(sums, counts)
    left = []
    for one in range(groups.documents):
        kept = np.arange(groups.documents) != one
        there = counts[kept].sum(0) > 0
        left.append(_spreads(sums[kept][:, there], counts[kept][:, there])[0])
    again = np.array(left)
    error = np.sqrt((len(again) - 1) / len(again) * ((again - again.mean(0)) ** 2).sum(0))
    generator = np.random.Generator(np.random.PCG64(seed))
    order = np.lexsort((np.arange(len(bands)), bands))
    beyond, drawn = np.zeros(values.shape[1]), np.empty((permutations, values.shape[1]))
    for number in range(permutations):
        shuffled = np.lexsort((generator.random(len(bands)), bands))
        label = np.empty_like(groups.label)
        label[order] = groups.label[shuffled]
        other = groups._replace(label=label)
        drawn[number], theirs = _spreads(other.sums(values), other.counts())
        beyond += theirs >= ratio * (1 - _SAME)
    p = (1 + beyond) / (1 + permutations)
    high = np.sort(drawn, axis=0)[int(np.ceil(0.95 * permutations)) - 1]
    constant = np.ptp(values, axis=0) == 0
    return [
        "it is the same at every token"
        if constant[q]
        else Between(float(variance[q]), float(error[q]), float(p[q]), float(high[q]))
        for q in range(values.shape[1])
    ]


def simultaneous_means(
    bootstrap: Bootstrap,
    numerators: Float[np.ndarray, "documents m"],
    denominators: Float[np.ndarray, "documents m"],
) -> Ends:
    """Several ratios of sums, all ends of a side valid together.

    As `Bootstrap.simultaneous`, with a denominator for each. Ends are infinite where too many resamples of
    the documents lack all of a denominator.
    """
    documents, _ = numerators.shape
    weight = denominators / denominators.mean(0)
    scaled = numerators / denominators.mean(0)
    values = scaled.mean(0)
    influence = scaled - values * weight
    error = np.sqrt((influence**2).sum(0) / (documents * (documents - 1)))
    low, high = values.copy(), values.copy()
    varies = error > 1e-12 * np.maximum(np.abs(scaled).mean(0), np.finfo(np.float64).tiny)
    if not varies.any():
        return Ends(values, low, high)
    kept, own = influence[:, varies], weight[:, varies]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = bootstrap.weights @ own
        moved = bootstrap.weights @ kept / total
        squares = (
            bootstrap.weights @ kept**2
            - 2 * moved * (bootstrap.weights @ (kept * own))
            + moved**2 * (bootstrap.weights @ own**2)
        )
        again = np.sqrt(np.maximum(squares, 0) / (documents * (documents - 1))) * documents / total
        t = moved / np.fmax(again, SCALES["plain"].floor * error[varies])
    tail = (1 - bootstrap.level) / 2
    first = max(int(np.floor((bootstrap.resamples + 1) * tail)), 1) - 1
    # An undefined resample could lie at either end: it counts against both.
    smallest = np.sort(np.where(np.isnan(t), -np.inf, t).min(1))[first]
    largest = np.sort(np.where(np.isnan(t), np.inf, t).max(1))[bootstrap.resamples - 1 - first]
    low[varies], high[varies] = (
        values[varies] - largest * error[varies],
        values[varies] - smallest * error[varies],
    )
    return Ends(values, low, high)
