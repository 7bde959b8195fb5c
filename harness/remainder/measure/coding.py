"""Codes that are paid for: quantised, counted, decoded and spliced in.

1. A code's contribution is v = a ‖d‖ for an affine decoder, else a over its standard deviation. Its symbol at
   step Δ_j = rms · 2^(−j/2) is q = round(v/Δ_j), j = 0 … 11, and rms² = tr Cov x on calibration; in units of
   standard deviations, the number of codes that vary (the trace of their covariance).
2. With the median over the first 4,096 calibration tokens of ‖r − mean r‖² (which neither one planted token
   nor a constant offset moves), quantising adds to max(that of exact codes, 10⁻³ tr Cov x); a point of the
   curve is the step at which the relative addition is nearest to 1 %, 10 %, 35 %, 100 %. Every point is
   coarser than the one before.
3. Bits of q: `measure.code_tables`. The same q, back in units of codes, are decoded by the interpretation's
   own `decode`, on whole windows with no code where nothing is spliced: what is put in is a function of the
   symbols that were counted.

What a reconstruction uses besides codes is not counted, so an interpretation with a path past its codes has
no bits.

Source: protocol 2, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Adapted
from remainder.measure.code_sets import Keys, keys_of
from remainder.measure.code_tables import StepTable, fit_tables
from remainder.measure.codes import FIRST, Codes, CodeSample
from remainder.measure.decoders import AffineDecoder, affine_decoder
from remainder.record.rungs import CURVE, STEPS
from remainder.record.schema import CodingInfo

__all__ = ["CodedBatch", "Coder", "fit_coder"]

_FLOOR = 1e-3  # of the variance: errors below it are not asked to be kept

Unit = Literal["contribution", "sd"]


@dataclass
class Coder:
    """An interpretation's codes at a few steps, with tables fixed on calibration."""

    interpretation: Adapted
    unit: Unit
    rms: float
    tables: dict[int, StepTable]
    """Tables by the number of the step."""
    decoder: AffineDecoder | None
    """Null where `decode` is not affine."""
    deviations: Float[Tensor, " features"] | None = None
    """Standard deviations of codes, for the unit `sd`."""
    points: dict[str, int] = field(default_factory=dict)
    """The number of the step at each point of the curve."""
    added: dict[str, float] = field(default_factory=dict)
    """The relative error that quantising adds there."""
    silent: int = 0
    """Latents without a code on calibration."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """The place where codes are counted."""

    def step(self, number: int) -> float:
        """Δ_j, in the unit."""
        return self.rms * math.pow(2.0, -number / 2)

    def scales(self, codes: Codes) -> Float[Tensor, " entries"]:
        """The factor that brings each code to the unit, float64."""
        if self.decoder is not None:
            return self.decoder.norms(codes.latent)
        assert self.deviations is not None
        return 1 / self.deviations[codes.latent]

    def contributions(self, codes: Codes) -> Codes:
        """v of some codes, in the unit; float64."""
        return codes._replace(value=codes.value.double() * self.scales(codes))

    def symbols(self, contributions: Codes, number: int) -> Codes:
        """q of some contributions at a step, those that are not 0; float64."""
        symbol = torch.round(contributions.value / self.step(number))
        kept = symbol.nonzero()[:, 0]
        if len(kept) == len(symbol):
            return contributions._replace(value=symbol)
        token, latent = contributions.token[kept], contributions.latent[kept]
        return Codes(token, latent, symbol[kept], *contributions[3:])

    def rounded(self, symbols: Codes, number: int) -> Codes:
        """The codes that symbols stand for, float32."""
        value = symbols.value * self.step(number) / self.scales(symbols)
        return symbols._replace(value=value.float())

    def bits(self, symbols: Codes, number: int) -> Float[Tensor, " tokens"]:
        """Bits of each token's symbols, float64."""
        table = self.tables[number]
        entries = torch.bincount(symbols.token, minlength=symbols.tokens)
        more = torch.segment_reduce(table.bits(symbols.latent, symbols.value), "sum", lengths=entries)
        found: Tensor = table.off + more
        return found

    def decode(self, codes: Codes, spliced: Bool[Tensor, "docs pos"]) -> Float[Tensor, "docs pos d"]:
        """The reconstruction by codes at the spliced positions, and by no code elsewhere.

        Raises:
            InterpretationError: if it cannot decode them.
        """
        decoded = self.interpretation.decode(codes.placed(spliced))
        if bad := int((~torch.isfinite(decoded[spliced])).sum()):
            raise InterpretationError(
                f"{self.interpretation.name}: decode gave {bad} values that are NaN or infinite for "
                "quantised codes",
                fix="let decode take any codes",
            )
        return decoded

    def residual(
        self, codes: Codes, x: Float[Tensor, "tokens d"], spliced: Bool[Tensor, "docs pos"]
    ) -> Float[Tensor, "tokens d"]:
        """x less what codes stand for: by arithmetic, or by `decode` where it is not affine."""
        if self.decoder is None:
            return x - self.decode(codes, spliced)[spliced]
        return x - self.decoder.base - self.decoder.decode(codes)

    def sets_of(self, sample: CodeSample, name: str) -> Keys:
        """The key of each calibration token's set of latents, at a point of the curve."""
        parts = (self.symbols(self.contributions(part), self.points[name]) for part in self._parts(sample))
        return np.concatenate([np.empty(0, dtype=np.uint64), *map(keys_of, parts)])

    def _parts(self, sample: CodeSample) -> Iterator[Codes]:
        """The codes of calibration, where tables are."""
        return (part.to(self.device) for part in sample.everything())

    def info(self, reference_steps: Sequence[int]) -> CodingInfo:
        """The part that a record states."""
        return CodingInfo(
            unit=self.unit,
            rms=self.rms,
            steps=self.points,
            added=self.added,
            silent=self.silent,
            reference_steps=tuple(reference_steps),
        )


class CodedBatch:
    """The codes of a batch at every step: symbols, bits, residuals, and what is spliced in.

    Args:
        codes: exact ones of whole windows.
        x: the activations that they rebuild.
    """

    def __init__(
        self,
        coder: Coder,
        codes: Float[Tensor, "docs pos features"],
        x: Float[Tensor, "docs pos d"],
        spliced: Bool[Tensor, "docs pos"],
    ) -> None:
        self.coder, self.spliced = coder, spliced
        self.codes = Codes.of(codes[spliced])
        self.contributions = coder.contributions(self.codes)
        self.x = x[spliced]
        self._sizes = spliced.sum(1)
        self._squares: dict[int, list[float]] = {}
        self._last: tuple[int, Codes] | None = None

    def symbols(self, number: int) -> Codes:
        """Nonzero q at a step: what bits are counted of, and what is decoded."""
        # Bits, squares and the reconstruction of a step are asked for one after another.
        if self._last is None or self._last[0] != number:
            self._last = (number, self.coder.symbols(self.contributions, number))
        return self._last[1]

    def bits(self, number: int) -> list[float]:
        """Bits of each window's spliced tokens at a step."""
        return self._by_window(self.coder.bits(self.symbols(number), number))

    def squares(self, number: int) -> list[float]:
        """Squared residual of each window's spliced tokens at a step."""
        if number not in self._squares:
            codes = self.coder.rounded(self.symbols(number), number)
            left = self.coder.residual(codes, self.x, self.spliced)
            self._squares[number] = self._by_window(left.double().square().sum(-1))
        return self._squares[number]

    def reconstruction(self, number: int) -> Float[Tensor, "docs pos d"]:
        """The reconstruction by the quantised codes."""
        return self.coder.decode(self.coder.rounded(self.symbols(number), number), self.spliced)

    def _by_window(self, values: Float[Tensor, " tokens"]) -> list[float]:
        found: list[float] = torch.segment_reduce(values, "sum", lengths=self._sizes).tolist()
        return found


def fit_coder(
    sample: CodeSample,
    interpretation: Adapted,
    device: torch.device,
    steps: Sequence[int] | None = None,
    curve: Mapping[str, float] = CURVE,
) -> Coder | str:
    """Everything that is fixed on calibration, or why codes cannot be paid for.

    Args:
        steps: numbers of the steps that tables are made for; default: those of a curve, whose points are
            chosen among them.
        curve: points, finest first, by the relative error that quantising is to add at each.
    """
    if not sample.tokens:
        return "no calibration token was seen"
    if sample.past:
        return "something reaches the reconstruction past the codes (`skip`), and no bits are counted of it"
    decoder = affine_decoder(sample, interpretation, device)
    if isinstance(decoder, str) and not decoder.startswith("decode is not affine"):
        return decoder
    coder = _coder(sample, interpretation, decoder, device)
    numbers = range(STEPS) if steps is None else steps
    tables = fit_tables(
        lambda: (coder.contributions(part) for part in coder._parts(sample)),
        [coder.step(number) for number in numbers],
    )
    coder.tables = dict(zip(numbers, tables, strict=True))
    coder.silent = (sample.features or 0) - sample.live_features
    if steps is None:
        try:
            coder.points, coder.added = _choose(coder, sample, curve)
        except InterpretationError as problem:
            return f"quantised codes cannot be decoded: {problem.what}"
    return coder


def _coder(
    sample: CodeSample, interpretation: Adapted, decoder: AffineDecoder | str, device: torch.device
) -> Coder:
    """A coder without tables, its unit and coarsest step chosen."""
    if isinstance(decoder, AffineDecoder):
        rms = math.sqrt(sample.variance)
        return Coder(interpretation, "contribution", rms, {}, decoder, device=device)
    assert sample.squares is not None
    sums = torch.zeros(len(sample.squares), dtype=torch.float64, device=device)
    for part in sample.everything():
        sums.index_add_(0, part.latent.to(device), part.value.double().to(device))
    square = sample.squares.to(device) / max(sample.seen, 1)
    spread = (square - (sums / max(sample.tokens, 1)).square()).clamp(min=0)
    # A code that does not vary beyond its rounding has no scale of its own; nor has one that never fires.
    varies = spread > 1e-12 * square
    typical = float(spread[varies].median().sqrt()) if bool(varies.any()) else 1.0
    deviations = torch.where(varies, spread.sqrt(), typical)
    rms = math.sqrt(max(int(varies.sum()), 1))
    return Coder(interpretation, "sd", rms, {}, None, deviations, device=device)


def _choose(
    coder: Coder, sample: CodeSample, curve: Mapping[str, float]
) -> tuple[dict[str, int], dict[str, float]]:
    """Points of the curve, and what quantising adds at each; see step 2 of this module's text."""

    def error(number: int | None) -> float:
        rows: list[Tensor] = []
        for look in sample.windows():
            kept = look.codes.to(coder.device)
            if number is not None:
                kept = coder.rounded(coder.symbols(coder.contributions(kept), number), number)
            rows.append(coder.residual(kept, look.x.to(coder.device), look.spliced.to(coder.device)))
        left = torch.cat(rows)[:FIRST].double()
        return float(np.median((left - left.mean(0)).square().sum(-1).cpu().numpy()))

    exact = error(None)
    # Where nothing varies there is nothing to add to.
    scale = max(exact, _FLOOR * sample.variance) or 1.0
    added = [(error(number) - exact) / scale for number in range(STEPS)]
    points: dict[str, int] = {}
    coarser = STEPS
    for name, target in curve.items():
        if not coarser:
            break
        coarser = min(range(coarser), key=lambda number: abs(added[number] - target))
        points[name] = coarser
    return points, {name: added[number] for name, number in points.items()}
