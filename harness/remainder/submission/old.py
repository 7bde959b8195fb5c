"""Facts on a submission that records of schema 4 and older do not hold, told from its hash."""

from __future__ import annotations

import functools
import hashlib
import json

__all__ = ["is_found"]

_FOUND = ("edge-attribution", "node-attribution", "edge-patching")
"""Formats of circuits that are found on a task's own prompts, and need no files."""
_STEPS = 100
"""Steps of integrated gradients of which `is_found` knows the hash; five to ten are usual."""


def _hash(format: str, steps: int | None) -> str:
    """`submission_hash` of such a submission, as it was when these records were written."""
    method = {"format": format, "rank": None, "seed": 0, "path": None, "hub": None}
    content = {"method": method | ({} if steps is None else {"steps": steps}), "files": {}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@functools.cache
def _found_hashes() -> frozenset[str]:
    return frozenset(_hash(name, steps) for name in _FOUND for steps in (None, *range(1, _STEPS + 1)))


def is_found(submission: str) -> bool:
    """Whether the hash of a submission is that of a circuit found on a task's prompts, not given in files.

    These records hold the hash and not the settings; of a submission without files, the settings are all
    there is.
    """
    return submission in _found_hashes()
