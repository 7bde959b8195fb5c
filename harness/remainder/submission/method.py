"""`[method]` of a submission: the settings of each format, the table of formats, and the hash that names a
submission.

A format is one line of `FORMATS`: its name, what kind of submission it makes, the class of its settings, and
`module:function` strings for the code behind it, which is imported only when it is used
(`remainder.submission.registry`). So records are verified against a `submission.toml` without torch.

Formats that share their settings share a class: the table, not the class, says which names there are.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from remainder.record.code import CODE

__all__ = ["FORMATS", "NAME", "Format", "Kind", "Method", "SiteSource", "read_method", "submission_hash"]

NAME = r"^[a-z0-9][a-z0-9._-]{0,39}$"
"""Names of submissions: nothing that a table, a path or an eye could take for something else."""

Kind = Literal["reconstruction", "circuit", "feature-circuit"]
"""The kinds of submission. A transcoder is a reconstruction: it rebuilds the output of what it reads."""

Source = Literal["file", "folder", "hub", "prompts"]
"""A place that a format may come from: a file or folder that is named without a `submission.toml`, a hub, or
a search on the task's own `fit` prompts."""


def _in_folder(path: str) -> str:
    if not path:
        raise ValueError("it is empty; it names what lies in the submission's folder")
    if Path(path).is_absolute() or ".." in Path(path).parts or "\0" in path:
        raise ValueError("it must lie in the submission's folder")
    return path


def _listed_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) < len(names):
        raise ValueError("`ignore_fields` names fields, none of them twice; else leave it out")
    return names


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or not all(math.isfinite(each) and each >= 0 for each in values):
        raise ValueError("`thresholds` are finite, none negative")
    if list(values) != sorted(set(values)):
        raise ValueError("`thresholds` ascend, none twice")
    return values


InFolder = Annotated[str, AfterValidator(_in_folder)]
IgnoreFields = Annotated[
    tuple[str, ...],
    AfterValidator(_listed_once),
    Field(description="fields of its files, known by their name to change nothing, and passed over"),
]
Rank = Annotated[StrictInt, Field(ge=1, description="the number of directions kept, such as rank = 32")]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Steps = Annotated[StrictInt, Field(ge=1, description="steps of integrated gradients")]
Thresholds = Annotated[
    tuple[StrictFloat, ...],
    AfterValidator(_ascending),
    Field(description="least scores of nodes, in nats, ascending; each makes a circuit"),
]


class SiteSource(BaseModel):
    """One of the `sites` of a circuit of features: where it is, and whose latents are its nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    submission: InFolder = Field(
        description="a folder in that of this submission, with a submission.toml or as its library wrote "
        "it; or `baselines/NAME`, one that comes with the benchmark"
    )
    task: str | None = Field(default=None, description="that names the site")
    hook_in: str | None = Field(default=None, description="in place of `task`: what is encoded")
    hook_out: str | None = Field(default=None, description="what is rebuilt; default: `hook_in`")

    @model_validator(mode="after")
    def _one_site(self) -> SiteSource:
        if (self.task is None) == (self.hook_in is None):
            raise ValueError("name the site by `task`, or by `hook_in` (and `hook_out`)")
        if self.hook_out is not None and self.hook_in is None:
            raise ValueError("`hook_out` is given with `hook_in`")
        return self


# --------------------------------------------------------------------------------------- settings of formats


class Method(BaseModel):
    """A format and its settings; by itself, the settings of a format that has none.

    A format's own class adds fields. An optional one defaults to None: what is None is left out of the
    submission's hash, so that a setting can be added later without moving a hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str

    @model_validator(mode="before")
    @classmethod
    def _own_settings(cls, content: Any) -> Any:
        """Refuse what the format has no setting for, and miss what it needs, each by name."""
        if not isinstance(content, Mapping):
            return content
        format = content.get("format")
        own = [name for name in cls.model_fields if name != "format"]
        if strange := sorted(str(name) for name in content.keys() - cls.model_fields.keys()):
            listed = f"it has {', '.join(f'`{name}`' for name in own)}" if own else "it has none"
            raise ValueError(f"`{strange[0]}` is not a setting of format {format}; {listed}")
        for name in own:
            field = cls.model_fields[name]
            if field.is_required() and content.get(name) in (None, [], ()):
                raise ValueError(f"format {format} needs `{name}`: {field.description}")
        return content

    @property
    def place(self) -> str | None:
        """The place of its files, relative to the submission's folder; None if none lie there."""
        path: str | None = self.get("path")
        return path

    def get(self, name: str) -> Any:
        """The value of a setting; None if it was not given, or the format does not have it."""
        return getattr(self, name, None)


class RankMethod(Method):
    """Settings of a projection on directions that are fitted."""

    rank: Rank


class RandomRankMethod(RankMethod):
    """Settings of a projection on random directions."""

    seed: Seed = 0


class SeedMethod(Method):
    """Settings of a random choice."""

    seed: Seed = 0


class StepsMethod(Method):
    """Settings of attribution; one step, the default, is the gradient itself."""

    steps: Steps | None = None


class ArrayMethod(Method):
    """Settings of a file of arrays."""

    path: InFolder = Field(description='the file of the arrays, such as path = "weights.safetensors"')


class CircuitMethod(Method):
    """Settings of circuits in a file."""

    path: InFolder = Field(description='the file of the circuits, such as path = "circuit.json"')
    ignore_fields: IgnoreFields | None = None


class FolderMethod(Method):
    """Settings of a folder that another library wrote, by default that of the submission itself."""

    path: InFolder | None = Field(
        default=None, description="the folder of what the library wrote; default: that of this file"
    )
    ignore_fields: IgnoreFields | None = None

    @property
    def place(self) -> str | None:
        """The setting `path`, by default the folder itself."""
        return self.path or "."


class WeightsMethod(FolderMethod):
    """Settings of weights that another library wrote, in a folder of the submission or on a hub."""

    has_releases: ClassVar[bool] = False
    """Whether `hub` may name a release of sae-lens's list in place of a repository."""

    hub: str | None = Field(
        default=None, description="OWNER/REPO:SAE_ID, or RELEASE:SAE_ID of sae-lens's list"
    )
    revision: str | None = Field(
        default=None, description="commit of the hub's repository; default: the newest"
    )

    @property
    def place(self) -> str | None:
        """The setting `path`, by default the folder itself; None if the files lie on a hub."""
        return None if self.hub is not None else super().place

    @model_validator(mode="after")
    def _one_place(self) -> WeightsMethod:
        if self.path is not None and self.hub is not None:
            raise ValueError("give `path` or `hub`, not both")
        if self.revision is not None and self.hub is None:
            raise ValueError("`revision` is that of `hub`, which is not given")
        if self.hub is not None and not self.has_releases and "/" not in self.hub.partition(":")[0]:
            raise ValueError(f"`hub` is {self.hub!r}; for format {self.format} write OWNER/REPO:SAE_ID")
        return self


class ReleaseMethod(WeightsMethod):
    """Settings of weights that sae-lens reads, which lists releases of its own."""

    has_releases: ClassVar[bool] = True


class SitesMethod(Method):
    """Settings that all circuits of features share: the sites whose latents are nodes."""

    sites: tuple[SiteSource, ...] = Field(description="at least one [[method.sites]], in order of a pass")


class FeatureAttributionMethod(SitesMethod):
    """Settings of a search for latents that carry a behaviour."""

    steps: Steps | None = None
    thresholds: Thresholds | None = None
    scored_against: Literal["mean", "counterfactual", "zero"] | None = Field(
        default=None, description="what a node is compared with; default: its mean"
    )


class FeatureScoresMethod(SitesMethod):
    """Settings of scores of latents in a file."""

    path: InFolder = Field(description='the file of scores, such as path = "scores.safetensors"')
    thresholds: Thresholds | None = None


class FeatureGraphMethod(SitesMethod):
    """Settings of graphs of latents in files."""

    path: InFolder = Field(description="the file of a graph, or a folder with one for each template")
    pinned: StrictBool | None = Field(default=None, description="only nodes that a person pinned")
    share: Annotated[StrictFloat, Field(ge=0, le=1)] | None = Field(
        default=None, description="only nodes that make up this share of influence"
    )

    @model_validator(mode="after")
    def _one_choice(self) -> FeatureGraphMethod:
        if self.pinned and self.share is not None:
            raise ValueError("give `pinned` or `share`, not both")
        return self


def _entry(name: str) -> str:
    file, colon, function = name.partition(":")
    if colon and file.endswith(".py") and re.fullmatch(r"[A-Za-z_]\w*", function):
        _in_folder(file)
    elif not re.fullmatch(r"[\w][\w.-]*", name):
        raise ValueError(f'`entry` is {name!r:.80}; write "FILE.py:FUNCTION", or the name of an entry point')
    return name


class EntryMethod(Method):
    """Settings of a method that is code; which `format` that is need not be said."""

    entry: Annotated[str, AfterValidator(_entry)] = Field(
        description='the function that builds it, such as entry = "method.py:build"'
    )

    @property
    def place(self) -> str | None:
        """The folder itself, all of whose files its code can read."""
        return "."


# -------------------------------------------------------------------------------------- the table of formats


@dataclass(frozen=True)
class Format:
    """A format: one line of the table, or what another package registers in `remainder.formats`.

    Functions are named as `module:function`. Exactly one of `read` and `make` gives the interpretation:

    - `read(path, task, ignore) -> Loaded`: of a reconstruction that lies in files, at `path`;
    - `make(submission, task, fit) -> Loaded`: of any other reconstruction;
    - `make(submission, loaded_task, fit_windows) -> Found`: of circuits.
    """

    name: str
    kind: Kind
    settings: type[Method]
    read: str | None = None
    make: str | None = None
    files: str | None = None
    """`files(path) -> list[Path]`: the files at the setting `path` whose content can change a score."""
    require: str = "remainder.formats.tensors:require_weights"
    """`require(path)`: raises InterpretationError for a file that is seen to be something else, before
    gigabytes are hashed."""
    recognise: str | None = None
    """`recognise(path) -> bool`: whether a file or folder that is named alone is of this format."""
    sources: tuple[Source, ...] = ()
    features: Callable[[int], int] | None = None
    """Number of features at a site of some width, where the format alone fixes it."""
    elsewhere: str | None = None
    """`elsewhere(folder, method) -> dict[str, str]`: hashes of what lies in no folder of a submission."""
    runs_code: bool = False
    """Whether its submissions are code, which is executed only where somebody says that it is trusted."""
    ranks_edges: bool = False
    """Whether it ranks single edges whatever is in its files, so that a size allows a share of all edges."""

    def __post_init__(self) -> None:
        for name in ("read", "make", "files", "require", "recognise", "elsewhere"):
            place = getattr(self, name)
            if place is not None and not (isinstance(place, str) and re.fullmatch(r"[\w.]+:\w+", place)):
                raise ValueError(f'format {self.name}: `{name}` is {place!r:.80}; write "module:function"')
        if (self.read is None) == (self.make is None):
            raise ValueError(f"format {self.name}: give `read` or `make`, and not both")
        # Weights that are not hashed could be exchanged under a record.
        has_place = "path" in self.settings.model_fields or self.settings.place is not Method.place
        if has_place != (self.files is not None):
            raise ValueError(
                f"format {self.name}: a setting `path` and `files`, which are hashed, go together"
            )


def _weights(name: str, *more: Source, settings: type[WeightsMethod] = WeightsMethod) -> Format:
    """The line of a library's weights, whose module has `load`, `files` and `found_in`."""
    module = f"remainder.formats.{name.replace('-', '_')}"
    functions = [f"{module}:{function}" for function in ("load", "files", "found_in")]
    return Format(
        name, "reconstruction", settings, functions[0], files=functions[1], recognise=functions[2],
        sources=("folder", "hub", *more),
    )  # fmt: skip


_MADE = "remainder.submission.references:"
_CODE = "remainder.submission.code:"
_CIRCUITS = "remainder.submission.circuits:"
_FEATURES = "remainder.submission.feature_circuits:"
_READ = "remainder.formats."
_ARRAYS = "remainder.formats.arrays:"
_SEARCHED: tuple[Source, ...] = ("prompts",)

FORMATS: Mapping[str, Format] = {
    row.name: row
    for row in (
        Format("identity", "reconstruction", Method, make=f"{_MADE}identity", features=lambda width: width),
        Format("mean", "reconstruction", Method, make=f"{_MADE}mean", features=lambda width: 0),
        Format("pca", "reconstruction", RankMethod, make=f"{_MADE}pca"),
        Format("random-projection", "reconstruction", RandomRankMethod, make=f"{_MADE}random"),
        Format("subspace", "reconstruction", ArrayMethod, f"{_ARRAYS}subspace", files=f"{_ARRAYS}files"),
        Format("codebook", "reconstruction", ArrayMethod, f"{_ARRAYS}codebook", files=f"{_ARRAYS}files"),
        Format(
            CODE, "reconstruction", EntryMethod, make=f"{_CODE}make", files=f"{_CODE}files",
            require=f"{_CODE}require", elsewhere=f"{_CODE}elsewhere", runs_code=True,
        ),
        # Folders are recognised in this order: what marks a later format may lie in that of an earlier one.
        _weights("sparsify"),
        _weights("dictionary-learning"),
        _weights("saelens", settings=ReleaseMethod),
        # Files are recognised in this order: circuits by their content, before lists by their names.
        Format(
            "eap-ig", "circuit", CircuitMethod, make=f"{_CIRCUITS}read_file", files=f"{_READ}eap_ig:files",
            require=f"{_READ}eap_ig:require", recognise=f"{_READ}eap_ig:found_in", sources=("file",),
        ),
        Format(
            "feature-graph", "feature-circuit", FeatureGraphMethod, make=f"{_FEATURES}read_graphs",
            files=f"{_READ}attribution_graph:files",
        ),
        _weights("circuit-tracer", "file"),
        _weights("gemma-scope"),
        Format(
            "mib", "circuit", FolderMethod, make=f"{_CIRCUITS}read_folder", files=f"{_READ}mib:all_files",
            require=f"{_READ}eap_ig:require", recognise=f"{_READ}mib:found_in", sources=("folder",),
        ),
        Format("full-graph", "circuit", Method, make=f"{_CIRCUITS}full"),
        Format("empty-graph", "circuit", Method, make=f"{_CIRCUITS}empty"),
        Format("random-edges", "circuit", SeedMethod, make=f"{_CIRCUITS}random", ranks_edges=True),
        Format(
            "edge-attribution", "circuit", StepsMethod, make=f"{_CIRCUITS}rank_edges", sources=_SEARCHED,
            ranks_edges=True,
        ),
        Format("node-attribution", "circuit", StepsMethod, make=f"{_CIRCUITS}rank_nodes", sources=_SEARCHED),
        Format(
            "edge-patching", "circuit", Method, make=f"{_CIRCUITS}patch_edges", sources=_SEARCHED,
            ranks_edges=True,
        ),
        Format(
            "feature-attribution", "feature-circuit", FeatureAttributionMethod,
            make=f"{_FEATURES}attribute", sources=_SEARCHED,
        ),
        Format(
            "feature-scores", "feature-circuit", FeatureScoresMethod, make=f"{_FEATURES}read_scores",
            files=f"{_ARRAYS}files",
        ),
    )
}  # fmt: skip
"""Formats that come with the benchmark, by name. To add one: a module with its code, and a line here."""


def read_method(content: Any, find: Callable[[str], Format | None] = FORMATS.get) -> Method:
    """`[method]` of a `submission.toml`, checked by the class of its format.

    Args:
        content: of the table.
        find: where formats are looked up; by default among those that come with the benchmark alone, so that
            no other package's code runs where records are verified.

    Raises:
        ValidationError: there is no such format, or a setting is not one of its own, missing or wrong.
    """
    if isinstance(content, Method):
        return content
    if isinstance(content, Mapping) and "entry" in content and "format" not in content:
        content = {"format": CODE, **content}
    name = content.get("format") if isinstance(content, Mapping) else None
    row = find(name) if isinstance(name, str) else None
    if row is not None:
        return row.settings.model_validate(content)
    near = difflib.get_close_matches(str(name).lower(), FORMATS, n=3, cutoff=0.5) or FORMATS
    what = "`format` is missing" if name is None else f"this version has no format {name!r:.60}"
    if name is not None and not isinstance(name, str):
        what = f"`format` must be a string, and is {name!r:.60}"
    error = PydanticCustomError("format", "{what}; there is {near}", {"what": what, "near": ", ".join(near)})
    where = InitErrorDetails(type=error, loc=("format",), input=name)
    raise ValidationError.from_exception_data("method", [where])


# -------------------------------------------------------------------------------------------------- the hash


_ALWAYS: Mapping[str, Any] = {"rank": None, "seed": 0, "path": None, "hub": None}
"""Settings that were hashed of every format when the first records were written, given or not."""


def submission_hash(method: Method, files: Mapping[str, str]) -> str:
    """SHA-256 over the settings and the hash of every file (by its name) whose content can change a score.

    Names of submissions in records rest on it: what it gives for settings of today never changes.
    """
    # Files of a hub are named with their commit, whatever the revision was called.
    given = method.model_dump(mode="json", exclude={"revision"})
    settings = {**_ALWAYS, **{name: value for name, value in given.items() if value is not None}}
    content = {"method": settings, "files": dict(files)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
