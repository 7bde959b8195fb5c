"""The schema of a record: every field, its unit, and where it stands. Version 4.

Floats have six significant digits; NaN does not exist: a null comes with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from remainder.record.intervals import Estimate
from remainder.record.json import significant

__all__ = [
    "SCHEMA_VERSION",
    "AnnealedMetrics",
    "BehaviourInfo",
    "CalibrationInfo",
    "CalibrationSpread",
    "Check",
    "CircuitMetrics",
    "CircuitPoint",
    "CircuitRung",
    "CircuitSize",
    "CircuitTelescope",
    "CleanMetrics",
    "Compat",
    "Complexity",
    "CouplingPoint",
    "Couplings",
    "DictionaryLearningMetrics",
    "DirectionTests",
    "DocumentsInfo",
    "FrozenModel",
    "GaussianRatio",
    "Gaussianity",
    "GrownModel",
    "Measurement",
    "Metrics",
    "NullTest",
    "Number",
    "PeerMetrics",
    "PerturbativeFit",
    "Pinned",
    "Provenance",
    "QuenchedMetrics",
    "RadiusHistogram",
    "Real",
    "ReconstructionMetrics",
    "Record",
    "RungMetrics",
    "Sha256",
    "SubmissionInfo",
    "TaskInfo",
    "Telescope",
]

SCHEMA_VERSION = 4

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

Real = Annotated[float, AfterValidator(significant)]
"""A float as a record keeps it: six significant digits."""


class FrozenModel(BaseModel):
    """Base of everything in a record: immutable, and strangers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GrownModel(FrozenModel):
    """A part of a record that has grown: fields that came later are left out where there is nothing to say.

    So records that were written before such a field keep their bytes and hashes.
    """

    later: ClassVar[tuple[str, ...]]

    @model_serializer(mode="wrap")
    def _without_later(self, handler: Callable[..., Any]) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {name: part for name, part in content.items() if part is not None or name not in self.later}


class Number(FrozenModel):
    """A number with its 95 % interval; null where it has none, with the reason."""

    value: Real | None
    low: Real | None
    high: Real | None
    reason: str | None = None

    @classmethod
    def of(cls, estimate: Estimate) -> Number:
        """The record's form of an `Estimate`."""
        return cls(value=estimate.value, low=estimate.low, high=estimate.high, reason=estimate.reason)

    @classmethod
    def bare(cls, value: float | int, reason: str) -> Number:
        """A value without an interval, and why it has none."""
        return cls(value=value, low=None, high=None, reason=reason)

    @classmethod
    def null(cls, reason: str) -> Number:
        """No value, and why."""
        return cls(value=None, low=None, high=None, reason=reason)

    @model_validator(mode="after")
    def _explained(self) -> Number:
        if self.value is None and not self.reason:
            raise ValueError("a null value needs a reason")
        return self

    @model_serializer
    def _without_empty_reason(self) -> dict[str, float | str | None]:
        content: dict[str, float | str | None] = {"value": self.value, "low": self.low, "high": self.high}
        return content if self.reason is None else {**content, "reason": self.reason}


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


class Telescope(FrozenModel):
    """Where the Gaussian gap comes from: shape + dependence + rest = total, exactly. Nats per scored token.

    `total` is the gap of `full-unshrunk`; `shrinkage` is what `full` differs from it by.
    """

    total: Number
    shape: Number
    """full-unshrunk − permuted: one-token shape."""
    dependence: Number
    """permuted − matched: what the cell of x̂ tells."""
    rest: Number
    """matched − clean: context, target, order of tokens, and x̂ beyond its cell."""
    shrinkage: Number


class PerturbativeFit(FrozenModel):
    """Least squares of the gap on the rungs `perturbative-m`: limit + c1 m^(−1/2) + c2 / m. Nats."""

    limit: Number
    """The Gaussian limit, m → ∞."""
    c1: Number
    """What third cumulants cost."""
    c2: Number
    """What fourth cumulants, and squares of third ones, cost."""


class CouplingPoint(FrozenModel):
    """Gaps on the calibration split with noise times `alpha` and source times `beta`. Nats."""

    alpha: Real
    beta: Real
    quenched: Number
    annealed: Number


class Couplings(FrozenModel):
    """Amplitudes of source and noise that predict best: the minimum of a polynomial through `grid`."""

    alpha: Number
    beta: Number
    edge: bool
    """Whether the minimum lies on the edge of the grid, so that it may be farther out."""
    draws: int
    """At each point of the grid."""
    grid: tuple[CouplingPoint, ...]


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
    """Between these lie 95 % of the surrogates."""

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
    """How far the residual on evaluation is from the Gaussian fitted on calibration. Effect sizes."""

    rank: int
    """Dimensions of the whitened residual."""
    surrogates: int
    radial_kurtosis: NullTest
    """κ̂ = [d/(d+2)] mean‖w‖⁴/(mean‖w‖²)² − 1; 0 for a Gaussian of known covariance."""
    directions: dict[str, DirectionTests]
    """By what the directions come from, e.g. loss gradients or the decoder."""
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


class ReconstructionMetrics(FrozenModel):
    """How much of the activation is reconstructed, before any loss."""

    explained_variance: Number
    """1 - residual / centred sum of squares, over spliced tokens of the evaluation set."""


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
    """Of circuits of features, f of all that the circuit does not keep: near 0, if nothing is missing."""


class CircuitTelescope(FrozenModel):
    """Where the Gaussian gap of a circuit comes from; the terms add up exactly. Nats per scored token."""

    total: Number
    """The gap of `full`."""
    shape: Number
    """full − permuted: other prompts' real values in place of a Gaussian of their covariance."""
    dependence: Number
    """permuted − counterfactual: a prompt that differs in what matters only, in place of any."""
    rest: Number
    """counterfactual − clean: what matters."""


class CircuitPoint(FrozenModel):
    """One circuit."""

    rungs: dict[str, CircuitRung]
    telescope: CircuitTelescope | None = None


class CircuitMetrics(FrozenModel):
    """Circuits of all sizes that were looked at."""

    answer: Number
    """Of the untouched model, nats."""
    points: dict[str, CircuitPoint]
    """By size, a share of all edges; `+0.01`: chosen by signed scores, where that is another circuit.
    Circuits of features by threshold: `>0.01`, nodes whose score is beyond 0.01 nats."""
    cpr: dict[str, Number]
    """By background, the area under f over sizes of circuits chosen by signed scores (MIB's CPR)."""
    cmd: dict[str, Number]
    """By background, the area under |1 − f| of those chosen by absolute scores (MIB's CMD)."""


class Metrics(GrownModel):
    """Every metric at its fixed place."""

    later = ("circuit",)

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
    """Of circuits only."""


class PeerMetrics(FrozenModel):
    """The metrics that SAELens and SAEBench share, under their names. Losses and KL: nats per token."""

    tokens: int
    """That the peer counts: those whose own id is not special to it."""
    ce_loss_without_sae: Number
    ce_loss_with_sae: Number
    ce_loss_with_ablation: Number
    """With zeros at every position."""
    ce_loss_score: Number
    """(with ablation − with SAE) / (with ablation − without SAE)."""
    kl_div_with_sae: Number
    kl_div_with_ablation: Number
    kl_div_score: Number
    """(with ablation − with SAE) / with ablation."""
    explained_variance: Number
    explained_variance_legacy: Number
    """Mean over tokens of 1 − ‖r‖²/‖x − E x‖²; the peers take E x over a batch."""
    mse: Number
    """E ‖r‖², summed over dimensions."""
    cossim: Number
    l2_norm_in: Number
    l2_norm_out: Number
    l2_ratio: Number
    """E (‖x̂‖/‖x‖)."""
    relative_reconstruction_bias: Number
    """E ‖x̂‖² / E (x·x̂); the peers average it over batches."""
    l0: Number


class DictionaryLearningMetrics(FrozenModel):
    """Those of dictionary_learning, pooled over tokens where it averages over batches. Nats per token."""

    loss_original: Number
    loss_reconstructed: Number
    loss_zero: Number
    frac_recovered: Number
    """(reconstructed − zero) / (original − zero)."""
    frac_variance_explained: Number
    """1 − Σ Var r / Σ Var x, so that a constant offset is free."""


class Compat(FrozenModel):
    """The field's own metrics with its own masks, on the evaluation windows and in float32.

    They need activations: like the tests of Gaussianity, they cannot be recomputed from per-document values.
    """

    saelens: PeerMetrics
    """SAELens 6.54.12: special tokens keep their activation."""
    saebench: PeerMetrics
    """SAEBench 0.6.0: special tokens are reconstructed too, though not counted."""
    dictionary_learning: DictionaryLearningMetrics
    """Every position counts, the beginning of the sequence too."""
    mdl_bits: dict[str, Number]
    """Bits per token by the number of bins a feature, as SAEBench counts them; on calibration."""


class TaskInfo(FrozenModel):
    """Which task, exactly."""

    id: str
    version: str
    """`N-X`: results are comparable if N is equal."""
    hash: Sha256


class SubmissionInfo(FrozenModel):
    """Which interpretation, exactly."""

    name: str
    kind: str
    files: dict[str, Sha256]
    """Path relative to the submission's folder -> SHA-256."""
    hash: Sha256


class Pinned(FrozenModel):
    """A model or corpus: where it is from, and what was found there."""

    source: str
    revision: str | None = None
    sha256: Sha256


class CircuitSize(GrownModel):
    """What a circuit costs."""

    later = ("edges", "errors")

    edges: int | None = None
    """Null of a circuit of features, which keeps nodes."""
    nodes: int
    errors: int | None = None
    """Of a circuit of features, how many of its nodes are errors; all others are latents."""
    bits: Real
    """log₂ C(E, k) of k of E edges, or of nodes, of all templates together: once, not per token."""

    @property
    def kept(self) -> int:
        """Edges, or nodes of a circuit of features."""
        return self.nodes if self.edges is None else self.edges


class Complexity(GrownModel):
    """What the interpretation costs."""

    later = ("circuits",)

    l0: Number = Number.null("codes were not counted")
    """Nonzero codes per spliced token, on evaluation; filled in from the values by `make_record`."""
    live_features: Number
    """Features that were active at all."""
    bits_per_token: Number
    features: int | None
    """Codes per token, active or not, or edges of the graph, or nodes that a circuit of features chooses
    from; null for an interpretation without codes."""
    circuits: dict[str, CircuitSize] | None = None
    """By size as in `metrics.circuit`; `headline` is the one that the headline numbers are of."""


class Check(FrozenModel):
    """One check inside the run."""

    passed: bool
    value: Real | None = None
    limit: Real | None = None
    note: str = ""


class CalibrationInfo(FrozenModel):
    """What the residual models were fitted on."""

    documents: int
    tokens: int
    dimension: int
    shrinkage: Real | None = None
    """Intensity of the correlation matrix's shrinkage, 0 to 1."""
    oas: Real | None = None
    """The intensity if rows were independent (oracle-approximating shrinkage), for comparison."""
    held_out_mahalanobis: Real | None = None
    """Mean squared whitened residual on held-out documents per dimension; near 1 if the fit is sound."""
    rank: int | None = None
    """Dimensions that the residual occupies."""
    bank_rows: int | None = None
    """Real residuals that rungs draw from."""
    cells: int | None = None
    """Cells of x̂ that `matched` draws within."""
    cells_explained: Real | None = None
    """Share of the residual's variance between these cells, adjusted for their number."""


class BehaviourInfo(FrozenModel):
    """Prompts that a model was tried on, of which those that it solves are scored."""

    candidates: int
    solved: int
    answer: Real
    """Mean over the candidates, nats."""
    answer_of_solved: Real


class Measurement(GrownModel):
    """How it was measured."""

    later = ("behaviour",)

    rungs: tuple[str, ...]
    pairs: int
    """Antithetic pairs of draws."""
    annealed_draws: int = 0
    """Draws of the rungs whose annealed loss is a headline; 0 if there is none."""
    whole: bool = False
    """Whether couplings, refits and tests of Gaussianity were asked for (`--rungs all`)."""
    compat: bool = False
    """Whether the field's own metrics were asked for (`--compat`, and `--rungs all` of a text)."""
    unmeasured: dict[str, str] = {}
    """Rungs that this residual does not admit, and why."""
    seed: int
    dtype: str
    suffix: str
    """Whether the model ran from the site onward or as a whole."""
    device: str
    """Its type, e.g. `cpu`, `cuda`."""
    device_name: str | None = None
    batch_size: int | None = None
    """Windows per forward pass."""
    bf16_deviation: dict[str, Real] | None = None
    behaviour: BehaviourInfo | None = None
    """Of circuits: what the model does by itself."""


class DocumentsInfo(FrozenModel):
    """The per-document values beside the record, and how much they cover."""

    sha256: Sha256
    """Of the uncompressed CSV."""
    rows: int
    documents: int
    windows: int
    tokens: int
    """Scored tokens."""


class Provenance(FrozenModel):
    """What may differ between two runs that find the same numbers."""

    packages: dict[str, str]
    python: str
    platform: str
    git_commit: str | None
    dirty: bool | None
    timestamp: str
    """Start of the writing, UTC, ISO 8601."""
    timings: dict[str, Real]
    """Seconds per stage."""


class Record(FrozenModel):
    """Everything that is kept of one measurement. Make it with `make_record`."""

    schema_version: Literal[4]
    protocol: str
    task: TaskInfo
    submission: SubmissionInfo
    reference: SubmissionInfo | None = None
    """The finer interpretation that stood in for the model, if two were nested."""
    tier: str
    model: Pinned
    corpus: Pinned
    metrics: Metrics
    compat: Compat | None = None
    complexity: Complexity
    checks: dict[str, Check]
    calibration: CalibrationInfo
    measurement: Measurement
    documents: DocumentsInfo
    provenance: Provenance
    warnings: tuple[str, ...]
    measurement_key: Sha256
    result_id: Sha256
    record_id: Sha256

    @field_validator("protocol", mode="before")
    @classmethod
    def _as_text(cls, protocol: object) -> object:
        return str(protocol) if isinstance(protocol, int) else protocol
