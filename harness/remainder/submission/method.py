"""What a submission says about how it is read, and the hash that names it. Needs no torch: records are
verified against it."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "CIRCUIT_FORMATS",
    "FEATURE_FORMATS",
    "NAME",
    "Method",
    "SiteSource",
    "is_found",
    "submission_hash",
]

NAME = r"^[a-z0-9][a-z0-9._-]{0,39}$"
"""Names of submissions: nothing that a table, a path or an eye could take for something else."""


CIRCUIT_FORMATS = frozenset(
    {
        "eap-ig",
        "mib",
        "full-graph",
        "empty-graph",
        "random-edges",
        "edge-attribution",
        "node-attribution",
        "edge-patching",
    }
)
"""Formats of circuits of edges."""

FEATURE_FORMATS = frozenset({"feature-attribution", "feature-scores", "feature-graph"})
"""Formats of circuits of features; all that are neither these nor circuits of edges are reconstructions."""


class SiteSource(BaseModel):
    """One of the `sites` of a circuit of features: where it is, and whose latents are its nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    submission: str = Field(
        min_length=1,
        description="a folder in that of this submission, with a submission.toml or as its library wrote "
        "it; or `baselines/NAME`, one that comes with the benchmark",
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
        if Path(self.submission).is_absolute() or ".." in Path(self.submission).parts:
            raise ValueError("`submission` must lie in the submission's folder, or be `baselines/NAME`")
        return self


class Method(BaseModel):
    """`[method]` of a submission: a format and its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[
        "identity",
        "mean",
        "pca",
        "random-projection",
        "subspace",
        "codebook",
        "saelens",
        "dictionary-learning",
        "sparsify",
        "circuit-tracer",
        "gemma-scope",
        "eap-ig",
        "mib",
        "full-graph",
        "empty-graph",
        "random-edges",
        "edge-attribution",
        "node-attribution",
        "edge-patching",
        "feature-attribution",
        "feature-scores",
        "feature-graph",
    ]
    rank: int | None = Field(default=None, description="directions kept: pca, random-projection")
    seed: int = Field(default=0, ge=0, lt=2**63, description="random-projection, random-edges")
    steps: int | None = Field(
        default=None,
        ge=1,
        description="of integrated gradients; default: 1, the gradient itself, and of features 10",
    )
    path: str | None = Field(
        default=None, description="of the weights: a file (subspace, codebook), else what the format writes"
    )
    hub: str | None = Field(
        default=None, description="OWNER/REPO:SAE_ID, or RELEASE:SAE_ID of sae-lens's list"
    )
    revision: str | None = Field(default=None, description="of `hub`: a commit; default: the newest")
    sites: tuple[SiteSource, ...] | None = Field(default=None, description="of features, in order of a pass")
    thresholds: tuple[float, ...] | None = Field(
        default=None,
        description="of scores of features, nats, ascending: each is a circuit; default: 15 from 1e-4 to 1",
    )
    scored_against: Literal["mean", "counterfactual", "zero"] | None = Field(
        default=None, description="feature-attribution: what a node is compared with; default: its mean"
    )
    pinned: bool | None = Field(default=None, description="feature-graph: only nodes that a person pinned")
    share: float | None = Field(
        default=None, ge=0, le=1, description="feature-graph: only nodes that make up this share of influence"
    )

    ignore_fields: tuple[str, ...] | None = Field(
        default=None, description="of its files: known by their name to change nothing, and passed over"
    )

    @model_validator(mode="after")
    def _fields_of_files(self) -> Method:
        names = self.ignore_fields
        if names is not None and (not names or len(set(names)) < len(names)):
            raise ValueError("`ignore_fields` names fields, none of them twice; else leave it out")
        if names is not None and self.format not in _OF_FILES:
            raise ValueError(f"`ignore_fields` is of files that a library wrote, not of format {self.format}")
        return self

    @model_validator(mode="after")
    def _one_place(self) -> Method:
        if self.path is not None and self.hub is not None:
            raise ValueError("give `path` or `hub`, not both")
        if self.revision is not None and self.hub is None:
            raise ValueError("`revision` is that of `hub`")
        if self.path is not None and (Path(self.path).is_absolute() or ".." in Path(self.path).parts):
            raise ValueError("`path` must lie in the submission's folder")
        return self

    @model_validator(mode="after")
    def _of_features(self) -> Method:
        allowed = _OF_FORMAT.get(self.format, {"steps"})
        given = {name for name in LATER if getattr(self, name) is not None} - {"ignore_fields"}
        if strange := sorted(given - allowed):
            raise ValueError(f"`{strange[0]}` is not a setting of format {self.format}")
        if self.format not in FEATURE_FORMATS:
            return self
        if not self.sites:
            raise ValueError("a circuit of features needs `sites`, one [[method.sites]] for each")
        if self.format != "feature-attribution" and self.path is None:
            raise ValueError(f"format {self.format} needs `path`")
        if self.hub is not None:
            raise ValueError("a circuit of features lies in a folder, not on a hub")
        found = self.thresholds
        if found is not None and not (
            found
            and all(math.isfinite(each) and each >= 0 for each in found)
            and list(found) == sorted(set(found))
        ):
            raise ValueError("`thresholds` are finite, none negative, and ascend, none twice")
        if self.pinned and self.share is not None:
            raise ValueError("give `pinned` or `share`, not both")
        return self


LATER = ("steps", "sites", "thresholds", "scored_against", "pinned", "share", "ignore_fields")
"""Settings that submissions were hashed before; left out of the hash where there is nothing to say."""

_OF_FILES = frozenset(
    {"saelens", "dictionary-learning", "sparsify", "circuit-tracer", "gemma-scope", "eap-ig", "mib"}
)
"""Formats of other libraries, whose files have fields."""

_OF_FORMAT: Mapping[str, set[str]] = {
    "feature-attribution": {"steps", "sites", "thresholds", "scored_against"},
    "feature-scores": {"sites", "thresholds"},
    "feature-graph": {"sites", "pinned", "share"},
}
"""Which of them are of a format; of the formats that are not named, `steps` alone."""


def submission_hash(method: Method, files: Mapping[str, str]) -> str:
    """SHA-256 over the settings and the hash of every file (by its name) that can move a number."""
    # Files of a hub are named with their commit, whatever the revision was called.
    settings = method.model_dump(mode="json", exclude={"revision"})
    for name in LATER:
        if settings[name] is None:
            del settings[name]
    content = {"method": settings, "files": dict(files)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_FOUND: tuple[Literal["edge-attribution", "node-attribution", "edge-patching"], ...] = (
    "edge-attribution",
    "node-attribution",
    "edge-patching",
)
"""Formats of circuits that are found on a task's own prompts, and need no files."""
_STEPS = 100
"""Steps of integrated gradients of which `is_found` knows the hash; five to ten are usual."""


@functools.cache
def _found_hashes() -> frozenset[str]:
    steps = (None, *range(1, _STEPS + 1))
    return frozenset(submission_hash(Method(format=name, steps=n), {}) for name in _FOUND for n in steps)


def is_found(submission: str) -> bool:
    """Whether the hash of a submission is that of a circuit found on a task's prompts, not given in files.

    Records hold the hash and not the settings; of a submission without files, the settings are all there is.
    """
    return submission in _found_hashes()
