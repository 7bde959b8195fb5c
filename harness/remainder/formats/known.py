"""Tables of the fields that readers know: one a format, through which alone its fields are handled.

1. A field of the table is *heeded*: the line holds the code that checks its value and gives it to the reader;
   or *harmless*: the line says why it moves no number.
2. A block whose table has a `rest` only describes: its other fields are harmless, or mentioned in a warning.
3. Every other field is refused by name: nobody knows whether it changes what is computed. So is a heeded
   field with a value that the reader cannot compute.
4. Whoever knows better names it in `ignore_fields` (`--ignore-field`). Then it is read as if it were absent,
   and a warning says so in `check`, table and record. A name that no file has is an error, and so is one that
   is computed with.

A reader takes values from `Settings` only, so a line that is taken out of a table makes the field unknown.
`remainder.formats.field_page` writes the tables into docs/score-your-sae.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from remainder.base.files import brief
from remainder.errors import InterpretationError
from remainder.formats import fields
from remainder.formats.places import Loaded

__all__ = [
    "Ignore",
    "Line",
    "Read",
    "Rest",
    "Settings",
    "Table",
    "block",
    "harmless",
    "heeded",
    "lines_of",
    "only",
    "optional_count",
    "plain",
    "refused",
    "without_ignored",
]

Read = Callable[[Mapping[str, Any], str, "Path | str", str], Any]
"""Gives the value of a field, checked: of the fields, its name, the file, and what the fields lie in."""


class Line(NamedTuple):
    """One field that is known."""

    how: Literal["heeded", "harmless"]
    what: str
    """A clause for people: what is computed with it, or why it moves no number."""
    read: Read | None = None
    """The check of a heeded field, which gives its value."""
    ignorable: bool = False
    """Whether it is only accepted with some values, and may be ignored if it has another one."""
    within: Table | None = None
    """The table of a field that holds fields."""


class Rest(NamedTuple):
    """The rule for all fields of a block that have no line in its table."""

    how: Literal["harmless", "told"]
    """Passed over, or named in a warning."""
    why: str


@dataclass(frozen=True)
class Table:
    """The fields of a file, or of a block in it."""

    lines: dict[str, Line]
    rest: Rest | None = None
    """The rule for other fields; None if they are refused."""


@dataclass
class Ignore:
    """Fields that the user says are to be passed over, and those that were found."""

    names: frozenset[str] = frozenset()
    _found: dict[str, str] = field(default_factory=dict)
    _computed: dict[str, str] = field(default_factory=dict)
    """Fields that are there and cannot be ignored, each with the reason."""

    def take(self, name: str, line: Line | None, where: Path | str) -> bool:
        """Whether the field `name` of a file is to be passed over."""
        if name not in self.names:
            return False
        if line is None or line.ignorable:
            self._found[name] = str(where)
            return True
        self._computed[name] = f"{where}: {name} is {line.how}: {line.what}"
        return False

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each field that was passed over."""
        return tuple(
            f"The field {name} of {Path(where).name} was ignored as asked; what it changes is not computed."
            for name, where in sorted(self._found.items())
        )

    def noted(self, loaded: Loaded, where: str) -> Loaded:
        """The loaded object with the warnings; raises as `require_found` does."""
        self.require_found(where)
        return loaded._replace(warnings=(*loaded.warnings, *self.warnings))

    def require_found(self, where: str) -> None:
        """Raise InterpretationError if a name was given that no file has, or that cannot be ignored."""
        for name in sorted(self.names - self._found.keys()):
            if name in self._computed:
                raise InterpretationError(
                    f"{self._computed[name]}; it cannot be ignored",
                    fix=f"leave {name} out of ignore_fields (--ignore-field)",
                )
            raise InterpretationError(
                f"{where}: ignore_fields (--ignore-field) names {name}, a field that none of its files has",
                fix="leave it out, or name the field as the message that refused it does",
            )


class Settings:
    """The fields of one file or block, as far as its table knows them.

    Raises:
        InterpretationError: on making one: a field is not known, and not ignored.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        table: Table,
        where: Path | str,
        ignore: Ignore | None = None,
        within: str = "",
    ) -> None:
        self.table, self.where, self.within = table, where, within
        self.ignore = Ignore() if ignore is None else ignore
        self.content: dict[str, Any] = {}
        self.warnings: tuple[str, ...] = ()
        """Warnings on unknown fields of a describing block; of this block alone."""
        for key, value in content.items():
            name, line = str(key), table.lines.get(str(key))
            if self.ignore.take(within + name, line, where):
                continue
            if line is None and table.rest is None:
                raise self._unknown(name, value)
            if line is None and table.rest is not None and table.rest.how == "told":
                stated = f"{Path(where).name} has the field {within}{name}"
                self.warnings += (f"{stated}, which is not known: {table.rest.why}.",)
            self.content[name] = value

    def __contains__(self, name: str) -> bool:
        return self.content.get(name) is not None

    def __getitem__(self, name: str) -> Any:
        """The value of a heeded field, as its line reads it."""
        line = self.table.lines[name]
        assert line.read is not None, f"{name} is {line.how}"
        return line.read(self.content, name, self.where, self.within)

    def all(self) -> dict[str, Any]:
        """Every heeded field that is there, checked; blocks are not looked into."""
        lines = self.table.lines.items()
        return {name: self[name] for name, line in lines if name in self.content and line.read is not None}

    def block(self, name: str) -> Settings:
        """The fields of a field; none if it is missing."""
        inner = self.table.lines[name].within
        assert inner is not None, f"{name} has no fields of its own"
        return Settings(self._object(name), inner, self.where, self.ignore, f"{self.within}{name}.")

    def _object(self, name: str) -> Mapping[str, Any]:
        value = self.content.get(name)
        if not isinstance(value, (Mapping, type(None))):
            raise InterpretationError(
                f"{self.where}: {self.within}{name} is {brief(value)}; expected an object with named fields",
                fix=fields.AGAIN,
            )
        return value or {}

    def refuse(self, name: str, why: str) -> InterpretationError:
        """The error for a value that cannot be computed with; it says how to ignore the field."""
        return refused(self.where, self.within + name, self.content.get(name), why)

    def _unknown(self, name: str, value: Any) -> InterpretationError:
        full = self.within + name
        near = difflib.get_close_matches(name, self.table.lines, n=1, cutoff=0.8)
        return InterpretationError(
            f"{self.where}: the field {full} ({brief(value)}) is not known; it may change what is computed",
            fix=(f"if {self.within}{near[0]} is meant, correct it; " if near else "") + _ignoring(full),
        )


def without_ignored(
    content: Mapping[str, Any], table: Table, where: Path | str, ignore: Ignore | None, within: str = ""
) -> dict[str, Any]:
    """The fields as if those that are to be ignored were not there, at every depth.

    For whoever hands a config on to a library that takes from it what it likes.
    """
    kept = {}
    for key, value in content.items():
        name, line = str(key), table.lines.get(str(key))
        if ignore is not None and ignore.take(within + name, line, where):
            continue
        if line is not None and line.within is not None and isinstance(value, Mapping):
            value = without_ignored(value, line.within, where, ignore, f"{within}{name}.")
        kept[name] = value
    return kept


def refused(where: Path | str, name: str, value: Any, why: str) -> InterpretationError:
    """The error for a known field with a value that cannot be computed with."""
    return InterpretationError(f"{where}: {name} is {brief(value)}; {why}", fix=_ignoring(name))


def _ignoring(name: str) -> str:
    return (
        f"if it changes nothing here, ignore it: --ignore-field {name} (in submission.toml, under [method]: "
        f'ignore_fields = ["{name}"]); the record then says so'
    )


# ---------------------------------------------------------------------------------------- lines of tables


def plain(content: Mapping[str, Any], name: str, where: Path | str, within: str) -> Any:
    """The value as it is: its reader checks it with what else is known there."""
    return content.get(name)


def optional_count(content: Mapping[str, Any], name: str, where: Path | str, within: str) -> int | None:
    """A whole number of at least 1; None if it is missing or null."""
    return None if content.get(name) is None else fields.count(content, name, where, within)


def heeded(what: str, read: Read, *, ignorable: bool = False) -> Line:
    """A field that is computed with, or compared."""
    return Line("heeded", what, read, ignorable)


def block(what: str, table: Table) -> Line:
    """A field that holds fields."""
    return Line("heeded", what, None, within=table)


def harmless(why: str, *names: str) -> dict[str, Line]:
    """Fields that move no number, all for one reason."""
    return dict.fromkeys(names, Line("harmless", why))


def only(what: str, *values: Any) -> Line:
    """A field that is accepted with these values alone, or null; any other is refused, unless it is ignored.

    The first value is what the reader gives where the field is missing.
    """
    words = {True: "true", False: "false"}
    listed = " or ".join(words[v] if isinstance(v, bool) else str(v) for v in values) or "null"

    def read(content: Mapping[str, Any], name: str, where: Path | str, within: str) -> Any:
        value = content.get(name)
        if value is None:
            return values[0] if values else None
        if not any(type(value) is type(known) and value == known for known in values):
            raise refused(where, within + name, value, f"it can be {listed}: {what}")
        return value

    return Line("heeded", f"{listed} alone: {what}", read, ignorable=True)


def lines_of(table: Table, within: str = "") -> Iterator[tuple[str, Line]]:
    """Every line of a table and of the blocks in it, by its full name."""
    for name, line in table.lines.items():
        yield within + name, line
        if line.within is not None:
            yield from lines_of(line.within, f"{within}{name}.")
