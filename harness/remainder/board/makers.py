"""Who made a submission, and where its weights, training log and code are.

A record holds a name and hashes, and not who made what. That is in the `submission.toml` of the folder below
`baselines`, which counts for a record if every file that the record hashed is there with that hash: a folder
of the same name and other content tells nothing.

The site keeps copies of the folder's small texts, so that they are read where the site is; weights are linked
where the address of the repository, or of their hub, is known.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import NamedTuple

from remainder.base.address import repository
from remainder.base.paths import BENCHMARK, baseline_folders, is_checkout, project_root, root_of
from remainder.errors import InterpretationError
from remainder.record.json import sha256
from remainder.record.schema import Record
from remainder.submission.description import Description, read_description

__all__ = ["Link", "Maker", "copy_texts", "maker_of"]

_DESCRIPTION = "submission.toml"
_TEXTS = (".log", ".md", ".py", ".toml")
_LARGEST = 1_000_000
"""Bytes of a text that is copied."""
_SHARED = "train.py"
"""The script below `baselines` that trains several of them; it names each."""


class Link(NamedTuple):
    """Something that belongs to a submission: a word for it, and where it is."""

    word: str
    href: str
    """Relative to the site, or an address; empty where it is only named."""
    where: str
    """The place in words: a path in the repository, or of a hub."""


class Maker(NamedTuple):
    """The facts that the folder of a submission states."""

    title: str
    authors: tuple[str, ...]
    licence: str
    paper: str
    """The address; empty where none is stated."""
    links: tuple[Link, ...]


def maker_of(record: Record) -> Maker | None:
    """The maker of a record's submission; None if no folder here has its content."""
    submission = record.submission
    folder = baseline_folders().get(submission.name) if is_checkout() else None
    if folder is None:
        return None
    # The description of a part may have got another title or licence since; its weights say what it is.
    files = {name: found for name, found in submission.files.items() if not name.endswith(_DESCRIPTION)}
    if any(_hash(root_of(folder, name) / name) != found for name, found in files.items()):
        return None
    try:
        stated = read_description(folder, Description)
    except InterpretationError:
        return None  # `verify` and `check` say what is wrong with it
    if submission.format not in (None, stated.method.format):
        return None
    paper = stated.paper or ""
    return Maker(
        stated.title,
        stated.authors,
        stated.licence,
        paper if paper.startswith("https://") else "",
        (*_weights(folder, stated), *_texts_of(folder, stated)),
    )


def copy_texts(record: Record, site: Path) -> None:
    """Copy the texts that the links of a record's maker lead to into the site."""
    maker = maker_of(record)
    for link in () if maker is None else maker.links:
        if link.href.startswith("submissions/"):
            target = site / link.href
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project_root() / link.where, target)


def _weights(folder: Path, stated: Description) -> list[Link]:
    """The place of the weights, if it has any."""
    hub, place = stated.method.get("hub"), stated.method.place
    if hub is not None:
        return [Link("weights", "", f"hub {hub}")]
    if place is None:
        return []
    where, address = f"{BENCHMARK}{folder.name}/{place}", repository()
    return [Link("weights", "" if address is None else f"{address}/tree/main/{where}", where)]


def _texts_of(folder: Path, stated: Description) -> list[Link]:
    """Training log, code and notes: those that it states or that are in its folder, or the shared script."""
    texts = [path for path in sorted(folder.iterdir()) if _is_text(path)]
    # Of several logs or scripts that with the shortest name: the others are of further seeds or parts.
    found = {path.suffix: path for path in sorted(texts, key=lambda path: -len(path.name))}.values()
    words = {".log": "log", ".py": "code", ".md": "notes", ".toml": "description"}
    elsewhere = {
        word: Link(word, address, address)
        for word, address in (("log", stated.training.log), ("code", stated.training.script))
        if address is not None and address.startswith("https://")
    }
    links = [_copied(words[path.suffix], path) for path in found if words[path.suffix] not in elsewhere]
    links += elsewhere.values()
    shared = folder.parent / _SHARED
    own = any(link.word == "code" for link in links)
    if not own and _is_text(shared) and f'"{folder.name}"' in shared.read_text(encoding="utf-8"):
        links.append(_copied("code", shared))
    order = ("log", "code", "notes", "description")
    return sorted(links, key=lambda link: order.index(link.word))


def _copied(word: str, path: Path) -> Link:
    where = path.relative_to(project_root() / BENCHMARK).as_posix()
    return Link(word, f"submissions/{where}", f"{BENCHMARK}{where}")


def _is_text(path: Path) -> bool:
    return (
        path.suffix in _TEXTS and path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST
    )


@cache
def _hash(path: Path) -> str | None:
    """SHA-256 of a file; None if there is none."""
    return sha256(path.read_bytes()) if path.is_file() else None
