"""Modes on disk: `<results>/<task>/<N>/<submission>.<order>-<keep>-<hash>.modes`.

The hash in the name is that of what they are of, so that measuring them again replaces the file. It holds the
losses of every document, and all numbers are computed from these once more when it is read.
"""

from __future__ import annotations

from pathlib import Path

from remainder.record.joint import JointFile
from remainder.record.json import content_hash
from remainder.record.modes import Discretisation, MeasuredModes, discretised, rungs_of

__all__ = ["MODES", "modes_place", "read_modes", "write_modes"]

MODES = JointFile(Discretisation, "modes", "holds no modes")


def write_modes(found: Discretisation, results: Path) -> Path:
    """Write modes whole or not at all into a folder of results; gives the path."""
    return MODES.write(found, modes_place(found, results))


def modes_place(found: Discretisation, results: Path) -> Path:
    """The file of modes in a folder of results."""
    of = [found.task.hash, found.submission.hash, found.order, found.keep, found.tier, found.dtype]
    identity = content_hash([*of, found.ratios, found.shifts])
    order = found.order.partition(" ")[0]
    name = f"{found.submission.name}.{order}-{found.keep}-{identity[:12]}{MODES.ending}"
    return results / found.task.id / found.task.version.partition("-")[0] / name


def read_modes(path: Path) -> MeasuredModes:
    """Modes, every number verified.

    Raises:
        RecordError: the file is damaged or was edited, a document or a rung is missing, or a number does not
            follow from the documents.
    """
    found = MODES.read(path)
    values, rungs = found.values, set(rungs_of(found.ratios, found.shifts))
    if set(values.above) != rungs:
        odd = sorted(set(values.above) ^ rungs)
        raise MODES.fault(path, f"its rungs are not those of its ratios and shifts: {', '.join(odd[:3])}")
    columns = [values.tokens, *values.above.values()]
    if len(set(values.documents)) != len(values.documents) or any(
        len(one) != len(values.documents) for one in columns
    ):
        raise MODES.fault(path, "a document is listed twice, or has no tokens or losses")
    if min(values.tokens, default=0) < 1 or not 0 <= found.keep < found.sources:
        raise MODES.fault(path, "it has no scored tokens, or keeps as many sources as there are")
    if min(found.ratios, default=0) <= 1 or not found.shifts:
        raise MODES.fault(path, "it has no ratio above 1, or no shift")
    again = discretised(values, found.sources, found.keep, found.ratios, found.shifts, seed=found.seed)
    for name, number in again.items():
        if getattr(found, name) != number:
            raise MODES.fault(path, f"{name} does not follow from the losses of its documents")
    return MeasuredModes(found)
