"""Python modules of pinned wheels as documents.

1. A wheel says under which licence it is: `License-Expression`, `License` or the classifiers of its METADATA
   must state the one that the task names, which is one of those that allow any use.
2. A document is a module, as it stands, in the order of wheels and paths. Those of tests and vendored
   packages are left out, and so is whatever stands there twice.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from remainder.errors import AssetError
from remainder.task.spec import SourceWheel
from remainder.task.text import Document

__all__ = ["read_modules", "stated_licences"]

_LEFT_OUT = {"tests", "test", "testing", "_vendor", "vendored"}
_WORDS: dict[str, tuple[str, ...]] = {
    "Apache-2.0": ("apache-2.0", "apache 2.0", "apache license 2.0", "apache license, version 2.0",
                   "apache software license"),
    "BSD-2-Clause": ("bsd-2-clause",),
    "BSD-3-Clause": ("bsd-3-clause", "bsd", "bsd license", "new bsd", "modified bsd license"),
    "MIT": ("mit", "mit license"),
    "PSF-2.0": ("psf-2.0", "python software foundation license"),
}  # fmt: skip
"""The spellings by which packages state these licences, in small letters."""


def read_modules(wheels: Sequence[tuple[SourceWheel, Path]]) -> list[Document]:
    """The documents of wheels, given with the files where they lie.

    Raises:
        AssetError: a wheel states another licence than the task says, or none; or a module cannot be read.
    """
    documents: dict[str, Document] = {}
    for source, path in wheels:
        try:
            with zipfile.ZipFile(path) as archive:
                _require_licence(source, stated_licences(archive))
                for name, text in _modules(archive):
                    documents.setdefault(text, Document(f"{source.package}/{name}", name, text))
        except (zipfile.BadZipFile, UnicodeDecodeError) as problem:
            raise AssetError(
                f"{path}: its modules cannot be read: {problem}", fix="`remainder fetch --force`"
            ) from problem
    return list(documents.values())


def stated_licences(archive: zipfile.ZipFile) -> set[str]:
    """The licences that the METADATA of a wheel states, in small letters; a whole text is no name."""
    (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
    message = HeaderParser().parsestr(archive.read(name).decode())
    stated = [message.get("License-Expression", ""), message.get("License", "")]
    classifiers = [line.split(" :: ") for line in message.get_all("Classifier", [])]
    stated += [parts[-1] for parts in classifiers if parts[0] == "License"]
    return {words.strip().lower() for words in stated if words.strip() and "\n" not in words.strip()}


def _require_licence(source: SourceWheel, stated: set[str]) -> None:
    if not stated & set(_WORDS[source.licence]):
        found = ", ".join(sorted(stated)) or "none"
        raise AssetError(
            f"{source.package}=={source.version} states as its licence: {found}; the task says "
            f"{source.licence}, and a text may be of no other",
            fix="leave that package out of `sources`, or name its licence as it is if that allows any use",
        )


def _modules(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """Path and text of each module, by path."""
    for name in sorted(archive.namelist()):
        path = PurePosixPath(name)
        names = {*path.parts[:-1], path.stem}
        if path.suffix != ".py" or names & _LEFT_OUT or path.stem.startswith("test_"):
            continue
        if text := archive.read(name).decode("utf-8").replace("\r\n", "\n"):
            yield name, text
