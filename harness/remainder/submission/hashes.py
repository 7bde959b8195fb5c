"""Hashes of a submission's files whose content can change a score: weights, and how they are read."""

from __future__ import annotations

from pathlib import Path

from remainder.base.cache import sha256_file
from remainder.base.files import present
from remainder.base.paths import root_of
from remainder.errors import InterpretationError
from remainder.submission.method import Method, SiteSource
from remainder.submission.registry import call, format_of

__all__ = ["own_hashes", "site_hashes"]


def own_hashes(folder: Path, method: Method) -> dict[str, str]:
    """SHA-256 of the files at the place of a method, by name relative to `folder`; empty without a place.

    Files of installed packages, which lie in no folder of a submission, are there by the package's name.

    Raises:
        InterpretationError: nothing lies there, or what is seen to be something else.
    """
    row, path = format_of(method.format), method.place
    if row.files is None or path is None:
        return {}
    paths = call(row, "files", folder / path)
    more: dict[str, str] = {} if row.elsewhere is None else call(row, "elsewhere", folder, method)
    if not (paths or more) or not all(map(present, paths)):
        raise InterpretationError(
            f"{folder / 'submission.toml'}: method.path: there is no file of format {row.name} at "
            f"{folder / path}",
            fix="put the weights beside submission.toml, or give what lies elsewhere: `path`, "
            f"{row.settings.model_fields['path'].description}",
        )
    for each in paths:
        call(row, "require", each)
    # Files that a list names elsewhere have no place in the folder, but one in the list.
    names = [
        each.relative_to(folder).as_posix() if each.is_relative_to(folder) else f"{number}/{each.name}"
        for number, each in enumerate(paths)
    ]
    return {name: sha256_file(each) for name, each in zip(names, paths, strict=True)} | more


def site_hashes(folder: Path, source: SiteSource, files: dict[str, str]) -> dict[str, str]:
    """The files of the interpretation at a site, named as the circuit's submission in `folder` sees them.

    Args:
        folder: of the submission of the circuit.
        source: of the site.
        files: of the submission that the site names, by name relative to its own folder.

    Raises:
        InterpretationError: one of them lies outside of that folder.
    """
    root = root_of(folder, source.submission)
    base, own = root / source.submission, dict(files)
    if base.is_file():
        base = base.parent
    elif (base / "submission.toml").is_file():
        own["submission.toml"] = sha256_file(base / "submission.toml")
    found = {}
    for name, digest in own.items():
        full = (base / name).relative_to(root).as_posix()
        if not (root / full).is_file():
            raise InterpretationError(
                f"{folder / 'submission.toml'}: method.sites: {source.submission} is read from {name}, which "
                "lies elsewhere",
                fix="put all files of the SAE into one folder",
            )
        found[full] = digest
    return found
