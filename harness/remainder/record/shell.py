"""Shells as records tell them: the name and the hash, and what a shell says of the order. Needs no torch.

A shell is an interpretation with some of its sources kept. Its hash is that of the whole one's, the order in
which sources are kept, and how many; so a record proves which shell of what it is.
"""

from __future__ import annotations

import hashlib
import json

from remainder.record.naming import LONGEST, shortened

__all__ = ["shell_hash", "shell_name", "shell_note"]


def shell_hash(whole: str, order: str, keep: int) -> str:
    """SHA-256 over the whole interpretation's hash, the order in which sources are kept, and how many are."""
    content = {"whole": whole, "order": order, "keep": keep}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def shell_name(whole: str, order: str, keep: int) -> str:
    """The whole interpretation's name, the order and how many sources are kept."""
    own = f".{order.partition(' ')[0]}-{keep}"
    return shortened(whole, LONGEST - len(own)) + own


def shell_note(keep: int, order: str, sources: int, ties: int) -> str:
    """The sentence in a shell's record on the sources that it was chosen from.

    Args:
        sources: how many there are to keep.
        ties: sources whose place in the order their index decided.
    """
    return f"a shell: {keep} of {sources} sources are kept, in the order {order}, with {ties} tie(s)"
