"""Files that people hand in: looked at before they are opened, and read within bounds.

1. `require_file` checks that a path is a plain, readable file. A folder, a pipe, a socket or a device is
   refused by name (opening a pipe would wait for ever), and so is a pointer that Git LFS left in its place.
2. `read_text` and `read_toml` read no more than a bound; `parse_json` and `parse_yaml` refuse duplicate keys,
   as TOML does, and NaN is not JSON.
3. `refused` turns any other error of the operating system into one message.

Nothing here needs torch.
"""

from __future__ import annotations

import errno
import json
import os
import reprlib
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from remainder.errors import InterpretationError, RecordError, RemainderError, TaskError

__all__ = [
    "IMAGES",
    "LARGEST",
    "SETTINGS",
    "brief",
    "explained",
    "parse_json",
    "parse_yaml",
    "present",
    "read_text",
    "read_toml",
    "refused",
    "require_file",
    "require_folder",
    "require_target",
    "size_of",
]

SETTINGS = 10_000_000
"""Largest file of settings that is read, in bytes; real ones have a few thousand."""

LARGEST = 1_000_000_000
"""Largest text of any other kind, in bytes: a circuit of a million edges takes a hundred million."""

IMAGES = (".png", ".svg")
"""Allowed endings of figures' files."""

_LONGEST_NAME = 255  # longest name, in bytes, on common file systems
_TEMPORARY = 40  # letters added to a name while the file is written
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_LFS = b"version https://git-lfs.github.com/spec/"

_MOST_FIELDS = 1_000_000  # in a file of YAML
_DIGITS = 300
"""Digits of the largest whole number; a longer one overflows a float, and Python may refuse it as an int."""
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 60
_BRIEF.maxlevel = 2


def brief(value: Any) -> str:
    """A value from a file as a message shows it: about sixty letters, however large the value."""
    return _BRIEF.repr(value)


def present(path: Path) -> bool:
    """Whether anything of that name exists; whether it is a sound file shows when it is read."""
    return os.path.lexists(path)


def require_file(
    path: Path, *, most: int | None = None, error: type[RemainderError] = InterpretationError
) -> int:
    """The size in bytes of a plain file.

    Args:
        path: the file; links are followed.
        most: largest allowed size in bytes.
        error: class of the error that is raised.

    Raises:
        RemainderError: of class `error`, if the file does not exist, is no plain file, may not be read, is
            larger than `most`, or was not fetched by Git LFS.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise error(
                f"{path} is a link to {path.readlink()}, which does not exist",
                fix="put the file itself there; a cache that only links to its files is not copied by links",
            ) from None
        raise error(f"{path} does not exist", fix="put the file there, or give another path") from None
    except (OSError, ValueError) as problem:
        raise refused(problem, path, error) from None
    for is_kind, name in _KINDS:
        if is_kind(status.st_mode):
            raise error(f"{path} is {name}; expected a file", fix="put the file itself there")
    if most is not None and status.st_size > most:
        raise error(
            f"{path} has {size_of(path)}; expected at most {most / 1e6:,.0f} MB",
            fix="check that it is the file that is meant",
        )
    try:
        with path.open("rb") as stream:
            begins = stream.read(len(_LFS))
    except OSError as problem:
        raise refused(problem, path, error) from None
    if begins == _LFS:
        raise error(
            f"{path} is a pointer of Git LFS, in place of the file itself",
            fix="run `git lfs pull` in the repository that it is from, and copy it again",
        )
    return status.st_size


def require_folder(path: Path, option: str, error: type[RemainderError]) -> None:
    """Check that a folder can be written to or made: the part of its path that exists must be writable.

    Raises:
        RemainderError: of class `error`, naming the option.
    """
    try:
        there = next(part for part in (path.absolute(), *path.absolute().parents) if os.path.lexists(part))
        is_folder = there.is_dir()
    except (OSError, ValueError) as problem:
        raise refused(problem, path, error) from None
    if not is_folder:
        raise error(f"{option} {path}: {there} is no folder", fix="name another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise error(
            f"{option} {path}: {there} may not be written to",
            fix="name a folder of your own, or change its mode (chmod u+rwx)",
        )
    try:  # Modes allow root to write anywhere, yet /proc and a full disk refuse even root: so try it.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        raise error(
            f"{option} {path}: no file can be made in {there} ({problem.strerror})", fix="name another folder"
        ) from None


def require_target(
    path: Path, option: str | None, endings: Sequence[str], error: type[RemainderError] = RecordError
) -> None:
    """Check that a file can be written or overwritten, before its content is computed.

    Args:
        path: the file; it may exist already.
        option: name of the command-line option, for messages.
        endings: allowed endings of its name; those of figures may be capitals.
        error: class of the error that is raised.

    Raises:
        RemainderError: of class `error`, if its name has another ending or is too long, its folder is
            missing or not writable, or the path is not a file.
    """
    name = str(path) if option is None else f"{option} {path}"
    folder, images = path.absolute().parent, set(endings) <= set(IMAGES)
    with explained(path, error):
        if not folder.is_dir():
            raise error(f"{name}: there is no folder {folder}", fix="make it first")
        if path.is_dir():
            raise error(f"{name} is a folder", fix="name a file in it")
        if path.exists() and not path.is_file():
            raise error(f"{name} is no plain file", fix="name another file")
    if (path.suffix.lower() if images else path.suffix) not in endings:
        listed = " or ".join(endings)
        raise error(
            f"{name}: unknown kind of image" if images else f"{name} does not end in {listed}",
            fix=f"end its name in {listed}",
        )
    if len(os.fsencode(path.name)) > _LONGEST_NAME - _TEMPORARY:
        raise error(f"{brief(path.name)}: the name of this file is too long", fix="give it a shorter one")
    require_folder(folder, option or str(path), error)


def refused(
    problem: OSError | ValueError, path: Path | str | None, error: type[RemainderError]
) -> RemainderError:
    """An error of the operating system as one of class `error`; `path` is named if the problem names none."""
    if not isinstance(problem, OSError):  # a null character in the path
        return error(f"{brief(str(path))} is no path: {problem}", fix="check the path")
    named = problem.filename2 or problem.filename or path
    place = os.fsdecode(named) if isinstance(named, (str, bytes, os.PathLike)) else "a file"
    said = problem.strerror or str(problem) or type(problem).__name__
    if problem.errno in _FULL:
        return error(
            f"{place} cannot be written: {said}", fix="free some space, or name a place on another disk"
        )
    if problem.errno in _REFUSED:
        return error(
            f"{place}: {said}", fix="change its mode or owner (chmod, chown), or use a place of your own"
        )
    if problem.errno == errno.ELOOP:
        return error(f"{place} is a link that leads back to itself", fix="put the file itself there")
    if problem.errno == errno.ENAMETOOLONG:
        return error(f"{brief(place)} is no path: {said.lower()}", fix="check the path")
    return error(f"{place}: {said}", fix="check the path, and that its disk is mounted and sound")


@contextmanager
def explained(path: Path | str | None, error: type[RemainderError]) -> Iterator[None]:
    """A context in which errors of the operating system become errors of class `error`; see `refused`."""
    try:
        yield
    except OSError as problem:
        raise refused(problem, path, error) from problem


def size_of(path: Path) -> str:
    """The size of a file, for people to read."""
    size = path.stat().st_size
    return next(
        f"{size / 10**power:.1f} {unit}" if power else f"{size} bytes"
        for power, unit in ((9, "GB"), (6, "MB"), (3, "kB"), (0, ""))
        if size >= 10**power or not power
    )


def read_text(
    path: Path,
    kind: str,
    *,
    most: int = SETTINGS,
    error: type[RemainderError] = InterpretationError,
) -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors put first.

    Args:
        path: the file.
        kind: the expected kind of file, such as JSON, for messages.
        most: largest allowed size in bytes.
        error: class of the error that is raised.

    Raises:
        RemainderError: of class `error`, if it is no plain file, too large, empty, or not text.
    """
    require_file(path, most=most, error=error)
    try:
        with path.open("rb") as stream:
            data = stream.read(
                most + 1
            )  # Files of /proc claim to have no bytes, so the stated size is not enough.
        text = data.decode("utf-8-sig")
    except OSError as problem:
        raise refused(problem, path, error) from None
    except UnicodeDecodeError as problem:
        raise error(
            f"{path} is not valid {kind}: byte {problem.start + 1} is not UTF-8",
            fix="save it as UTF-8, or copy it again",
        ) from None
    if len(data) > most:
        raise error(
            f"{path} has more than {most / 1e6:,.0f} MB", fix="check that it is the file that is meant"
        )
    if (
        place := text.find("\0")
    ) >= 0:  # In UTF-16, every other byte of ASCII text is zero, which UTF-8 allows.
        raise error(
            f"{path} is not valid {kind}: byte {len(text[:place].encode()) + 1} is zero, so it is no text in "
            "UTF-8; it may be in UTF-16",
            fix="save it as UTF-8, or copy it again",
        )
    if not text.strip():
        raise error(
            f"{path} is not valid {kind}: it is empty",
            fix="copy it again; writing it may have been cut short",
        )
    return text


def parse_json(
    text: str,
    path: Path,
    *,
    nan: bool = False,
    error: type[RemainderError] = InterpretationError,
) -> Any:
    """The content of a JSON text.

    Args:
        text: the JSON.
        path: the file, for messages.
        nan: whether NaN and infinities, which are not JSON, are let through for the caller to find.
        error: class of the error that is raised.

    Raises:
        RemainderError: of class `error`, if it is not JSON, is nested too deeply, or has a duplicate key.
    """

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number in JSON; write null or a number")

    def whole(digits: str) -> int:
        if len(digits) > _DIGITS:
            raise ValueError(f"{brief(digits)} is no number that can be computed with")
        return int(digits)

    def parse(text: str) -> Any:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=None if nan else constant,
            parse_int=whole,
        )

    return _parsed(text, path, "JSON", parse, error)


def parse_yaml(text: str, path: Path, *, error: type[RemainderError] = InterpretationError) -> Any:
    """The content of a YAML text; tags that would construct objects are refused.

    Raises:
        RemainderError: of class `error`, if it is not YAML, is nested too deeply, or has a duplicate key.
    """
    import yaml  # type: ignore[import-untyped]

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """A safe YAML loader that refuses duplicate keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            plain = [key for key, _ in node.value if isinstance(key.value, str)]
            _unique([(key.value, None) for key in plain if key.tag != "tag:yaml.org,2002:merge"])
            return super().construct_mapping(node, deep=deep)

    def parse(text: str) -> Any:
        try:
            content = yaml.load(text, Loader=Loader)
        except yaml.YAMLError as problem:
            raise ValueError(" ".join(str(problem).split())) from None
        _require_bounded(content)
        return content

    return _parsed(text, path, "YAML", parse, error)


def _require_bounded(content: Any) -> None:
    """Refuse YAML whose aliases repeat each other: ten lines of them can stand for millions of fields."""
    left, waiting = _MOST_FIELDS, [content]
    while waiting:
        item = waiting.pop()
        parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        left -= len(parts)
        if left < 0:
            raise ValueError(f"it has more than {_MOST_FIELDS:,} fields, those of aliases counted each time")
        waiting += parts


def read_toml(path: Path, *, error: type[RemainderError] = TaskError) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        RemainderError: of class `error`, if the file is missing, no plain file, or not TOML.
    """
    content: dict[str, Any] = _parsed(
        read_text(path, "TOML", error=error), path, "TOML", tomllib.loads, error
    )
    return content


def _parsed(
    text: str, path: Path, kind: str, parse: Callable[[str], Any], error: type[RemainderError]
) -> Any:
    try:
        return parse(text)
    except RecursionError:
        raise error(f"{path} is not valid {kind}: it is nested too deeply", fix="save it anew") from None
    except ValueError as problem:
        raise error(
            f"{path} is not valid {kind} ({size_of(path)}): {problem}",
            fix="correct it at that place, or save it anew; it may be truncated",
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise ValueError(f"{brief(twice)} stands there twice; remove one of the two")
    return made
