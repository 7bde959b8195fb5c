"""The schema of a record: every field, its unit, and where it stands. Version 5.

Floats have six significant digits; NaN does not exist: a null comes with its reason.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from remainder.record import old
from remainder.record.code import CODE, SHELL
from remainder.record.compat import Compat
from remainder.record.metrics import CircuitMetrics, Metrics
from remainder.record.number import FrozenModel, GrownModel, Number, Real, Sha256
from remainder.record.rungs import BARE, CODED

__all__ = [
    "SCHEMA_VERSION",
    "BehaviourInfo",
    "CalibrationInfo",
    "Check",
    "CircuitSize",
    "CodingInfo",
    "Complexity",
    "ConditionalFit",
    "DescriptionFit",
    "DocumentsInfo",
    "Measurement",
    "MethodInfo",
    "Pinned",
    "Provenance",
    "Record",
    "SubmissionInfo",
    "TaskInfo",
]

SCHEMA_VERSION = 5

_NO_CIRCUITS = CircuitMetrics(answer=Number.null("it is no circuit"), points={}, cpr={}, cmd={})


class TaskInfo(FrozenModel):
    """The task, identified by its hash."""

    id: str
    version: str
    """`N-X`: results are comparable if N is equal."""
    hash: Sha256


class MethodInfo(FrozenModel):
    """The way in which the interpretation is read or made."""

    format: str | None
    """Name of its format; null for an object in memory, which was not read from a submission."""


class SubmissionInfo(GrownModel):
    """The interpretation, identified by its hash."""

    later = ("method", "kilobytes", "family")

    name: str
    kind: str
    files: dict[str, Sha256]
    """Path relative to the submission's folder -> SHA-256."""
    hash: Sha256
    method: MethodInfo | None = None
    """Absent before schema 5."""
    kilobytes: Real | None = None
    """Size of the files, of 1,000 bytes each; absent where they are not in the submission's folder."""
    family: str | None = None
    """The method that it is of, beside submissions to other sites; absent where it stands for itself."""

    @property
    def method_name(self) -> str:
        """The name of the method over tasks."""
        return self.family or self.name

    @property
    def format(self) -> str | None:
        """Name of its format, as far as the record tells it."""
        return old.format_of(self.hash) if self.method is None else self.method.format

    @property
    def runs_code(self) -> bool:
        """Whether code of its own encodes and decodes, and no reader of the benchmark's."""
        return self.format == CODE

    @property
    def is_shell(self) -> bool:
        """Whether it is an interpretation with some of its sources kept, and belongs to a flow."""
        return self.format == SHELL


class Pinned(FrozenModel):
    """A model or corpus: where it is from, and what was found there."""

    source: str
    revision: str | None = None
    sha256: Sha256


class CircuitSize(GrownModel):
    """The cost of a circuit."""

    later = ("edges", "errors")

    edges: int | None = None
    """Null of a circuit of features, which keeps nodes."""
    nodes: int
    errors: int | None = None
    """Circuits of features: the number of nodes that are errors; all others are latents."""
    bits: Real
    """log₂ C(E, k) of k of E edges, or of nodes, of all templates together: once, not per token."""

    @property
    def kept(self) -> int:
        """Edges, or nodes of a circuit of features."""
        return self.nodes if self.edges is None else self.edges


class CodingInfo(FrozenModel):
    """Steps of the quantised codes, fixed on calibration."""

    unit: Literal["contribution", "sd"]
    """The unit of a step: a_j ‖d_j‖ of an affine decoder, or a code over its standard deviation."""
    rms: Real
    """The coarsest step: √tr Cov x; in units of standard deviations, the root of how many codes vary."""
    steps: dict[str, int]
    """The j of Δ_j = rms · 2^(−j/2) at each point of the curve."""
    added: dict[str, Real]
    """Increase of the median squared error by quantising there, over max(that error, 10⁻³ tr Cov x)."""
    silent: int
    """Latents that were never active on calibration: they share one rate."""
    reference_steps: tuple[int, ...]
    """The j at which the reference was measured; empty where there is none."""


class Complexity(GrownModel):
    """The cost of the interpretation."""

    later = ("circuits", "coding", "lone_code_sets")

    l0: Number = Number.null("codes were not counted")
    """Nonzero codes per spliced token, on evaluation; filled in from the values by `make_record`."""
    live_features: Number
    """Features that were active at all."""
    bits_per_token: Number
    """Bits of the codes of a spliced token, on evaluation, quantised as at the point `coded`; filled in by
    `make_record` where there is `coding`."""
    features: int | None
    """Codes per token, active or not, or edges of the graph, or nodes that a circuit of features chooses
    from; null for an interpretation without codes."""
    circuits: dict[str, CircuitSize] | None = None
    """Circuits by size as in `metrics.circuit`; the headline numbers belong to `headline`."""
    coding: CodingInfo | None = None
    """Null where codes are not paid for; the reason stands at `bits_per_token`."""
    lone_code_sets: Number | None = None
    """The share of evaluation tokens whose set of latents, those on after quantising, occurs at no other
    evaluation or calibration token. Shown, and no fault: a method that memorises has 1, and others may."""


class Check(FrozenModel):
    """One check inside the run."""

    passed: bool
    value: Real | None = None
    limit: Real | None = None
    note: str = ""


class ConditionalFit(FrozenModel):
    """A conditional kernel, on calibration documents that it was not fitted to."""

    rows: int
    """Calibration rows that the rung itself is fitted to, or draws from."""
    explained: Real | None
    """R² of the residual given what the kernel sees, over folds of documents; null where nothing varies."""
    of: str = "r"
    """The quantity that is explained."""
    curve: dict[str, Real] = Field(default_factory=dict)
    """R² on the first fold by the number of rows that were fitted to: 2k, 8k, 32k, all others'."""
    surprise: Real | None = None
    """−log density, nats a token, with N(0, s²I) added, s² a thousandth of the residual's variance per
    dimension; null for what has no density."""
    same_token: Real | None = None
    """`neighbour`: share of rows whose nearest is of the same input token."""
    note: str = ""


class DescriptionFit(FrozenModel):
    """Description lengths: what is fixed on calibration, or why there are none."""

    rows: int = 0
    step: int | None = None
    """The j of Δ_j of largest net bits on held-out calibration documents."""
    noise: Real | None = None
    """Variance of the noise that is added to each coordinate of x."""
    ceiling: Real | None = None
    """½ Σ log₂(1 + λ/noise), λ the eigenvalues of the covariance of x: no codes can save more bits."""
    activation: str | None = None
    """Family of the Gaussian of x."""
    remainder: str | None = None
    """Family of the Gaussian of what the codes leave."""
    folds: tuple[Real, ...] = ()
    """Net bits per token of each fold of calibration documents, tables and Gaussians fitted to the others."""
    reason: str | None = None


class CalibrationInfo(GrownModel):
    """The data that the residual models were fitted on."""

    later = ("unexplained", "conditional", "best", "description")

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
    unexplained: dict[str, Number] | None = None
    """Share of the activation's variance that is left on the splits `calibration` and `fit`."""
    conditional: dict[str, ConditionalFit] | None = None
    """Conditional kernels by rung, and `full` beside them; absent where none was measured."""
    best: str | None = None
    """The rung of the conditional sampler with the least surprise."""
    description: DescriptionFit | None = None
    """Description lengths; absent where they were not asked for."""


class BehaviourInfo(FrozenModel):
    """Prompts that a model was tried on, of which those that it solves are scored."""

    candidates: int
    solved: int
    answer: Real
    """Mean over the candidates, nats."""
    answer_of_solved: Real


class Measurement(GrownModel):
    """The settings of the measurement."""

    later = ("behaviour", "peers")

    rungs: tuple[str, ...]
    pairs: int
    """Antithetic pairs of draws."""
    annealed_draws: int = 0
    """Draws of the rungs whose annealed loss is a headline; 0 if there is none."""
    whole: bool = False
    """Whether couplings, refits and tests of Gaussianity were asked for (`--rungs all`)."""
    compat: bool = False
    """Whether the field's own metrics were asked for (`--compat`, and `--rungs all` of a text)."""
    peers: tuple[str, ...] | None = None
    """Peers whose metrics were asked for, if not all."""
    unmeasured: dict[str, str] = Field(default_factory=dict)
    """Rungs that this residual does not admit, and why."""
    seed: int
    dtype: str
    suffix: str
    """Whether the model ran from the site onward or as a whole."""
    device: str
    """The type of the device, e.g. `cpu`, `cuda`."""
    device_name: str | None = None
    batch_size: int | None = None
    """Windows per forward pass."""
    bf16_deviation: dict[str, Real] | None = None
    behaviour: BehaviourInfo | None = None
    """Circuits: the behaviour of the model by itself."""


class DocumentsInfo(FrozenModel):
    """The per-document values beside the record, and how much they cover."""

    sha256: Sha256
    """Hash of the uncompressed CSV."""
    rows: int
    documents: int
    windows: int
    tokens: int
    """Scored tokens."""


class Provenance(GrownModel):
    """Facts that may differ between two runs that find the same numbers."""

    later = ("threads", "cpu", "tokens_per_second", "tf32")

    packages: dict[str, str]
    python: str
    platform: str
    git_commit: str | None
    dirty: bool | None
    timestamp: str
    """Start of the writing, UTC, ISO 8601."""
    timings: dict[str, Real]
    """Seconds per stage."""
    threads: int | None = None
    """Threads that the sums of the model's layers were split over."""
    cpu: dict[str, Real] | None = None
    """CPU seconds per stage, of all threads together; a stage that a group shared counts in equal parts."""
    tokens_per_second: Real | None = None
    """Scored tokens over the seconds of the stage `evaluation`, all passes of them together; absent where an
    earlier run or another process had finished a part of them."""
    tf32: bool | None = None
    """Whether products of float32 may be rounded to TF32 on its CUDA device."""


class Record(FrozenModel):
    """Everything that is kept of one measurement. Make it with `make_record`."""

    schema_version: Literal[4, 5]
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

    @property
    def is_of_circuits(self) -> bool:
        """Whether it is of circuits, which are scored on prompts."""
        return isinstance(self.metrics.circuit, CircuitMetrics)

    @property
    def is_bare(self) -> bool:
        """Whether nothing but exact codes was asked for (`--rungs raw`): then no bits are counted."""
        return self._asks_only(BARE)

    @property
    def is_unfitted(self) -> bool:
        """Whether nothing was fitted to the calibration split, and nothing that is fitted was asked for."""
        return self._asks_only(BARE | {CODED}) and not self.calibration.tokens

    def _asks_only(self, rungs: frozenset[str]) -> bool:
        stated = self.measurement
        return not (self.is_of_circuits or stated.whole) and rungs.issuperset(stated.rungs)

    @property
    def circuits(self) -> CircuitMetrics:
        """The metrics of its circuits; without any points for other interpretations."""
        return self.metrics.circuit or _NO_CIRCUITS

    @property
    def circuit_sizes(self) -> dict[str, CircuitSize]:
        """The cost of each of its circuits; empty for other interpretations."""
        return self.complexity.circuits or {}

    @property
    def keeps_nodes(self) -> bool:
        """Whether it is of circuits of features, which keep nodes and not edges."""
        return any(size.edges is None for size in self.circuit_sizes.values())

    @property
    def failed_checks(self) -> list[str]:
        """Names of the checks inside the run that failed."""
        return [name for name, check in self.checks.items() if not check.passed]

    @model_validator(mode="after")
    def _with_method(self) -> Record:
        for part in (self.submission, self.reference):
            if part is not None and (part.method is None) != (self.schema_version in old.VERSIONS):
                fault = "lacks" if part.method is None else "states"
                raise ValueError(f"submission {part.name} {fault} its method in schema {self.schema_version}")
        return self

    @field_validator("protocol", mode="before")
    @classmethod
    def _as_text(cls, protocol: object) -> object:
        return str(protocol) if isinstance(protocol, int) else protocol
