"""Random circuits beside those of a submission: run once a task, and kept on disk.

1. Of `circuit.chance.COUNT` random circuits of a size, run on the rung `raw`, the record has the values of
   the lower median by KL over all prompts, as the rung `random@SIZE`. KLs that agree in six digits are equal,
   and the first of them counts.
2. They are kept under a hash of everything that they depend on: model, prompts, precision, device, and the
   circuits themselves; of circuits of features, the submission whose latents they are of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remainder.base.cache import build_once, verify
from remainder.base.paths import cache_root
from remainder.measure.answers import Scores, table
from remainder.record.circuit_summary import rung_of_random
from remainder.record.json import significant
from remainder.task.prompts import Prompts

__all__ = ["RandomScores", "key_of"]

_KIND = "random-circuits"
_FILE = "scores.json"
_DIGITS = 6

ByTemplate = Mapping[str, Scores]


def key_of(parts: Iterable[str | bytes]) -> str:
    """The name of a folder of the cache for scores that depend on these parts."""
    digest = hashlib.sha256(b"v1")
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


@dataclass
class RandomScores:
    """Scores of the random circuits of one size, gathered template by template, or read from disk."""

    size: str
    key: str
    _found: list[dict[str, Scores]] = field(default_factory=list, init=False)
    _kept: ByTemplate | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        folder = cache_root().absolute() / _KIND / self.key
        if (folder / _FILE).is_file():
            verify(folder)
            self._kept = _read(folder / _FILE)

    @property
    def is_kept(self) -> bool:
        """Whether they were run before."""
        return self._kept is not None

    def add(self, number: int, template: str, scores: Scores) -> None:
        """Scores of one of the circuits on one template."""
        while len(self._found) <= number:
            self._found.append({})
        self._found[number][template] = scores

    def rows(self, prompts: Sequence[Prompts]) -> Iterator[dict[str, Any]]:
        """Rows of the lower median, for the table of values; all templates must have been added."""
        if self._kept is None:
            self._kept = _lower_median(self._found)
            build_once(_KIND, self.key, self._write)
        for group in prompts:
            yield from table(group, rung_of_random(self.size), 0, self._kept[group.template])

    def _write(self, folder: Path) -> None:
        assert self._kept is not None
        content = {template: scores._asdict() for template, scores in self._kept.items()}
        (folder / _FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _read(path: Path) -> ByTemplate:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {template: Scores(**scores) for template, scores in content.items()}


def _lower_median(found: Sequence[ByTemplate]) -> ByTemplate:
    """The one of which as many have a smaller KL as a larger one, or one more a larger one."""

    def kl(number: int) -> tuple[float, int]:
        total = sum(sum(scores.kl) for scores in found[number].values())
        return significant(total, _DIGITS), number

    order = sorted(range(len(found)), key=kl)
    return found[order[(len(order) - 1) // 2]]
