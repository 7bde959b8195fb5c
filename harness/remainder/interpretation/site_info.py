"""The facts about a site that a method's code is told when it is built; no activation and no text is among
them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remainder.task.spec import Task

__all__ = ["SiteInfo"]


@dataclass(frozen=True)
class SiteInfo:
    """The place at which a method is asked to stand: the second argument of its `build(folder, site)`."""

    model: str
    """Name of the model, as its task states it."""
    hook_in: str
    """Hook whose activations `encode` is given, by its name in TransformerLens."""
    hook_out: str
    """Hook whose activations `decode` rebuilds: `hook_in` itself, but for a transcoder."""
    d_in: int
    """Size of the last axis of what `encode` is given."""
    d_out: int
    """Size of the last axis of what `decode` returns."""

    @classmethod
    def of(cls, task: Task) -> SiteInfo:
        """The place that a task asks about, such as `remainder.load_task("tiny/digits")`."""
        site = task.site
        return cls(task.model.name, site.hook_in, site.hook_out, site.width, site.width)
