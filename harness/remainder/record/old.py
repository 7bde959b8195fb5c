"""Records of schema 4, which do not state the format of their submission: all that reading them takes.

They keep their bytes and hashes. Settings are all that a submission without files has, so its hash tells
whether it is a circuit that was found on a task's own prompts.
"""

from __future__ import annotations

import functools
import hashlib
import json

__all__ = ["VERSIONS", "format_of"]

VERSIONS = (4,)
"""Schema versions that are read, beside the one that is written."""

_FOUND = ("edge-attribution", "node-attribution", "edge-patching")
"""Formats of circuits that are found on a task's own prompts, and need no files."""
_STEPS = 100
"""Steps of integrated gradients of which `format_of` knows the hash; five to ten are usual."""


def _hash(format: str, steps: int | None) -> str:
    """`submission_hash` of such a submission, as it was when these records were written."""
    method = {"format": format, "rank": None, "seed": 0, "path": None, "hub": None}
    content = {"method": method | ({} if steps is None else {"steps": steps}), "files": {}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@functools.cache
def _formats() -> dict[str, str]:
    return {_hash(name, steps): name for name in _FOUND for steps in (None, *range(1, _STEPS + 1))}


def format_of(submission: str) -> str | None:
    """The format of a circuit that was found on a task's prompts, by the hash of its submission.

    None of any other submission, whose format these records do not tell.
    """
    return _formats().get(submission)
