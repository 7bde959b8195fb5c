"""The schema of a record: every field, its unit, and where it stands. Version 1.

Floats have six significant digits; NaN does not exist: a null comes with its reason.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from remainder.canonical import significant
from remainder.measure.intervals import Estimate

__all__ = [
    "SCHEMA_VERSION",
    "Calibration",
    "Check",
    "CleanMetrics",
    "Complexity",
    "DocumentsInfo",
    "FrozenModel",
    "GaussianRatio",
    "Measurement",
    "Metrics",
    "Number",
    "Pinned",
    "Provenance",
    "QuenchedMetrics",
    "Real",
    "ReconstructionMetrics",
    "Record",
    "RungMetrics",
    "Sha256",
    "SubmissionInfo",
    "TaskInfo",
]

SCHEMA_VERSION = 1

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

Real = Annotated[float, AfterValidator(significant)]
"""A float as a record keeps it: six significant digits."""


class FrozenModel(BaseModel):
    """Base of everything in a record: immutable, and strangers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class QuenchedMetrics(FrozenModel):
    """One rung, its noise drawn before the loss is read. Nats per scored token, but `top1` (a share)."""

    loss: Number
    gap: Number
    kl: Number
    kl_p99: Number
    top1: Number


class RungMetrics(FrozenModel):
    """One rung of the ladder."""

    quenched: QuenchedMetrics


class GaussianRatio(FrozenModel):
    """KL of the residual over KL of an equally large Gaussian: fitted, same length per token, isotropic."""

    fitted: Number
    directional: Number
    isotropic: Number


class ReconstructionMetrics(FrozenModel):
    """How much of the activation is reconstructed, before any loss."""

    explained_variance: Number
    """1 - residual / centred sum of squares, over spliced tokens of the evaluation set."""


class Metrics(FrozenModel):
    """Every metric at its fixed place."""

    clean: CleanMetrics
    rungs: dict[str, RungMetrics]
    gaussian_ratio: GaussianRatio
    reconstruction: ReconstructionMetrics


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


class Complexity(FrozenModel):
    """What the interpretation costs."""

    l0: Number = Number.null("codes were not counted")
    """Nonzero codes per spliced token, on evaluation; filled in from the values by `make_record`."""
    live_features: Number
    """Features that were active at all."""
    bits_per_token: Number
    features: int | None
    """Codes per token, active or not; null for an interpretation without codes."""


class Check(FrozenModel):
    """One check inside the run."""

    passed: bool
    value: Real | None = None
    limit: Real | None = None
    note: str = ""


class Calibration(FrozenModel):
    """What the residual models were fitted on."""

    documents: int
    tokens: int
    dimension: int
    shrinkage: Real | None = None
    """Intensity of the correlation matrix's shrinkage, 0 to 1."""
    held_out_mahalanobis: Real | None = None
    """Mean squared whitened residual on held-out documents per dimension; near 1 if the fit is sound."""


class Measurement(FrozenModel):
    """How it was measured."""

    rungs: tuple[str, ...]
    pairs: int
    """Antithetic pairs of draws."""
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

    schema_version: Literal[1]
    protocol: str
    task: TaskInfo
    submission: SubmissionInfo
    tier: str
    model: Pinned
    corpus: Pinned
    metrics: Metrics
    complexity: Complexity
    checks: dict[str, Check]
    calibration: Calibration
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
