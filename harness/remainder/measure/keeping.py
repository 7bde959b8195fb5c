"""Orders in which the sources of an interpretation are kept, found on the calibration split.

| order | keeps first |
|---|---|
| `dynamic` | of each token, the sources of largest contribution ‖a_j d_j‖ |
| `energy` | sources of largest mean square of the contribution |
| `variance` | sources of largest variance of the contribution; of PCA, its components in order |
| `attribution` | sources of largest mean size of a_j d_j·g, g the gradient of the loss at the activation |
| `index` | sources in the order of the dictionary: the nested prefixes of a Matryoshka autoencoder |
| `random` | sources in a random order: the control |

All but `dynamic` are static: the same sources at every token. Those that need contributions need a decoder
that is affine in the codes.

Source: protocol 1, section 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.errors import InterpretationError
from remainder.interpretation.kept import Some
from remainder.interpretation.protocol import Adapted
from remainder.interpretation.rules import check_conformance
from remainder.loading.activations import Batch
from remainder.loading.site import SiteTask
from remainder.measure.codes import CodeSample
from remainder.measure.decoders import AffineDecoder, affine_decoder
from remainder.measure.directions import loss_gradients
from remainder.measure.plan import Plan
from remainder.measure.row import build
from remainder.measure.seal import Log
from remainder.submission.submission import SiteEntry

__all__ = ["ORDERS", "Sources", "look_at_sources"]

ORDERS = ("dynamic", "energy", "variance", "attribution", "index", "random")
"""Orders of keeping, by name."""

_GRADIENT_WINDOWS = 64


@dataclass
class Sources:
    """The sources of an interpretation as calibration shows them, and the order in which they are kept."""

    adapted: Adapted
    order: str
    seed: int
    sizes: Float[Tensor, " features"] | None = None
    """‖d_j‖; None where the decoder is not affine."""
    ranking: Int[Tensor, " features"] | None = None
    """Sources in a static order; None of `dynamic`."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    features: int = 0
    live: int = 0
    """Sources that calibration saw on."""
    most: int = 0
    """The largest number of sources that are on at one token."""
    ties: int = 0
    """Live sources whose score equals that of the one before: their indices decide."""
    decoder: AffineDecoder | None = None
    """The affine decoder; None where it is not affine."""

    @property
    def full(self) -> int:
        """How many there are to keep: of `dynamic`, at one token."""
        return self.most if self.ranking is None else self.live

    @property
    def label(self) -> str:
        """The order, with the seed that it depends on."""
        return f"random {self.seed}" if self.order == "random" else self.order

    def keeping(self, keep: int) -> Some:
        """The first `keep` sources."""
        if self.ranking is None:
            return Some(keep, sizes=self.sizes)
        # Beside the weights: else each shell would be moved there as a copy of its own.
        chosen = torch.zeros(self.features, dtype=torch.bool, device=self.device)
        chosen[self.ranking[:keep].to(self.device)] = True
        return Some(keep, chosen=chosen)


def look_at_sources(
    loaded: SiteTask, entry: SiteEntry, plan: Plan, order: str, *, progress: Progress | None = None
) -> Sources:
    """The sources of a submission, in an order of keeping.

    Raises:
        InterpretationError: it cannot be built, breaks a rule, has codes that are not finite, no sources, or
            none with contributions where the order needs them.
    """
    with torch.inference_mode():
        found = _Look(loaded, build(loaded, entry, plan, Log()), plan, progress or silent)
        found.run(attributed=order == "attribution")
        return found.sources(entry.name, order)


@dataclass
class _Look:
    """Sums over the calibration split."""

    loaded: SiteTask
    adapted: Adapted
    plan: Plan
    progress: Progress
    sample: CodeSample = field(default_factory=CodeSample)
    sums: Tensor | None = None
    squares: Tensor | None = None
    attributed: Tensor | None = None
    most: int = 0
    decoder: AffineDecoder | str = ""

    def _batches(self, windows: int) -> Iterator[tuple[Batch, Tensor]]:
        batches = self.loaded.activations("calibration", windows).batches
        for batch in batches(max(self.loaded.batch_size, 2), self.loaded.device):  # rules need two windows
            yield batch, self.adapted.choose(batch.prefix.x_in, batch.prefix.x_out)

    def run(self, *, attributed: bool) -> None:
        seen = 0
        for batch, read in self._batches(self.plan.calibration_windows):
            self.progress(f"{self.adapted.name}: sources", seen, None)
            here = batch.spliced
            if not seen:  # shells share its codes, so that of them it could not be told
                check_conformance(self.adapted, read, here, batch.prefix.x_out)
            codes, rebuilt = self.adapted.reconstruct(read, here)
            target = self.adapted.coded(batch.prefix.x_out, read)
            left = batch.prefix.x_out - rebuilt
            self.sample.update(codes[here], target[here], left[here], here)
            rows = codes[here].double()
            new = rows.sum(0), rows.square().sum(0)
            self.sums = new[0] if self.sums is None else self.sums + new[0]
            self.squares = new[1] if self.squares is None else self.squares + new[1]
            self.most = max(self.most, int((rows != 0).sum(-1).max())) if len(rows) else self.most
            seen += int(here.sum())
        self.decoder = affine_decoder(self.sample, self.adapted, self.loaded.device)
        if attributed and isinstance(self.decoder, AffineDecoder):
            self._attribute(self.decoder)

    def _attribute(self, decoder: AffineDecoder) -> None:
        """Σ over tokens of |a_j d_j·g|: what the loss would lose to first order without the source."""
        runner = self.loaded.runner("float32")
        live = decoder.live
        total = torch.zeros(len(decoder.row), dtype=torch.float64, device=self.loaded.device)
        for batch, read in self._batches(min(_GRADIENT_WINDOWS, self.plan.calibration_windows)):
            self.progress(f"{self.adapted.name}: attribution", 0, None)
            gradients = loss_gradients(runner, batch)[batch.spliced]
            codes = self.adapted.encode(read)[batch.spliced]
            total[live] += (codes[:, live] * (gradients @ decoder.directions.T)).abs().double().sum(0)
        self.attributed = total

    def sources(self, name: str, order: str) -> Sources:
        """The sources in an order."""
        counts = self.sample.counts
        if counts is None or not int((counts > 0).sum()):
            raise InterpretationError(
                f"{name} has no source: no code was on at any calibration token",
                fix="name an interpretation with codes, such as an SAE",
            )
        found = Sources(self.adapted, order, self.loaded.task.seed, device=self.loaded.device)
        found.features, found.most = len(counts), self.most
        found.live = int((counts > 0).sum())
        if isinstance(self.decoder, AffineDecoder):
            found.decoder = self.decoder
            found.sizes = torch.zeros(len(counts), device=self.loaded.device)
            found.sizes[self.decoder.live] = self.decoder.directions.norm(dim=-1)
        elif order not in ("index", "random"):
            raise InterpretationError(
                f"{name}: sources have no contributions: {self.decoder}",
                fix="keep its codes in their own order (--order index), or at random (--order random)",
            )
        if order != "dynamic":
            scores = self._scores(order, found)
            live = counts.to(scores.device) > 0
            scores = torch.where(live, scores, scores.new_tensor(-1.0))  # those never on come last
            found.ranking = scores.argsort(descending=True, stable=True).cpu()
            ranked = scores[found.ranking.to(scores.device)][: found.live]
            found.ties = int((ranked[1:] == ranked[:-1]).sum())
        return found

    def _scores(self, order: str, found: Sources) -> Float[Tensor, " features"]:
        """Scores of all sources, none below 0."""
        assert self.sums is not None
        assert self.squares is not None
        if order == "index":
            return torch.arange(found.features, 0, -1, dtype=torch.float64)
        if order == "random":
            generator = torch.Generator().manual_seed(found.seed)
            return torch.randperm(found.features, generator=generator).double()
        if order == "attribution":
            assert self.attributed is not None
            return self.attributed
        assert found.sizes is not None
        weights = found.sizes.double().square() / self.sample.seen
        if order == "energy":
            return self.squares * weights
        spread = self.squares - self.sums.square() / self.sample.seen
        return spread.clamp(min=0.0) * weights
