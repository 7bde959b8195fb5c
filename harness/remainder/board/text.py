"""Text of records, which may come from anywhere, made safe to look at.

Escaping is the template's and `markdown`'s business; what is done here is against text that no escaping
mends: characters that are not seen, that turn the text around them, or that look like others.

1. Characters of Unicode's categories "other" and "separator" but the space are spelled out, as ⟨U+202E⟩:
   controls, bidirectional marks, zero-width ones, unassigned ones.
2. Of combining marks in a row one is kept (x̂ is a name here); a pile of them is spelled out.
3. What is longer than a limit is cut, with its length.
4. A name that no submission could have is marked, with what is strange in it (`oddities`).
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata

__all__ = ["LONGEST", "markdown", "oddities", "page_name", "visible"]

LONGEST = 400
"""Characters of a text that are shown."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,79}")
_TASK = re.compile(r"[a-z0-9_-]{1,40}(?:/[a-z0-9_-]{1,40})*")
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]#|~$@:]|(?<=\bwww)\.)", re.IGNORECASE)  # and bare addresses


def visible(text: object, limit: int = LONGEST) -> str:
    """`text` with nothing in it that hides or turns, no longer than about `limit` characters."""
    shown = str(text)
    cut = len(shown) > limit
    if not cut and shown.isascii() and shown.isprintable():
        return shown
    found, marks = [], 0
    for character in shown[:limit]:
        category = unicodedata.category(character)
        marks = marks + 1 if category.startswith("M") else 0
        hidden = category.startswith("C") or (category.startswith("Z") and character != " ")
        found.append(f"⟨U+{ord(character):04X}⟩" if hidden or marks > 1 else character)
    return "".join(found) + (f"… ({len(shown):,} characters)" if cut else "")


def oddities(name: str) -> str:
    """A phrase on why no submission of this project could have a name; empty if one could.

    A look-alike of another alphabet is named, so that nobody is taken for somebody else.
    """
    if _NAME.fullmatch(name):
        return ""
    foreign = [character for character in dict.fromkeys(name) if not (" " < character < "\x7f")]
    if not foreign:
        return "not a name that a submission can have"
    said = [f"U+{ord(one):04X} {unicodedata.name(one, 'without a name').lower()}" for one in foreign[:4]]
    more = f" and {len(foreign) - 4} more" if len(foreign) > 4 else ""
    return f"not a name that a submission can have: holds {', '.join(said)}{more}"


def page_name(task: str, major: str) -> str:
    """The file that a task's page is kept in: readable where the id is of the usual form, else a hash.

    Different tasks get different files: what is made readable holds no dot, and a hash holds no slash.
    """
    if _TASK.fullmatch(task) and len(task) <= 120 and re.fullmatch(r"[1-9]\d{0,5}", major):
        return f"{task.replace('/', '.')}.v{major}.html"
    return f"{hashlib.sha256(f'{task} {major}'.encode()).hexdigest()[:32]}.html"


def markdown(text: object, limit: int = LONGEST) -> str:
    """Text that GitHub's Markdown shows as it is, in a cell of a table too."""
    escaped = html.escape(visible(text, limit), quote=False)
    return _PUNCTUATION.sub(r"\\\1", escaped)
