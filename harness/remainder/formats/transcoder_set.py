"""A set of circuit-tracer's transcoders, one for every block, as sites of a circuit of features.

1. `open_set` reads the list once: from a folder or YAML file here, or from a hub, `OWNER/REPO`,
   `OWNER/REPO/FOLDER`, each with `@REVISION` or without, as circuit-tracer writes it.
2. `TranscoderSet.fetched` brings the files of some blocks here. An entry may name another repository,
   `hf://OWNER/REPO/FILE?revision=…`.
3. `write_site` makes of a block a folder of its own that refers to its file, so that each is read and hashed
   as any other interpretation at a site, and none of the others is.

Source: https://github.com/decoderesearch/circuit-tracer, `utils/hf_utils.py`, `utils/caching.py`.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlparse

from remainder.base.cache import Progress
from remainder.base.files import brief, present
from remainder.base.hub import Allowance, snapshot
from remainder.base.paths import is_within
from remainder.errors import InterpretationError
from remainder.formats.circuit_tracer import (
    CONFIG,
    FIELDS,
    Entry,
    entries_of,
    hook_of,
    require,
    require_single_layers,
    yaml_of,
)
from remainder.formats.gemma_scope import WEIGHTS
from remainder.formats.known import Settings
from remainder.formats.tensors import read_yaml

__all__ = ["TranscoderSet", "open_set", "write_site"]

_HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)((?:/[\w.-]+)*)(?:@([\w./-]+))?")
_CROSS_LAYER = "W_dec_*.safetensors"


class _Address(NamedTuple):
    """A file or folder of a repository."""

    repo: str
    path: str
    revision: str | None


class TranscoderSet(NamedTuple):
    """The list of a set, and where its files are."""

    named: str
    """The name that it was asked for by; the name of a folder."""
    where: Path
    """The YAML file of the set."""
    fields: dict[str, Any]
    source: str
    """The hook within a block that is read, such as `mlp.hook_in`."""
    target: str
    """The hook within a block that is rebuilt."""
    entries: dict[int, Entry]
    """The transcoders by block."""
    hub: _Address | None

    @property
    def model(self) -> str | None:
        """The model that the list says it is of."""
        name = self.fields.get("model_name")
        return name if isinstance(name, str) and name.strip() else None

    @property
    def scan(self) -> str | None:
        """The address under which circuit-tracer knows it, if that is known here."""
        if self.hub is not None:
            return f"{self.hub.repo}/{self.hub.path}".rstrip("/")
        scan = self.fields.get("scan")
        return scan if isinstance(scan, str) else None

    def hooks(self, block: int) -> tuple[str, str]:
        """The hooks of a block that its transcoder reads and rebuilds."""
        return f"blocks.{block}.{self.source}", f"blocks.{block}.{self.target}"

    def require_blocks(self, blocks: int) -> None:
        """Raise InterpretationError unless there is a transcoder for each of the blocks of a model."""
        missing = [block for block in range(blocks) if block not in self.entries]
        if missing:
            listed = ", ".join(map(str, sorted(self.entries))) or "no block"
            raise InterpretationError(
                f"{self.named} has no transcoder of block {', '.join(map(str, missing))}; it has those of "
                f"{listed}, and the model has {blocks} blocks",
                fix="give the whole set: a graph says of every block what is kept there",
            )

    def fetched(self, blocks: int, progress: Progress | None = None) -> dict[int, Path]:
        """The files of the first blocks, on this machine.

        Raises:
            AssetError: a hub does not give them, or they take more than `REMAINDER_HUB_GB` allows.
            InterpretationError: one is not there.
        """
        found, remote = dict[int, Path](), dict[tuple[str, str | None], dict[int, str]]()
        for block in range(blocks):
            entry = self.entries[block]
            if (address := self._address(entry)) is None:
                found[block] = entry.path
            else:
                remote.setdefault((address.repo, address.revision), {})[block] = address.path
        allowance = Allowance.of_environment()
        for (repo, revision), paths in remote.items():
            patterns = [glob.escape(path) for path in paths.values()]
            kept = snapshot(repo, revision, patterns, progress=progress, allowance=allowance)
            found |= {block: kept.folder / path for block, path in paths.items()}
        for block, path in sorted(found.items()):
            if not present(path):
                raise InterpretationError(
                    f"{self.named}: there is no file {self.entries[block].written} of block {block}",
                    fix="give the whole set, with its files where its list says they are",
                )
        return found

    def _address(self, entry: Entry) -> _Address | None:
        """The place of a file on a hub; None for one on this machine."""
        if entry.is_remote:
            return _of_uri(entry.written, self.where)
        if self.hub is None:
            return None
        if not is_within(entry.written):
            raise InterpretationError(
                f"{self.named} lists {brief(entry.written)}, which lies outside of it",
                fix="if you trust that list, download the repository and give its folder on this machine",
            )
        return self.hub._replace(path=f"{self.hub.path}/{entry.written}".lstrip("/"))

    def inside(self, block: int) -> PurePosixPath:
        """The place of a file below its repository's or folder's name, which may tell what it is."""
        entry = self.entries[block]
        address = self._address(entry)
        if address is not None:
            return PurePosixPath(address.repo.partition("/")[2]) / address.path
        return PurePosixPath(entry.path.absolute().parent.name) / entry.path.name


def open_set(named: str, *, blocks: int | None = None, progress: Progress | None = None) -> TranscoderSet:
    """The set of a folder, a YAML file, or an address of a hub.

    Args:
        named: what a person names.
        blocks: of the model; a set on a hub without a list has a file of each.

    Raises:
        AssetError: the hub does not give its list.
        InterpretationError: there is no set, or it is of cross-layer transcoders.
    """
    path = Path(named).expanduser()
    if present(path):
        return _read(path.absolute().name, yaml_of(path), None, blocks)
    match = _HUB.fullmatch(re.sub(r"^(hub:|hf://)", "", named))
    if match is None:
        raise InterpretationError(
            f"there is no folder {named} of transcoders",
            fix="give the folder of a set (with config.yaml), or its address on a hub, OWNER/REPO[/FOLDER]",
        )
    address = _Address(match[1], match[2].strip("/"), match[3])
    config = f"{address.path}/{CONFIG}".lstrip("/")
    kept = snapshot(address.repo, address.revision, [glob.escape(config)], progress=progress)
    return _read(named, kept.folder / config, address._replace(revision=kept.commit), blocks)


def _read(named: str, where: Path, hub: _Address | None, blocks: int | None) -> TranscoderSet:
    if not present(where):
        if [*where.parent.glob(_CROSS_LAYER)]:
            raise InterpretationError(
                f"{named} is a cross-layer transcoder (it has {_CROSS_LAYER}): each of its latents writes "
                "into all later blocks, and what is measured here reads and writes one place each",
                fix="give a set of transcoders of one layer each, and make the graph with that",
            )
        raise InterpretationError(
            f"{named} has no {CONFIG}, which lists the transcoders of a set",
            fix="give the folder that circuit-tracer reads, or its address on a hub, OWNER/REPO[/FOLDER]",
        )
    require(where)
    fields = read_yaml(where)
    config = Settings(fields, FIELDS, where, None)
    require_single_layers(config)
    source, target = (
        hook_of(config, field, where) for field in ("feature_input_hook", "feature_output_hook")
    )
    listed = entries_of(where)
    if hub is not None and "transcoders" not in fields:
        files = [f"layer_{block}.safetensors" for block in range(blocks or 0)]
        listed = [Entry(block, file, where.parent / file) for block, file in enumerate(files)]
    entries = {entry.layer: entry for entry in listed}
    if len(entries) < len(listed):
        layers = [entry.layer for entry in listed]
        twice = next(layer for layer in layers if layers.count(layer) > 1)
        raise InterpretationError(f"{where} lists layer {twice} more than once", fix="list each layer once")
    return TranscoderSet(named, where, fields, source, target, entries, hub)


def _of_uri(written: str, where: Path) -> _Address:
    parts = urlparse(written)
    repo, _, path = parts.path.lstrip("/").partition("/")
    if parts.scheme != "hf" or not parts.netloc or not repo or not path or ".." in path.split("/"):
        raise InterpretationError(
            f"{where}: {brief(written)} is no file of a hub", fix="write hf://OWNER/REPO/FILE"
        )
    revision: Sequence[str | None] = parse_qs(parts.query).get("revision", [])
    return _Address(f"{parts.netloc}/{repo}", path, next(iter(revision), None))


def write_site(one: TranscoderSet, block: int, weights: Path, folder: Path) -> PurePosixPath:
    """Make a block's transcoder an interpretation of its own, below `folder`, whose weights are a link.

    Args:
        weights: the block's file, on this machine.
        folder: of the submission.

    Returns:
        The interpretation's place relative to `folder`.
    """
    place = PurePosixPath(f"block-{block}")
    is_scope = weights.name == WEIGHTS  # its reader is told by folders what it is
    if is_scope:
        place /= one.inside(block).parent
    (folder / place).mkdir(parents=True)
    (folder / place / weights.name).symlink_to(weights.absolute())
    if not is_scope:
        listed = [{"layer": block, "filepath": weights.name}]
        text = json.dumps({**one.fields, "transcoders": listed}, indent=1, sort_keys=True)  # YAML as well
        (folder / place / CONFIG).write_text(text, encoding="utf-8")
    return place
