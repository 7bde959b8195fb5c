"""Recognition of files by their content, and never by their ending.

1. The first bytes tell archives of torch.save, pickles, what is compressed, tables of tensors, text that is
   not UTF-8; nothing else is read of these, however large they are.
2. JSON is told by its outermost fields, wherever they stand: it is read in pieces until they decide
   (`outline`), and parsed by its reader alone. Beyond LARGEST bytes it is not read at all.
3. Of torch.save's archives the list of names is looked at, and nothing is loaded.

What is a circuit (EAP-IG's) or a graph (circuit-tracer's) goes to its reader. All else is told: what it is,
what was looked for, and what to give instead.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from remainder.base.files import LARGEST, SETTINGS, brief, parse_json, read_text, require_file, size_of
from remainder.errors import InterpretationError
from remainder.formats.outline import Outline, outline
from remainder.formats.tensors import header

__all__ = ["TO_MAKE_JSON", "Form", "Seen", "look"]

Form = Literal["JSON", "torch", "pickle", "compressed", "tensors", "other"]
"""The encoding of a file; `torch`: an archive of torch.save."""

_HEAD = 512
_ARCHIVE = b"PK\x03\x04"
_TORCH_LIST = "data.pkl"
_LONGEST_LIST = 100_000_000
"""Bytes of the largest list of names that is looked through: of a circuit of millions of nodes."""

# Not `gunzip FILE`: it refuses what is not called .gz.
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip < FILE > UNPACKED"),
    (b"BZh", "bzip2", "bunzip2 < FILE > UNPACKED"),
    (b"\xfd7zXZ\x00", "xz", "unxz < FILE > UNPACKED"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd < FILE > UNPACKED"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x FILE"),
)
_TABLES = ((b"\x93NUMPY", "a numpy array"), (b"\x89HDF", "HDF5"), (b"PAR1", "a Parquet table"))
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
_ZEROS = {"utf-32-le": "x000", "utf-32-be": "000x", "utf-16-le": "x0", "utf-16-be": "0x"}
"""The bytes of an ASCII letter that are zero (0) or not (x)."""
_LOOKED_FOR = (
    "looked for: cfg, nodes and edges (a circuit of EAP-IG), or metadata, nodes and links (a graph of "
    "circuit-tracer)"
)
_GIVE = (
    "give a circuit as EAP-IG's to_json or to_pt writes it, or the folder of an SAE or transcoder with its "
    "settings"
)
TO_MAKE_JSON = (
    "make the JSON of it with circuit-tracer's create_graph_files(graph_or_path=FILE, slug=NAME, "
    "output_path=FOLDER), and name that file in a submission.toml of the format feature-graph"
)
_CONVERT = (
    "where you trust it, convert it once: of a circuit with EAP-IG, Graph.from_pt(FILE).to_json("
    "'circuit.json'); of weights, safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
    "'sae_weights.safetensors')"
)


class Seen(NamedTuple):
    """The result of a look at a file."""

    form: Form
    format: Literal["eap-ig", "feature-graph"] | None = None
    """The reader that it goes to; None: it is nothing that can be read alone."""
    what: str = ""
    """Behind `it is`, of what goes to no reader: a notebook."""
    fix: str = _GIVE
    beside: str = ""
    """The file that belongs beside settings or weights, in a format that has both in one folder."""
    is_known: bool = True
    """Whether it is told what it is, and not only what it is not."""
    is_closed: bool = False
    """Whether it may be a circuit for all that was seen: it is compressed, cut, too large or not in UTF-8."""

    def refused(self, path: Path) -> InterpretationError:
        """Why it is not read; what is wrong with JSON that is small and no JSON is said by its place."""
        if self.form == "JSON" and not self.is_known and path.stat().st_size <= SETTINGS:
            try:
                parse_json(read_text(path, "JSON"), path, nan=True)
            except InterpretationError as problem:
                return problem
        return InterpretationError(f"{path} is {self.what}", fix=self.fix)


def _kind(fields: set[str], what: str, fix: str = _GIVE, beside: str = "") -> tuple[set[str], Seen]:
    """A JSON file of another kind, recognised by its fields."""
    return fields, Seen("JSON", what=what, fix=fix, beside=beside)


_KINDS = (
    _kind(
        {"schema_version", "protocol", "task"},
        "the record of a run, not what was scored in it",
        "give the folder or the name of the submission; `remainder explain` reads records",
    ),
    _kind(
        {"nbformat", "cells"},
        "a notebook",
        "save what it makes into a folder and give that, or score the object in it: "
        "remainder.evaluate(task, thing)",
    ),
    _kind(
        {"weight_map"},
        "a list of the safetensors files of a model, not an interpretation of it",
    ),
    _kind({"eval_type_id"}, "a result of SAEBench", "give the SAE that was scored there"),
    _kind(
        {"modelId", "layer", "index"},
        "the page of one feature on Neuronpedia, which holds examples and no weights",
        "give the SAE or transcoder itself: a folder, or hub:OWNER/REPO:SAE_ID",
    ),
    _kind(
        {"examples_quantiles"},
        "the page of one feature for circuit-tracer's frontend, which holds examples and no weights",
        "give the transcoders themselves, or a graph of them",
    ),
    _kind(
        {"graphs"},
        "circuit-tracer's list of graphs, not one of them",
        "name a graph of the list in a submission.toml of the format feature-graph",
    ),
    _kind(
        {"trainer"},
        "the settings of a dictionary of dictionary_learning",
        beside="ae.pt, the weights",
    ),
    _kind({"d_sae"}, "the settings of an SAE of SAELens", beside="sae_weights.safetensors"),
    _kind({"k", "expansion_factor"}, "the settings of an SAE of sparsify", beside="sae.safetensors"),
    _kind(
        {"model_type"},
        "the config of a model of transformers, not an interpretation of it",
    ),
    _kind({"architectures"}, "the config of a model of transformers, not an interpretation of it"),
)


def look(path: Path) -> Seen:
    """Look at a file, and say what it is.

    Args:
        path: of a file.

    Raises:
        InterpretationError: it is no plain file.
    """
    require_file(path)
    found = path.stat()
    # Folders of circuits are looked at several times over, and large files are not to be.
    return _look(path, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _look(path: Path, _inode: int, size: int, _changed: int) -> Seen:
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        while head and not head.strip() and stream.tell() < size:  # JSON may begin with any white space
            head = stream.read(_HEAD)
    if not head.strip():
        return Seen(
            "other", what="empty", fix="copy it again; writing it may have been cut short", is_closed=True
        )
    if head.startswith(_ARCHIVE):
        return _archive(path)
    if _is_safetensors(head, size):
        return _safetensors(path)
    return _binary(path, head) or _wide(head) or _text(path, head, size)


def _binary(path: Path, head: bytes) -> Seen | None:
    """Judge a file that is not text by its first bytes."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Seen("pickle", what="a pickle, and these are never loaded", fix=_CONVERT)
    for begins, name, unpack in _COMPRESSED:
        if head.startswith(begins):
            return Seen("compressed", what=f"compressed ({name})", fix=f"unpack it: {unpack}", is_closed=True)
    if head[257:262] == b"ustar":
        return Seen("compressed", what="an archive (tar)", fix="unpack it: tar -xf FILE")
    for begins, what in _TABLES:
        if head.startswith(begins):
            return Seen("other", what=f"{what}, which no format here is read from")
    if head.lstrip().startswith((b"\x89PNG", b"%PDF")):
        return Seen("other", what="a picture or a page, not data")
    return None


def _wide(head: bytes) -> Seen | None:
    """Text in UTF-16 or UTF-32, with or without a mark at its beginning."""
    marked = next((codec for mark, codec in _MARKS.items() if head.startswith(mark)), None)
    codec = marked or next((codec for codec, zeros in _ZEROS.items() if _has_zeros(head, zeros)), None)
    if codec is None:
        return None
    place = 1 if marked else head.index(0) + 1
    return Seen(
        "other",
        what=f"text in {codec[:6].upper()}: byte {place} is not UTF-8",
        fix="save it as UTF-8 (in PowerShell: … | Out-File FILE -Encoding utf8)",
        is_closed=True,
    )


def _has_zeros(head: bytes, zeros: str) -> bool:
    """Whether the first letters are ASCII with zeros at these places, as where each has two or four bytes."""
    letters = head[: 8 * len(zeros)]
    return len(letters) >= len(zeros) and all(
        letter == 0 if zeros[place % len(zeros)] == "0" else 8 < letter < 128
        for place, letter in enumerate(letters)
    )


def _text(path: Path, head: bytes, size: int) -> Seen:
    """JSON by its fields, and other text."""
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begins[:1] in (b"{", b"["):
        if size > LARGEST:
            most = f"JSON of {size_of(path)}; at most {LARGEST / 1e6:,.0f} MB are read"
            return Seen("JSON", what=most, fix="leave out the edges that have no score", is_closed=True)
        return _of_fields(outline(path, _is_decided))
    if begins[:1] == b"<":
        return Seen(
            "other",
            what="a web page or XML, not data",
            fix="download the file itself; of a page that shows it, the raw one",
        )
    if b"\0" in head or not _is_text(head):
        what = f"of no kind that is known ({size_of(path)}): neither JSON nor what torch.save wrote"
        return Seen("other", what=what, is_known=False)
    return Seen("other", what=f"text that is no JSON; {_LOOKED_FOR}", is_known=False)


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8, as far as this goes; its last letter may be cut."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as problem:
        return problem.start > len(head) - 4
    return True


def _is_decided(fields: Mapping[str, str]) -> bool:
    return _format_of(fields) is not None


def _format_of(fields: Mapping[str, str]) -> Literal["eap-ig", "feature-graph"] | None:
    """The reader of JSON with these outermost fields.

    A file that lacks one of them is refused later, by its reader.
    """
    if fields.get("cfg") == "{" or (fields.get("nodes") == "{" and fields.get("edges") == "{"):
        return "eap-ig"
    listed = fields.get("nodes") == "[" or fields.get("links") == "["
    if "qParams" in fields or ("metadata" in fields and listed):
        return "feature-graph"
    return None


def _of_fields(seen: Outline) -> Seen:
    if (format := _format_of(seen.fields)) is not None:
        return Seen("JSON", format)
    if seen.kind == "[":
        what = f"a list in JSON, not an object with named fields; {_LOOKED_FOR}"
        return Seen("JSON", what=what, is_known=False)
    if seen.goes_on:
        what = f"several objects of JSON one after the other (JSON Lines), not a single one; {_LOOKED_FOR}"
        return Seen("JSON", what=what)
    for fields, kind in _KINDS:
        if fields <= seen.fields.keys():
            return kind
    held = f"the fields {_listed(list(seen.fields))}" if seen.fields else "no fields"
    cut = "" if seen.is_whole else ", and no end"
    what = f"JSON with {held}{cut}; {_LOOKED_FOR}"
    return Seen("JSON", what=what, is_known=False, is_closed=not seen.is_whole)


def _listed(names: list[str]) -> str:
    """Some six names."""
    more = f" and {len(names) - 6:,} more" if len(names) > 6 else ""
    return ", ".join(brief(name)[1:-1] for name in names[:6]) + more


def _archive(path: Path) -> Seen:
    """Judge a zip archive, torch.save's or another one, by its contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            lists = [entry for entry in entries if entry.filename.rpartition("/")[2] == _TORCH_LIST]
            if any(entry.file_size > _LONGEST_LIST for entry in lists):
                return Seen(
                    "other",
                    what="an archive of torch.save whose list of names is larger than "
                    f"{_LONGEST_LIST / 1e6:,.0f} MB",
                )
            held = b"".join(archive.read(entry) for entry in lists)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError):
        return Seen(
            "torch",
            what=f"no archive that can be read ({size_of(path)}): torch.save or numpy.savez did not write "
            "it, or it is truncated",
            fix="copy it again",
            is_known=False,
            is_closed=True,
        )
    if lists:
        return _torch(held)
    if entries and all(entry.filename.endswith(".npy") for entry in entries):
        return Seen(
            "tensors",
            what=f"a table of arrays ({_listed([entry.filename[:-4] for entry in entries])})",
            fix="name it params.npz and give its folder, if it is an SAE of Gemma Scope",
            beside="its own name, params.npz, of an SAE of Gemma Scope",
        )
    return Seen("compressed", what="a zip archive", fix="unpack it and give what was in it: unzip FILE")


def _torch(names: bytes) -> Seen:
    """An archive of torch.save, by names that it holds."""
    if b"edges_in_graph" in names:
        return Seen("torch", "eap-ig")
    if b"adjacency_matrix" in names and (b"active_features" in names or b"input_string" in names):
        return Seen("torch", what="a graph as circuit-tracer's to_pt writes it", fix=TO_MAKE_JSON)
    if any(name in names for name in (b"decoder.weight", b"W_dec", b"encoder.weight", b"W_enc")):
        return Seen(
            "torch",
            what="the weights of a dictionary, which cannot be read alone",
            beside="config.json, as dictionary_learning's training writes it",
        )
    what = "what torch.save wrote, and holds no circuit (edges_in_graph)"
    return Seen("torch", what=what, is_known=False)


def _is_safetensors(head: bytes, size: int) -> bool:
    return 2 <= int.from_bytes(head[:8], "little") <= size - 8 and head[8:9] == b"{"


def _safetensors(path: Path) -> Seen:
    try:
        names = sorted(header(path))
    except InterpretationError as problem:
        return Seen("tensors", what=problem.what.removeprefix(f"{path} is "), fix=problem.fix or _GIVE)
    return Seen(
        "tensors",
        what=f"tensors alone ({_listed(names)})",
        beside="the settings that say what they are: cfg.json (SAELens, sparsify) or config.yaml "
        "(circuit-tracer)",
    )
