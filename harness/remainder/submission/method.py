"""`[method]` of a submission: the table of formats, and the hash that names a submission.

A format is one line of `FORMATS`: its name, what kind of submission it makes, the class of its settings, and
`module:function` strings for the code behind it, which is imported only when it is used
(`remainder.submission.registry`). So records are verified against a `submission.toml` without torch.

Formats that share their settings share a class: the table, not the class, says which names there are.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import (
    ValidationError,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from remainder.record.code import CODE
from remainder.submission.settings import (
    ArrayMethod,
    CircuitMethod,
    EntryMethod,
    FeatureAttributionMethod,
    FeatureGraphMethod,
    FeatureScoresMethod,
    FolderMethod,
    Method,
    RandomRankMethod,
    RankMethod,
    ReleaseMethod,
    SeedMethod,
    SiteSource,
    StepsMethod,
    WeightsMethod,
)

__all__ = ["FORMATS", "NAME", "Format", "Kind", "Method", "SiteSource", "read_method", "submission_hash"]

NAME = r"^[a-z0-9][a-z0-9._-]{0,39}$"
"""Names of submissions: nothing that a table, a path or an eye could take for something else."""

Kind = Literal["reconstruction", "circuit", "feature-circuit"]
"""The kinds of submission. A transcoder is a reconstruction: it rebuilds the output of what it reads."""

Source = Literal["file", "folder", "hub", "prompts"]
"""A place that a format may come from: a file or folder that is named without a `submission.toml`, a hub, or
a search on the task's own `fit` prompts."""


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
