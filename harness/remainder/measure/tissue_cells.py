"""Tissues: groups of tokens whose codes point the same way.

1. A token is the vector of its contributions a_j‖d_j‖ (of a decoder that is not affine, of its codes), at
   length 1: what is on, and not how strongly all of it is.
2. k-means (scikit-learn) on calibration tokens.
3. While a group has fewer than `LEAST` of these, the smallest is dissolved, and its tokens go to the nearest
   other centre.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from remainder.residual.codes import Codes

__all__ = ["LEAST", "MOST", "TissueCells", "directions_of", "fit_tissues", "prominent", "tissues_for"]

LEAST = 200
"""Least number of calibration tokens in a tissue."""
MOST = 12
"""Most tissues unless another number is asked for."""

_ROWS = 8192  # tokens that centres are fitted to
_STARTS = 2
_DENSE = 0.1  # share of codes that are on, from which on a whole matrix is faster
_RARE = 5  # tokens; what is seen less often in a tissue does not tell it


def tissues_for(calibration: int, evaluation: int) -> int:
    """How many tissues leave each about `LEAST` tokens of both splits, `MOST` at most and 1 at least."""
    return max(1, min(MOST, calibration // LEAST, evaluation // LEAST))


def directions_of(codes: Codes, sizes: Float[Tensor, " features"] | None) -> Any:
    """Contributions of each token at length 1, `[tokens, features]`; CSR unless most are on."""
    from scipy import sparse
    from sklearn.preprocessing import normalize

    value = codes.value.double().cpu().numpy()
    latent = codes.latent.cpu().numpy()
    if sizes is not None:
        value = value * sizes.double().cpu().numpy()[latent]
    shape = (codes.tokens, codes.features)
    found = normalize(sparse.csr_matrix((value, (codes.token.cpu().numpy(), latent)), shape))
    return found.toarray() if found.nnz > _DENSE * codes.tokens * codes.features else found


@dataclass(frozen=True)
class TissueCells:
    """Centres of the groups."""

    centres: Float[np.ndarray, "tissues features"]
    sizes: tuple[int, ...]
    """Calibration tokens of each."""
    asked: int

    def assign(self, directions: Any) -> Int[np.ndarray, " tokens"]:
        """The group whose centre is nearest."""
        found: Int[np.ndarray, " tokens"] = _distances(directions, self.centres).argmin(1)
        return found

    def sources(self, count: int = 3) -> list[tuple[int, ...]]:
        """Sources of each group that stand out most against the mean of all groups."""
        apart = self.centres - np.average(self.centres, axis=0, weights=self.sizes)
        return [
            tuple(int(one) for one in np.argsort(-row, kind="stable")[:count] if row[one] > 0)
            for row in apart
        ]


def fit_tissues(directions: Any, asked: int, seed: int) -> TissueCells:
    """Groups of calibration tokens, the largest first; as many as asked for or fewer.

    Args:
        directions: of all calibration tokens, as `directions_of` gives them.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # With fewer distinct tokens than groups some stay empty; they are dissolved below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        wanted = max(1, min(asked, directions.shape[0] // LEAST))
        found = KMeans(wanted, n_init=_STARTS, random_state=seed % 2**32).fit(directions[:_ROWS])
    centres = found.cluster_centers_
    while True:
        labels = _distances(directions, centres).argmin(1)
        sizes = np.bincount(labels, minlength=len(centres))
        if len(centres) == 1 or sizes.min() >= LEAST:
            break
        kept = np.arange(len(centres)) != sizes.argmin()
        centres = centres[kept]
    order = np.argsort(-sizes, kind="stable")
    return TissueCells(centres[order], tuple(int(size) for size in sizes[order]), asked)


def prominent(
    labels: Int[np.ndarray, " tokens"], ids: Int[np.ndarray, " tokens"], count: int = 4
) -> list[list[int]]:
    """Ids of each group that are more frequent there than elsewhere: by n log(n/expected)."""
    known, place = np.unique(ids, return_inverse=True)
    groups = int(labels.max()) + 1
    seen = np.bincount(labels * len(known) + place, minlength=groups * len(known)).reshape(groups, -1)
    expected = seen.sum(1, keepdims=True) * seen.sum(0) / seen.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(seen >= _RARE, seen * np.log(seen / expected), 0.0)
    return [
        [int(known[one]) for one in np.argsort(-row, kind="stable")[:count] if row[one] > 0] for row in score
    ]


def _distances(
    directions: Any, centres: Float[np.ndarray, "tissues features"]
) -> Float[np.ndarray, "tokens t"]:
    """Squared distances to each centre, less what is the same for all."""
    found: Float[np.ndarray, "tokens t"] = np.asarray(directions @ (-2 * centres.T)) + (centres**2).sum(1)
    return found
