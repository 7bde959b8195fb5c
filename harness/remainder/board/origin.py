"""Whether a record is of the task, of the submission and of the corpus that it names.

1. Task: the hash of the lock file and of the task as it is here; seed, protocol, width and tier of its
   `task.toml`; the hashes of model and corpus that it pins.
2. Submission: if one of that name comes with the benchmark, the hash of every file, of the settings, and the
   number of features, from the files themselves.
3. Peers: what does not depend on the interpretation is the same in every record of a task. A record that
   differs from the others in that is at fault: model and corpus of a task that a script makes, the extent of
   both splits, the loss of the untouched model, transform coding and random circuits (`board.once`).

Needs no torch, and runs nothing of a submission or task.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

from remainder.base.cache import sha256_file
from remainder.base.files import present
from remainder.base.paths import SECOND_PACKAGE, baseline, baseline_folders, root_of
from remainder.board.once import agree, of_random_circuits, of_reference
from remainder.errors import InterpretationError, RecordError
from remainder.record.json import significant
from remainder.record.part import part_of
from remainder.record.schema import Record, SubmissionInfo
from remainder.submission.description import (
    Description,
    comes_with_second_package,
    read_description,
    readable,
)
from remainder.submission.method import FORMATS, NAME, Method, SiteSource, submission_hash
from remainder.task.lock import read_lock
from remainder.task.spec import ADHOC, Task, load_task

__all__ = ["Peer", "Remark", "check_peers", "check_stated", "check_submission", "check_task", "peer_of"]

_OF_FEATURES = "feature-circuit"
_WEIGHTS = {".safetensors", ".pt", ".npz"}
_LARGEST_HEADER = 100_000_000
_WHOLE = "measure tier quick or standard, without --documents, and put that record here"
# Nats per token by which the untouched model's loss may differ between machines, by the dtype of its suffix.
_CLEAN_MOVES = {"float32": 1e-3, "bfloat16": 1e-2}
_ONCE = "once"  # marks places of `board.once`
# What eyes and fonts take for each other, of the characters that names may have.
_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "_": "-", ".": "-"})


class Remark(NamedTuple):
    """A fault, or a note on what could not be checked."""

    text: str
    is_fault: bool = True
    fix: str | None = None
    """Advice, as an imperative sentence; None for the general advice on faults."""


class Peer(NamedTuple):
    """Another record of the same task, as far as it is compared."""

    record_id: str
    submission: str
    shared: Mapping[str, Any]
    """Shared values, by place; see `peer_of`."""
    hash: str = ""
    """Hash of the submission."""
    content: tuple[str, ...] = ()
    """Hashes of task, submission and finer submission, tier and dtype: equal if both measure the same."""


def check_task(record: Record, *, board: bool = True) -> Iterator[Remark]:
    """The record against the lock file and the task's own file.

    Args:
        board: whether it is to be of a task of the benchmark. If not, it is compared with the one that has
            its hash, and a task of somebody's own is noted.
    """
    stated = record.task
    match = re.fullmatch(r"([1-9]\d*)-([A-Z])", stated.version)
    if match is None:
        yield Remark(f"task.version: {stated.version!r} is not of the form N-X")
        return
    lock = read_lock().tasks.get(stated.id)
    if lock is None:
        is_adhoc = stated.id.startswith(f"{ADHOC}/")
        if board:
            why = "is ad hoc, and on no public board" if is_adhoc else "is not in tasks/lock.json"
            yield Remark(f"task.id: {stated.id!r} {why}")
        else:
            why = "is ad hoc" if is_adhoc else "does not come with the benchmark"
            yield Remark(f"task: {stated.id} {why}: it was not compared", is_fault=False)
        return
    major, letter = int(match[1]), match[2]
    locked_major, _, locked_letter = lock.version.partition("-")
    if major < int(locked_major):
        yield Remark(f"task.version: {stated.version}, the task is at {lock.version} now", is_fault=False)
        return
    if not board and stated.hash != lock.hash:
        yield Remark(
            f"task: another {stated.id} comes with the benchmark (hash {lock.hash[:12]}…, this one is "
            f"{stated.hash[:12]}…): it was not compared",
            is_fault=False,
        )
        return
    if major > int(locked_major) or letter > locked_letter:
        yield Remark(f"task.version: {stated.version}, tasks/lock.json has {lock.version}")
    if stated.hash != lock.hash:
        yield Remark(f"task.hash: {stated.hash[:12]}…, tasks/lock.json has {lock.hash[:12]}…")
    task = load_task(stated.id)
    if task.hash != lock.hash:
        yield Remark(f"task.hash: the task here is not the locked one ({task.hash[:12]}…)")
    yield from _against(record, task, board)


def check_submission(record: Record, *, board: bool = True) -> Iterator[Remark]:
    """The record's submission, and the finer one if it is nested, against the files that are here.

    Args:
        board: whether a name stands for one content. If not, files are compared only with a submission of
            the same hash, and another content of that name is noted.
    """
    yield from check_stated(record, record.submission, "submission", board)
    if record.reference is not None:
        yield from check_stated(record, record.reference, "reference", board)


def peer_of(content: Mapping[str, Any]) -> Peer:
    """Values that a record, as plain JSON, shares with all others of its task.

    Raises:
        RecordError: if it is no record.
    """
    try:
        tier, dtype = content["tier"], content["measurement"]["dtype"]
        shared: dict[str, Any] = {
            "task.hash": content["task"]["hash"],
            "model": content["model"],
            "corpus": content["corpus"],
        }
        # What was not fitted says nothing of the split; whether it had to be is `plausibility`'s question.
        extent = ("documents", "tokens", "bank_rows") if content["calibration"]["tokens"] else ()
        for part, names in (
            ("calibration", ("dimension", *extent)),
            ("documents", ("documents", "windows", "tokens")),
        ):
            shared |= {f"{part}.{name}|{tier}": content[part][name] for name in names}
        features = content["submission"]["kind"] == _OF_FEATURES
        if content["metrics"].get("circuit") is not None:
            # The graph and what the model does by itself are the same whatever circuit is scored; nodes are
            # those of the submission's own interpretations.
            if not features:
                shared[f"complexity.features|{tier}"] = content["complexity"]["features"]
            shared[f"measurement.behaviour|{tier}"] = content["measurement"].get("behaviour")
        if features:
            del shared[f"calibration.dimension|{tier}"]
        if content["reference"] is None:
            clean = content["metrics"]["clean"]["loss"]["value"]
            shared[f"metrics.clean.loss.value|{tier}|{dtype}"] = clean
            once = of_reference(content)
            if content["metrics"].get("circuit") is not None and not features:
                once |= of_random_circuits(content)
            shared |= {f"{place}|{tier}|{dtype}|{_ONCE}": value for place, value in once.items()}
        submission = content["submission"]
        own = str(submission["hash"])
        finer = "" if content["reference"] is None else str(content["reference"]["hash"])
        same = (str(content["task"]["hash"]), own, finer, str(tier), str(dtype))
        return Peer(str(content["record_id"]), str(submission["name"]), shared, own, same)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as problem:
        raise RecordError(f"is no record: {problem!r} is missing or of another kind") from None


def check_peers(record: Record, peers: Iterable[Peer], *, board: bool = True) -> Iterator[Remark]:
    """Remarks where other records of the task, at the same tier, say otherwise.

    Args:
        board: whether a name that reads like another is at fault whatever it stands for. If not, it is only
            where it stands for the other's content, and noted else.
    """
    own = peer_of(record.model_dump(mode="json"))
    others = [peer for peer in peers if peer.record_id != own.record_id]
    same = [peer for peer in others if peer.shared["task.hash"] == own.shared["task.hash"]]
    if not same:
        yield Remark("no other record of this task is beside it to compare model and text", is_fault=False)
    for place, value in own.shared.items():
        name, _, condition = place.partition("|")
        stated = [peer.shared[place] for peer in same if place in peer.shared]
        if not stated:
            continue
        _, dtype, kind = (*condition.split("|"), "", "", "")[:3]
        if kind == _ONCE:
            usual = median_low(stated)  # no two may be the same in all digits
            count = sum(agree(item, usual, dtype) for item in stated)
            agrees = agree(value, usual, dtype)
        else:
            common, count = Counter(json.dumps(item, sort_keys=True) for item in stated).most_common(1)[0]
            usual = json.loads(common)
            allowed = _CLEAN_MOVES.get(dtype, 0.0) if name.startswith("metrics.") else 0.0
            agrees = value == usual if not allowed else abs(value - usual) <= allowed
        if not agrees:
            yield Remark(f"{name}: {value}, and {count} other record(s) of this task have {usual}")
    yield from _mimicry(record, others, board)


def _against(record: Record, task: Task, board: bool) -> Iterator[Remark]:
    """Compare the record with what the task's own file pins."""
    stated, ranked = record.measurement, board and not record.submission.is_shell
    pins: dict[str, tuple[Any, Any]] = {
        "protocol": (record.protocol, task.protocol),
        "measurement.seed": (stated.seed, task.seed),
        "model.source": (record.model.source, task.model.source),
    }
    if task.kind.has_residual:  # a circuit's bath is over all writers of the graph
        pins["calibration.dimension"] = (record.calibration.dimension, task.site.width)
    if task.model.weights_sha256 is not None:
        pins["model.sha256"] = (record.model.sha256, task.model.weights_sha256)
    if task.model.revision is not None or task.model.hub is None:
        pins["model.revision"] = (record.model.revision, task.model.revision)
    if task.text is not None:
        pins["corpus.source"] = (record.corpus.source, task.text.source)
        pins["corpus.sha256"] = (record.corpus.sha256, task.text.sha256 or record.corpus.sha256)
    if task.build is not None:
        pins["corpus.source"] = (record.corpus.source, task.build.data)
    pins["corpus.revision"] = (record.corpus.revision, None)
    for place, (found, expected) in pins.items():
        if found != expected:
            yield Remark(f"{place}: {found!r}, the task has {expected!r}")
    fewer = part_of(record.tier)
    name = record.tier if fewer is None else fewer.tier
    if name not in task.every_tier:
        yield Remark(f"tier: {name!r}, the task has {', '.join(task.every_tier)}")
        return
    if fewer is not None:
        yield Remark(f"tier: {fewer.note}", is_fault=ranked, fix=_WHOLE)
        if record.documents.documents != fewer.documents:
            found = record.documents.documents
            yield Remark(f"documents.documents: {found}, its tier says {fewer.documents}")
    tier = task.tier(name)
    if record.documents.windows > tier.evaluation_windows:
        yield Remark(f"documents.windows: {record.documents.windows}, the tier has {tier.evaluation_windows}")
    if task.splits is not None:
        for part, most in (("documents", task.splits.evaluation), ("calibration", task.splits.calibration)):
            found = getattr(record, part).documents
            if found > most:
                yield Remark(f"{part}.documents: {found}, the split has {most}")
    # Another dtype than the tier's is another group of records on the board, and so no remark.
    if stated.pairs != tier.pairs:
        # A record that claims a larger tier with fewer draws would stand beside those that have all.
        yield Remark(
            f"measurement.pairs: {stated.pairs}, other than the tier's {tier.pairs}",
            is_fault=ranked,
            fix="measure with the tier's own number of pairs",
        )


def check_stated(record: Record, stated: SubmissionInfo, part: str, board: bool) -> Iterator[Remark]:
    """A submission that a record or a flow names as a `part` of it, against the files that are here."""
    if not re.fullmatch(NAME.removesuffix("$"), stated.name):
        yield Remark(f"{part}.name: {stated.name[:60]!a} is no name of a submission ({NAME})")
        return
    if stated.family is not None and not re.fullmatch(NAME.removesuffix("$"), stated.family):
        yield Remark(f"{part}.family: {stated.family[:60]!a} is no name ({NAME})")
    if stated.is_shell:
        yield Remark(f"{part}: its files are checked with its flow", is_fault=False)
        return
    folder = baseline(stated.name)
    if not present(folder / "submission.toml"):
        what = f"{part}: {stated.name} does not come with the benchmark: its files were not compared"
        yield Remark(what, is_fault=False)
        return
    try:
        described = read_description(folder, Description)
    except InterpretationError as problem:
        what = problem.what.removeprefix(f"{folder / 'submission.toml'}").removeprefix(": ").strip()
        yield Remark(f"{part}: {stated.name}/submission.toml cannot be read: {what}", board, problem.fix)
        return
    method = described.method
    if comes_with_second_package(folder, described):
        what = f"{part}: the files of {stated.name} come with {SECOND_PACKAGE}, and were not compared"
        yield Remark(what, is_fault=False)
        return
    if not board and not _is_content_of(folder, method, stated):
        yield Remark(
            f"{part}: another {stated.name} comes with the benchmark; this one has hash {stated.hash[:12]}…, "
            "and was not compared",
            is_fault=False,
        )
        return
    for name, found, expected in (
        ("name", stated.name, described.name),
        ("kind", stated.kind, described.kind),
        # Records that were measured before their submission named one have none, and stand for themselves.
        ("family", stated.family, stated.family and described.family),
        ("method.format", stated.format, method.format if stated.method else stated.format),
    ):
        if found != expected:
            yield Remark(f"{part}.{name}: {found!r}, its submission.toml has {expected!r}")
    if described.tasks and record.task.id not in described.tasks:
        # Its file may say otherwise elsewhere: tasks are no part of the hash.
        what = f"{part}: {stated.name} is for {', '.join(described.tasks)}, not for {record.task.id}"
        yield Remark(what, is_fault=board)
    if (digest := submission_hash(method, stated.files)) != stated.hash:
        yield Remark(f"{part}.hash: {stated.hash[:12]}…, settings and files give {digest[:12]}…")
    if method.get("hub") is not None:
        yield Remark(f"{part}: {stated.name} lies on a hub: its files were not compared", is_fault=False)
        return
    yield from _files(folder, method, stated, part)
    if part == "submission":
        yield from _features(record, folder, method)


def _is_content_of(folder: Path, method: Method, stated: SubmissionInfo) -> bool:
    """Whether a record's submission has the hash of the one in `folder`, whatever both are called."""
    if method.get("hub") is not None:  # its files are not here
        return submission_hash(method, stated.files) == stated.hash
    found = {}
    for name in stated.files:
        if ".." in Path(name).parts or Path(name).is_absolute():
            continue
        path = root_of(folder, name) / name
        if path.is_file() and not path.is_symlink():
            found[name] = sha256_file(path)
    return submission_hash(method, found) == stated.hash


def _files(folder: Path, method: Method, stated: SubmissionInfo, part: str) -> Iterator[Remark]:
    """Every file against its hash, and weights that are not named."""
    for name, digest in stated.files.items():
        path = root_of(folder, name) / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            yield Remark(f"{part}.files: {name[:80]!a} lies outside of the submission")
        elif path.is_symlink():
            yield Remark(f"{part}.files: {name[:80]!a} is a link, not a file")
        elif not path.is_file():
            yield Remark(f"{part}.files: {stated.name} has no file {name[:80]!a}")
        elif (found := sha256_file(path)) != digest:
            yield Remark(f"{part}.files.{name}: {digest[:12]}…, the file here is {found[:12]}…")
    paths = [root_of(folder, name) / name for name in stated.files]
    if stated.kilobytes is not None and all(map(Path.is_file, paths)):
        size = significant(sum(path.stat().st_size for path in paths) / 1000)
        if stated.kilobytes != size:
            yield Remark(f"{part}.kilobytes: {stated.kilobytes:g}, its files here take {size:g}")
    held = []
    if method.place is not None:
        place = folder / method.place
        held = [place] if place.is_file() else sorted(place.glob("*"))
    places = [(path, folder) for path in held]
    for site in method.get("sites") or ():
        root = root_of(folder, site.submission)
        places += [(path, root) for path in sorted((root / site.submission).rglob("*"))]
    if FORMATS[method.format].runs_code:
        names = [path.relative_to(folder).as_posix() for path in readable(folder)]
    else:
        names = [path.relative_to(root).as_posix() for path, root in places if path.suffix in _WEIGHTS]
    if missing := [name for name in names if name not in stated.files]:
        yield Remark(f"{part}.files: lacks {', '.join(missing)}")


def _features(record: Record, folder: Path, method: Method) -> Iterator[Remark]:
    """The number of features, as far as settings or the shapes of the weights tell it."""
    features = record.complexity.features
    if method.get("sites") is not None:
        yield from _nodes(record, folder, method.get("sites"))
        return
    row = FORMATS[method.format]
    if row.runs_code:  # which may make any number of features from its weights
        what = "complexity.features: its code alone tells them, and was not run: they were not compared"
        yield Remark(what, is_fault=False)
        return
    expected = method.get("rank") if row.features is None else row.features(record.calibration.dimension)
    if expected is not None and features != expected:
        yield Remark(f"complexity.features: {features}, the submission has {expected}")
    if expected is not None or features is None:
        return
    try:
        sizes = _sizes_in(record, folder, "")
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        yield Remark(f"submission.files: the header of its weights cannot be read ({problem!r})")
        return
    if sizes and features not in sizes:
        yield Remark(f"complexity.features: {features}, no tensor of {record.submission.name} has that size")


def _nodes(record: Record, folder: Path, sites: Iterable[SiteSource]) -> Iterator[Remark]:
    """Check the number of nodes at one position in a circuit of features: latents and an error a site.

    All nodes, those of all positions and templates, are a multiple of these.
    """
    dimension, features, sums = record.calibration.dimension, record.complexity.features, {0}
    try:
        for site in sites:
            sizes = _sizes_in(record, folder, f"{site.submission.rstrip('/')}/")
            if not sizes:  # weights in a file that tells nothing before it is read whole
                return
            sums = {before + size + 1 for before in sums for size in sizes}
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        yield Remark(f"submission.files: the header of its weights cannot be read ({problem!r})")
        return
    if dimension not in sums:
        yield Remark(f"calibration.dimension: {dimension}, no tensors of its sites have sizes of that sum")
    if features is None or features % dimension:
        yield Remark(f"complexity.features: {features}, no multiple of {dimension} nodes at a position")


def _sizes_in(record: Record, folder: Path, prefix: str) -> set[int]:
    """Sizes of all axes of the safetensors files whose names begin with `prefix`."""
    names = [name for name in record.submission.files if name.endswith(".safetensors")]
    paths = [root_of(folder, name) / name for name in names if name.startswith(prefix)]
    return {size for path in paths if path.is_file() for size in _sizes(path)}


def _sizes(path: Path) -> Iterator[int]:
    """Sizes of all axes of all tensors of a safetensors file, from its header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LARGEST_HEADER:
            return
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            yield from entry["shape"]


def _mimicry(record: Record, others: Iterable[Peer], board: bool) -> Iterator[Remark]:
    """Names that differ from this one only in what the eye takes for the same."""
    known = baseline_folders()
    own, hashes = record.submission, {(peer.submission, peer.hash) for peer in others}
    if own.name in known:
        return
    for other in sorted({*known, *(name for name, _ in hashes)} - {own.name}):
        if skeleton(other) != skeleton(own.name):
            continue
        same = (other, own.hash) in hashes or (other in known and _is_baseline(known[other], own))
        yield Remark(f"submission.name: {own.name[:60]!a} reads like {other[:60]!a}", is_fault=board or same)


def _is_baseline(folder: Path, stated: SubmissionInfo) -> bool:
    try:
        return _is_content_of(folder, read_description(folder, Description).method, stated)
    except InterpretationError:  # what nobody can open is nobody's content; its own records say so
        return False


def skeleton(name: str) -> str:
    return name.casefold().translate(_ALIKE)
