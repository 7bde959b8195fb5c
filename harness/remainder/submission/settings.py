"""`[method]` of a submission: the settings of each format, one class for formats that share theirs.

An optional setting that is left out is left out of the submission's hash too, so that it can be added later.
The formats themselves: `remainder.submission.method`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
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
    model_validator,
)

__all__ = [
    "ArrayMethod",
    "CircuitMethod",
    "EntryMethod",
    "FeatureAttributionMethod",
    "FeatureGraphMethod",
    "FeatureScoresMethod",
    "FolderMethod",
    "Method",
    "RandomRankMethod",
    "RankMethod",
    "ReleaseMethod",
    "SeedMethod",
    "SiteSource",
    "SitesMethod",
    "StepsMethod",
    "WeightsMethod",
]


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
