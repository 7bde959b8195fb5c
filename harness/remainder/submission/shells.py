"""Shells of an interpretation: itself with some of its sources kept, as submissions like any other.

A shell is measured, kept and found again as every submission is; its hash covers the whole interpretation's,
the order in which sources are kept and how many.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field

from remainder.interpretation.kept import Kept, Some
from remainder.interpretation.protocol import Adapted, FitMoments
from remainder.record.naming import LONGEST, shortened
from remainder.submission.submission import SiteEntry
from remainder.task.spec import Task

__all__ = ["Shell"]


@dataclass(frozen=True)
class Shell:
    """An interpretation with `some` of its sources."""

    whole: SiteEntry
    order: str
    """The order in which sources are kept, with all that it depends on besides the interpretation."""
    adapted: Adapted = field(repr=False)
    """The whole interpretation, built."""
    some: Some = field(repr=False)
    kind: str = "reconstruction"
    family: None = None

    @property
    def name(self) -> str:
        """The whole one's name, the order and how many are kept."""
        own = f".{self.order.partition(' ')[0]}-{self.some.keep}"
        return shortened(self.whole.name, LONGEST - len(own)) + own

    @property
    def files(self) -> dict[str, str]:
        """Files of the whole interpretation."""
        return self.whole.files

    @property
    def kilobytes(self) -> float | None:
        """Size of these files."""
        return self.whole.kilobytes

    @property
    def hash(self) -> str:
        """SHA-256 over the whole one's hash, the order and how many are kept."""
        content = {"whole": self.whole.hash, "order": self.order, "keep": self.some.keep}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def is_pinned(self) -> bool:
        """Whether the whole one's hash says everything."""
        return self.whole.is_pinned

    @property
    def format_name(self) -> None:
        """No format: it is read from no file of its own."""
        return None

    def require_fit(self, task: Task) -> None:
        """Raise InterpretationError if the whole one was made for other tasks."""
        self.whole.require_fit(task)

    def build(self, task: Task, fit: FitMoments) -> Adapted:
        """The interpretation, ready for the task's site."""
        return dataclasses.replace(
            self.adapted, inner=Kept(self.adapted.inner, self.some), name=self.name, warnings=()
        )
