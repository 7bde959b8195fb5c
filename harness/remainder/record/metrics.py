"""The metrics of a record: every field, its unit, and its formula."""

from __future__ import annotations

from remainder.record.conditional import ConditionalTelescope, DescriptionMetrics
from remainder.record.number import FrozenModel, GrownModel, Number, Real

__all__ = [
    "AnnealedMetrics",
    "BathPoint",
    "CalibrationSpread",
    "CircuitMetrics",
    "CircuitPoint",
    "CircuitRung",
    "CircuitTelescope",
    "CleanMetrics",
    "CodedPoint",
    "CodedStep",
    "CodingMetrics",
    "CouplingPoint",
    "Couplings",
    "DirectionTests",
    "GaussianRatio",
    "Gaussianity",
    "Metrics",
    "NullTest",
    "OrderTerms",
    "Orders",
    "PerturbativeFit",
    "QuenchedMetrics",
    "RadiusHistogram",
    "RatioParts",
    "ReconstructionMetrics",
    "ReferencePoint",
    "RungMetrics",
    "Telescope",
]


class CleanMetrics(FrozenModel):
    """The untouched model."""

    loss: Number
    """Nats per scored token."""
    accuracy: Number
    """Share of scored tokens whose most likely class is the target; null where targets are numbers."""


class QuenchedMetrics(FrozenModel):
    """One rung, its noise drawn before the loss is read. Nats per scored token, but for two shares.

    `top1`: of scored tokens whose most likely class is that of the clean model; `accuracy`: is the target.
    """

    loss: Number
    gap: Number
    kl: Number
    kl_p99: Number
    top1: Number
    accuracy: Number


class AnnealedMetrics(FrozenModel):
    """One rung, its noise integrated out of the prediction: −log E_ε p(y). Nats per scored token.

    Estimated by the jackknife over independent units: antithetic pairs, or single draws where there are none.
    """

    loss: Number
    gap: Number
    draws: int
    nested: dict[str, Number]
    """The gap by number of draws (2 units, 4, …): where it stops moving, there are enough."""


class RungMetrics(FrozenModel):
    """One rung of the ladder."""

    quenched: QuenchedMetrics
    annealed: AnnealedMetrics | None = None
    """Null for a rung without noise (it equals the quenched loss), and with fewer than two units."""


class Telescope(GrownModel):
    """Parts of the Gaussian gap: shape + dependence + rest = total, exactly. Nats per scored token.

    `total` is the gap of `full-unshrunk`; `shrinkage` is the difference of `full` from it.
    """

    later = ("across_tokens",)
    total: Number
    shape: Number
    """full-unshrunk − permuted: one-token shape."""
    dependence: Number
    """permuted − matched: what the cell of x̂ tells."""
    rest: Number
    """matched − clean: context, target, order of tokens, and x̂ beyond its cell."""
    shrinkage: Number
    across_tokens: Number | None = None
    """full-temporal − full: the residual's covariance between neighbouring tokens."""


class PerturbativeFit(FrozenModel):
    """Least squares of the gap on the rungs `perturbative-m`: limit + c1 m^(−1/2) + c2 / m. Nats."""

    limit: Number
    """The Gaussian limit, m → ∞."""
    c1: Number
    """The cost of third cumulants."""
    c2: Number
    """The cost of fourth cumulants and of squares of third ones."""


class OrderTerms(FrozenModel):
    """A mean over scored tokens with the Gaussian residual at amplitude α: Γ(α) = Γ(0) + a₂α² + a₄α⁴ + …

    Nats per scored token, less that of the clean model; all of the same draws.
    """

    zero: Number
    """Γ(0): the mean residual alone."""
    one: Number
    """Γ(0) + a₂."""
    two: Number
    """Γ(0) + a₂ + a₄, the two-term extrapolation. Of a strong bath a₂ and a₄ are no Taylor coefficients."""
    sampled: Number
    """Γ(1)."""
    a2: Number
    a4: Number
    """`a2` and `a4`: solved from the two amplitudes below 1."""
    remainder: Number
    """two − sampled."""
    missing: Number
    """sampled − one: what the first order does not tell."""
    perturbativity: Number
    """π = (sampled − one)/(one − zero), signed; null where the interval of a₂ holds 0."""

    @property
    def converges(self) -> bool | None:
        """Whether the extrapolation holds: `remainder` has 0 in its interval and is under half of `missing`.

        None where there is no interval.
        """
        left, missing = self.remainder, self.missing
        if left.value is None or left.low is None or left.high is None or missing.value is None:
            return None
        return left.low <= 0 <= left.high and abs(left.value) < abs(missing.value) / 2


class Orders(FrozenModel):
    """The Gaussian residual order by order, and what that makes of two other numbers."""

    loss: OrderTerms
    kl: OrderTerms
    interaction: Number
    """(KL of `full` − KL of `mean`)/KL of `noise-centred` − 1: near 0 the quenched score is arithmetic."""
    shape: Number
    """full − permuted, nats per scored token; with `full-unshrunk` where that was measured."""
    smallest_kurtosis: Number
    """The smallest elliptical κ̂ that could have shown in `shape`: 2.8 standard errors of it over |a₄|."""


class BathPoint(FrozenModel):
    """The Gaussian residual at one amplitude as a bath: −log E_ε p(y) of four antithetic pairs."""

    amplitude: Real
    loss: Number
    """Nats per scored token."""
    difference: Number
    """`loss` less the loss of `mean`, paired; below 0 the noise, integrated out, helps to predict."""
    pays: bool | None
    """Whether `difference` is below 0 at the joint level of all points (Holm); null without an interval."""


class CouplingPoint(FrozenModel):
    """Gaps on the calibration split with noise times `alpha` and source times `beta`. Nats."""

    alpha: Real
    beta: Real
    quenched: Number
    annealed: Number


class Couplings(GrownModel):
    """Amplitudes of source and noise that predict best: the minimum of a surface through `grid`."""

    later = ("beta_alone", "difference")

    alpha: Number
    beta: Number
    edge: bool
    """Whether the minimum lies on the edge of the grid, so that it may be farther out."""
    draws: int
    """Draws at each point of the grid."""
    grid: tuple[CouplingPoint, ...]
    beta_alone: Number | None = None
    """β₀*: the amplitude of the source that predicts best without noise."""
    difference: Number | None = None
    """Annealed loss with `alpha` and `beta` less the loss with `beta_alone` and no noise, on evaluation; nats
    per scored token."""


class CalibrationSpread(FrozenModel):
    """Gaps of `full` refitted without one fold of the calibration documents each. Nats."""

    gaps: dict[str, Number]
    spread: Number
    """Largest less smallest."""


class NullTest(FrozenModel):
    """A statistic, and where it lies for Gaussian surrogates put through the same pipeline."""

    value: Real
    null_low: Real
    null_high: Real
    """`null_low` and `null_high` enclose 95 % of the surrogates."""

    @property
    def inside(self) -> bool:
        """Whether it could be that of a Gaussian."""
        return self.null_low <= self.value <= self.null_high


class DirectionTests(FrozenModel):
    """The residual along some directions, whitened: shape beyond mean and variance."""

    directions: int
    skewness: NullTest
    """Largest size over the directions; below `null_high` lie 95 % of surrogates."""
    kurtosis: NullTest
    """Largest size of the excess kurtosis over the directions (a ±1 direction has 2); null as above."""
    negentropy: NullTest
    """Mean of κ₃²/12 + κ₄²/48, nats a direction; null as above."""


class RadiusHistogram(FrozenModel):
    """Whitened lengths ‖Σ^(−1/2)(r − μ)‖ on evaluation."""

    edges: tuple[Real, ...]
    counts: tuple[int, ...]
    """One fewer than edges; every row is in some bin."""


class Gaussianity(FrozenModel):
    """Effect sizes: the distance of the residual on evaluation from the Gaussian fitted on calibration."""

    rank: int
    """Dimensions of the whitened residual."""
    surrogates: int
    radial_kurtosis: NullTest
    """κ̂ = [d/(d+2)] mean‖w‖⁴/(mean‖w‖²)² − 1; 0 for a Gaussian of known covariance."""
    directions: dict[str, DirectionTests]
    """Tests by the source of the directions, e.g. loss gradients or the decoder."""
    maximum_kurtosis: NullTest
    """Excess kurtosis on evaluation along the direction that maximises it on calibration."""
    radial_gain: Number
    """Log-likelihood of `radial` over `full` on evaluation, nats a dimension."""
    linear_gain: Number
    """Log-likelihood of `linear` over `full` on evaluation, nats a dimension."""
    radii: RadiusHistogram


class GaussianRatio(FrozenModel):
    """KL of the residual over KL of an equally large Gaussian: fitted, same length per token, isotropic."""

    fitted: Number
    directional: Number
    isotropic: Number


class RatioParts(FrozenModel):
    """The fitted Gaussian ratio ρ taken apart; x − r = x − μ − c is the reconstruction."""

    even: Number
    """½ [KL(x − μ − c) + KL(x − μ + c)] over KL of the noise."""
    odd: Number
    """½ [KL(x − μ − c) − KL(x − μ + c)] over KL of the noise, signed; ρ = even + odd."""
    small: Number
    """ρ₀: `even` with residual and noise at amplitude 0.3."""
    mean_kl: Number
    """KL(x − μ), nats per scored token."""
    factors: dict[str, Number]
    """log of the KL of each nested null over that of the one before, by its name; `residual` comes last.
    They add up to the log of the isotropic ratio. Empty where a null was not measured."""
    others: dict[str, Number]
    """ρ with other denominators, by their names."""


class ReconstructionMetrics(FrozenModel):
    """How much of the activation is reconstructed by exact codes, before any loss."""

    explained_variance: Number
    """1 - residual / centred sum of squares, over spliced tokens of the evaluation set."""


class CodedPoint(FrozenModel):
    """The very codes whose bits are counted, decoded and spliced in."""

    bits: Number
    """Per spliced token, on evaluation, under tables fixed on calibration."""
    fvu: Number
    """Squared residual over centred sum of squares."""
    gap: Number
    kl: Number
    """`gap` and `kl`: nats per scored token."""
    efficiency: Number
    """log[(KL_ref + 10⁻⁶)/(KL + 10⁻⁶)], KL_ref that of transform coding at equal bits; null where that was
    not measured."""


class CodedStep(FrozenModel):
    """Codes quantised with one step, not spliced in."""

    bits: Number
    fvu: Number


class ReferencePoint(FrozenModel):
    """Transform coding at one step: all principal coefficients, quantised; the first is the mean alone."""

    bits: Number
    kl: Number


class CodingMetrics(FrozenModel):
    """The rate–distortion curve of an interpretation, and that of the reference."""

    points: dict[str, CodedPoint]
    """Points by the name of the rung: `coded`, `coded-10` …; empty where the ladder is of exact codes."""
    steps: tuple[CodedStep, ...]
    """A step each for Δ_j = rms · 2^(−j/2), j = 0, 1 …: coarsest first."""
    reference: tuple[ReferencePoint, ...]
    """Bits ascending; empty where the task has none."""
    full_bits: Number
    """R₀: bits of the reference at 1 % of the KL of its mean."""


class CircuitRung(GrownModel):
    """A circuit with one background. Nats per scored token, but for faithfulness and completeness."""

    later = ("completeness",)

    answer: Number
    """log-odds of the right tokens against the wrong ones; of one token each, their logit difference."""
    faithfulness: Number
    """f = (answer − answer of the empty circuit) / (clean answer − answer of the empty circuit)."""
    gap: Number
    kl: Number
    completeness: Number | None = None
    """Circuits of features: f of everything that is not kept; near 0 if nothing is missing."""


class CircuitTelescope(FrozenModel):
    """Parts of the Gaussian gap of a circuit, which add up exactly. Nats per scored token."""

    total: Number
    """The gap of `full`."""
    shape: Number
    """full − permuted: other prompts' real values in place of a Gaussian of their covariance."""
    dependence: Number
    """permuted − counterfactual: a prompt that differs in what matters only, in place of any."""
    rest: Number
    """counterfactual − clean: what matters."""


class CircuitPoint(GrownModel):
    """One circuit."""

    later = ("efficiency",)

    rungs: dict[str, CircuitRung]
    telescope: CircuitTelescope | None = None
    efficiency: Number | None = None
    """log[(KL + 10⁻⁶)/(KL + 10⁻⁶)] of the median random circuit of equal size over this one, with `raw`."""


class CircuitMetrics(FrozenModel):
    """Circuits of all sizes that were looked at."""

    answer: Number
    """The answer of the untouched model, nats."""
    points: dict[str, CircuitPoint]
    """Points by size, a share of all edges; `+0.01`: chosen by signed scores, where that is another circuit.
    Circuits of features are named by threshold: `>0.01`, nodes whose score is beyond 0.01 nats."""
    cpr: dict[str, Number]
    """The area under f over sizes of circuits chosen by signed scores (MIB's CPR), by background."""
    cmd: dict[str, Number]
    """The area under |1 − f| of circuits chosen by absolute scores (MIB's CMD), by background."""


class Metrics(GrownModel):
    """All metrics of a record, each in a field of its own."""

    later = ("circuit", "coding", "orders", "bath", "ratio_parts", "conditional", "description")

    clean: CleanMetrics
    rungs: dict[str, RungMetrics]
    gaussian_ratio: GaussianRatio
    reconstruction: ReconstructionMetrics
    telescope: Telescope | None = None
    perturbative: PerturbativeFit | None = None
    couplings: Couplings | None = None
    calibration_spread: CalibrationSpread | None = None
    gaussianity: Gaussianity | None = None
    """Needs activations: alone among the metrics, it cannot be recomputed from the per-document values."""
    circuit: CircuitMetrics | None = None
    """Metrics that circuits alone have."""
    coding: CodingMetrics | None = None
    """Codes that are paid for; null where they cannot be."""
    orders: Orders | None = None
    """Absent where not all amplitudes were measured."""
    bath: tuple[BathPoint, ...] | None = None
    """Annealed losses by amplitude; absent where an amplitude was not measured."""
    ratio_parts: RatioParts | None = None
    """Absent where nothing but the ratio's own noise was spliced in around x."""
    conditional: ConditionalTelescope | None = None
    """Samplers and means that condition on codes, x̂ and its neighbours; null where none was measured."""
    description: DescriptionMetrics | None = None
    """Net bits; null where they were not measured, with the reason in `calibration.description`."""
