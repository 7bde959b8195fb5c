"""What a submission says about how it is read, and the hash that names it. Needs no torch: records are
verified against it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["CIRCUIT_FORMATS", "NAME", "Method", "submission_hash"]

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
"""Formats of circuits; all others are of reconstructions."""


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
    ]
    rank: int | None = Field(default=None, description="directions kept: pca, random-projection")
    seed: int = Field(default=0, ge=0, lt=2**63, description="random-projection, random-edges")
    steps: int | None = Field(
        default=None, ge=1, description="of integrated gradients; default: 1, the gradient itself"
    )
    path: str | None = Field(
        default=None, description="of the weights: a file (subspace, codebook), else what the format writes"
    )
    hub: str | None = Field(
        default=None, description="OWNER/REPO:SAE_ID, or RELEASE:SAE_ID of sae-lens's list"
    )
    revision: str | None = Field(default=None, description="of `hub`: a commit; default: the newest")

    @model_validator(mode="after")
    def _one_place(self) -> Method:
        if self.path is not None and self.hub is not None:
            raise ValueError("give `path` or `hub`, not both")
        if self.revision is not None and self.hub is None:
            raise ValueError("`revision` is that of `hub`")
        if self.path is not None and (Path(self.path).is_absolute() or ".." in Path(self.path).parts):
            raise ValueError("`path` must lie in the submission's folder")
        return self


def submission_hash(method: Method, files: Mapping[str, str]) -> str:
    """SHA-256 over the settings and the hash of every file (by its name) that can move a number."""
    # Files of a hub are named with their commit, whatever the revision was called.
    settings = method.model_dump(mode="json", exclude={"revision"})
    if method.steps is None:  # submissions were hashed before there was such a field
        del settings["steps"]
    content = {"method": settings, "files": dict(files)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
