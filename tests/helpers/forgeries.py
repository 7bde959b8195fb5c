"""Forgeries of whole records: values, summaries and hashes in step, and what two checks make of them."""

from __future__ import annotations

import copy
import math
import random
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from forging import Original, Place, edited, fields, put, read, remade, seal, write

from remainder.board.shelf import Shelf
from remainder.board.verify import verify_record
from remainder.errors import RemainderError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.measure.plan import plan
from remainder.measure.seal import Remeasured
from remainder.publish import remeasure
from remainder.publish.draws import settings_of
from remainder.record.json import canonical_json
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.store import read_record, read_summary, values_path
from remainder.record.summary import BINS_PER_DECADE, LOWEST_BIN
from remainder.runs.cells import run
from remainder.submission.open import open_submission

KEY = "0123456789abcdef" * 4
"""The key of the draw; a forger does not know it."""


class Forged(NamedTuple):
    """A forged record as it lies on the disk."""

    kind: str
    path: Path
    place: Place | None = None
    """The field that was edited, if it was a single one."""


@dataclass
class Ranking:
    """Honest records of one task, in a leaderboard of their own, and the task in memory."""

    originals: list[Original]
    loaded: LoadedTask
    found: dict[str, Remeasured]
    """Every document of each submission measured again, by the hash of the submission."""
    boards: dict[Path, Path]
    """For each original a leaderboard with all the others: no forger puts the truth beside the forgery."""

    records: dict[Path, Record]

    def board(self, original: Original) -> Path:
        return self.boards[original.path]

    def record(self, original: Original) -> Record:
        return self.records[original.path]


def ranking(task: str, names: Collection[str], root: Path) -> Ranking:
    """Measure submissions on a task, once for the record and once more for the check."""
    loaded = open_task(task, device="cpu")
    settings = plan(loaded.task, "quick", rungs=("raw", "mean", "full"))
    entries = [open_submission(name) for name in names]
    rows = list(run(loaded, entries, settings, root))
    again = open_task(task, device="cpu", batch_size=7)
    found = {}
    for entry, row in zip(entries, rows, strict=True):
        documents = sorted(set(row.values["document"].loc[row.values["split"] == "evaluation"]))
        found[entry.hash] = again.remeasure(entry, settings, documents)
    originals = [Original(row.path, *read(row.path)) for row in rows]
    boards = {}
    for number, original in enumerate(originals):
        boards[original.path] = root.parent / str(number) / "leaderboard" / "results"
        shutil.copytree(root, boards[original.path])
        copied = boards[original.path] / original.path.relative_to(root)
        copied.unlink()
        values_path(copied).unlink()
    return Ranking(originals, again, found, boards, {row.path: row.record for row in rows})


def patched(of: Ranking, patch: pytest.MonkeyPatch) -> None:
    """Let `rerun` take what was measured again before: a draw of documents is a part of all."""

    def some(self: LoadedTask, entry: Any, settings: Any, documents: Collection[str], **_: Any) -> Remeasured:
        every = of.found[entry.hash]
        values = every.values.loc[every.values["document"].isin(documents)].reset_index(drop=True)
        return every._replace(values=values, documents=tuple(sorted(documents)))

    patch.setattr(remeasure, "open_task", lambda *a, **b: of.loaded)
    patch.setattr(LoadedTask, "remeasure", some)


def caught_by(forged: Forged, original: Original, of: Ranking) -> str | None:
    """`files` if verification catches a forgery, `measuring` if measuring again does; None if neither."""
    verdict = verify_record(forged.path, Shelf(of.board(original)))
    if not verdict.passed:
        return "files"
    record = read_summary(forged.path)
    try:
        again = remeasure.rerun(forged.path, **settings_of(record, KEY))
    except RemainderError:  # one whose submission is not to be found is not measured again, and fails
        return "measuring"
    return None if again.passed else "measuring"


def gone(forged: Forged) -> None:
    """Remove a forgery."""
    forged.path.unlink()
    values_path(forged.path).unlink()


# what is ranked


def kl_of(record: Record) -> float:
    """KL of the rung that places are by."""
    rungs = record.metrics.rungs
    value = rungs["coded" if "coded" in rungs else "raw"].quenched.kl.value
    assert value is not None
    return value


def bits_of(record: Record) -> float:
    value = record.complexity.bits_per_token.value
    return math.inf if value is None else value


def moved(forged: Forged, original: Original, of: Ranking) -> bool:
    """Whether a forgery stands at another place than the original, by KL or by bits."""
    others = [of.record(one) for one in of.originals if one is not original]
    before, after = of.record(original), read_summary(forged.path)
    return any(
        sum(key(other) < key(before) for other in others) != sum(key(other) < key(after) for other in others)
        for key in (kl_of, bits_of)
    )


# forgeries that move a place


def scaled(values: pd.DataFrame, bins: int, where: pd.Series) -> pd.DataFrame:
    """KL and the loss above the clean one, times 10^(−bins/20), with every histogram moved along."""
    factor = 10.0 ** (-bins / BINS_PER_DECADE)
    where = where & ~values["rung"].isin(["clean", "true", "model"])
    keys = ["split", "document", "window"]
    clean = values.loc[values["rung"] == "clean"].set_index(keys)["loss"]
    base = clean.reindex(pd.MultiIndex.from_frame(values[keys])).to_numpy()
    values.loc[where, "kl"] *= factor
    values.loc[where, "loss"] = (base + (values["loss"] - base) * factor)[where].clip(lower=0)
    values.loc[where, "kl_histogram"] = values.loc[where, "kl_histogram"].map(
        lambda text: shifted(text, bins)
    )
    return values


def shifted(histogram: str, bins: int) -> str:
    """A histogram with every bin lower by so many."""
    counts: dict[int, int] = {}
    for pair in filter(None, histogram.split(";")):
        number, count = map(int, pair.split(":"))
        place = max(number - bins, LOWEST_BIN) if number > LOWEST_BIN else number
        counts[place] = counts.get(place, 0) + count
    return ";".join(f"{number}:{count}" for number, count in sorted(counts.items()))


def better_than(original: Original, of: Ranking, key: Callable[[Record], float]) -> list[Original]:
    own = key(of.record(original))
    return [
        one for one in of.originals if one is not original and 0 < key(read_record(one.path).record) < own
    ]


def lower_kl(original: Original, of: Ranking, chance: random.Random) -> Forged | None:
    """Every KL, or that of the rungs that places are by, below that of a better row."""
    better = better_than(original, of, kl_of)
    if not better:
        return None
    record = of.record(original)
    wanted = kl_of(of.record(chance.choice(better))) / kl_of(record)
    bins = math.floor(-BINS_PER_DECADE * math.log10(wanted)) + 1
    every = chance.random() < 0.5

    def change(values: pd.DataFrame) -> pd.DataFrame:
        return scaled(values, bins, every | values["rung"].isin(["raw", "coded"]))

    return Forged("kl", remade(original, of.board(original), change))


def lower_some(original: Original, of: Ranking, chance: random.Random) -> Forged | None:
    """KL of a quarter of the documents, or a few more, next to nothing: the worst, or any."""
    if not better_than(original, of, kl_of):
        return None
    share, worst = chance.uniform(0.25, 0.6), chance.random() < 0.5

    def change(values: pd.DataFrame) -> pd.DataFrame:
        raw = values.loc[(values["rung"] == "raw") & (values["split"] == "evaluation")]
        names = raw.groupby("document")["kl"].sum().sort_values(ascending=False).index.tolist()
        if not worst:
            chance.shuffle(names)
        chosen = names[: math.ceil(share * len(names))]
        return scaled(values, 40, values["document"].isin(chosen))

    return Forged("kl of some documents", remade(original, of.board(original), change))


def lower_bits(original: Original, of: Ranking, chance: random.Random) -> Forged | None:
    """Bits below those of a cheaper row."""
    better = better_than(original, of, bits_of)
    if not better:
        return None
    record = of.record(original)
    wanted = bits_of(of.record(chance.choice(better))) * chance.uniform(0.5, 0.95)
    number = record.complexity.bits_per_token
    factor = wanted / bits_of(record)
    ends = {
        name: None if (end := getattr(number, name)) is None else end * factor for name in ("low", "high")
    }
    cheap = Number(value=wanted, reason=number.reason, **ends)
    complexity = record.complexity.model_copy(update={"bits_per_token": cheap})

    def change(values: pd.DataFrame) -> pd.DataFrame:
        for name in values.columns:
            if name.startswith("bits"):
                values[name] *= factor
        return values

    return Forged("bits", remade(original, of.board(original), change, complexity=complexity))


def swap(original: Original, of: Ranking, chance: random.Random) -> Forged | None:
    """The values of a better submission."""
    better = better_than(original, of, kl_of)
    if not better:
        return None
    other = read_record(chance.choice(better).path)
    if chance.random() < 0.5:  # with what it cost, and what was fitted
        kept = {"complexity": other.record.complexity, "calibration": other.record.calibration}
    else:
        kept = {}
    return Forged("values of another", remade(original, of.board(original), lambda _: other.values, **kept))


def leave_out(original: Original, of: Ranking, chance: random.Random) -> Forged:
    """The worst documents are not there, or the best stand in their place."""
    count, replaced = chance.randint(3, 20), chance.random() < 0.5

    def change(values: pd.DataFrame) -> pd.DataFrame:
        raw = values.loc[(values["rung"] == "raw") & (values["split"] == "evaluation")]
        names = raw.groupby("document")["kl"].sum().sort_values().index.tolist()
        worst, best = names[-count:], names[:count]
        kept = values.loc[~values["document"].isin(worst)]
        if not replaced:
            return kept.reset_index(drop=True)
        named = dict(zip(best, worst, strict=True))
        again = values.loc[values["document"].isin(best)].assign(
            document=lambda rows: rows["document"].map(named)
        )
        return pd.concat([kept, again], ignore_index=True)

    return Forged("documents left out or exchanged", remade(original, of.board(original), change))


def other_circumstances(original: Original, of: Ranking, chance: random.Random) -> Forged | None:
    """A lower KL, under circumstances in which more would be allowed, or that would make it the newest."""
    better = better_than(original, of, kl_of)
    if not better:
        return None
    record = of.record(original)
    wanted = kl_of(of.record(chance.choice(better))) / kl_of(record)
    bins = math.floor(-BINS_PER_DECADE * math.log10(wanted)) + 1
    measured, told = record.measurement, record.provenance
    kind = chance.choice(["dtype", "device", "time"])
    if kind == "dtype":
        deviation = {"tokens": 12.0, "loss": 1e-3, "kl": 1e-4}
        measured = measured.model_copy(update={"dtype": "bfloat16", "bf16_deviation": deviation})
    elif kind == "device":
        measured = measured.model_copy(update={"device": "cuda", "device_name": "NVIDIA H100"})
    else:
        later = datetime.now(UTC) + timedelta(days=chance.choice([-1.0, 0.01, 2.0, 2000.0]))
        told = told.model_copy(update={"timestamp": later.isoformat(timespec="seconds")})

    def change(values: pd.DataFrame) -> pd.DataFrame:
        return scaled(values, bins, values["rung"] != "clean")

    path = remade(original, of.board(original), change, measurement=measured, provenance=told)
    return Forged(f"kl and {kind}", path)


PLACING: list[Callable[[Original, Ranking, random.Random], Forged | None]] = [
    lower_kl,
    lower_some,
    lower_bits,
    swap,
    leave_out,
    other_circumstances,
]
"""Forgeries that are made to move a place."""


# others


def rename(original: Original, of: Ranking, chance: random.Random) -> Forged:
    """Documents under other names."""
    share = chance.choice([0.05, 0.5, 1.0])

    def change(values: pd.DataFrame) -> pd.DataFrame:
        names = sorted(values["document"].unique())
        chosen = set(chance.sample(names, math.ceil(share * len(names))))
        renamed = values["document"].map(lambda name: f"{name}-x" if name in chosen else name)
        return values.assign(document=renamed)

    return Forged("documents renamed", remade(original, of.board(original), change))


def shuffle(original: Original, of: Ranking, chance: random.Random) -> Forged:
    """The documents' values stand under each other's names; every summary but the intervals stays."""

    def change(values: pd.DataFrame) -> pd.DataFrame:
        names = sorted(values["document"].unique())
        others = names[1:] + names[:1]
        return values.assign(document=values["document"].map(dict(zip(names, others, strict=True))))

    return Forged("documents exchanged", remade(original, of.board(original), change))


def raise_answers(original: Original, of: Ranking, chance: random.Random) -> Forged | None:
    """More tokens whose most likely class is the clean one."""
    stored = read_record(original.path).values
    where = stored["rung"].isin(["raw", "coded", "full"]) & (stored["split"] == "evaluation")
    more = np.minimum(stored["tokens"], stored["top1"] + 3)[where]
    if (more - stored["top1"][where]).sum() < 0.02 * stored["tokens"][where].sum():
        return None  # nearly all are already

    def change(values: pd.DataFrame) -> pd.DataFrame:
        values.loc[where, "top1"] = more
        return values

    return Forged("most likely classes", remade(original, of.board(original), change))


def explain_more(original: Original, of: Ranking, chance: random.Random) -> Forged | None:
    """Less of the variance is left."""
    factor = chance.uniform(0.5, 0.98)

    def change(values: pd.DataFrame) -> pd.DataFrame:
        values["residual_ss"] *= factor
        return values

    return Forged("variance left", remade(original, of.board(original), change))


def one_field(original: Original, of: Ranking, chance: random.Random) -> Forged | None:
    """One field of the JSON."""
    place, value = chance.choice(fields(original.content))
    new = edited(value, chance)
    if canonical_json(new) == canonical_json(value) or place == ("reference",):
        return None
    content = copy.deepcopy(original.content)
    put(content, place, new)
    return Forged("one field", write(seal(content), original.values, of.board(original)), place)


OTHERS: list[Callable[[Original, Ranking, random.Random], Forged | None]] = [
    rename,
    shuffle,
    raise_answers,
    explain_more,
    *[one_field] * 8,
]
"""Forgeries that need not move a place; single fields are the most."""


def forgeries(
    of: Ranking, ways: list[Callable[[Original, Ranking, random.Random], Forged | None]], seed: int
) -> Iterator[tuple[Original, Forged]]:
    """Forgeries without an end, each of a record that was drawn; take them away when they were looked at."""
    chance = random.Random(seed)
    while True:
        original = chance.choice(of.originals)
        made = chance.choice(ways)(original, of, chance)
        if made is not None:
            yield original, made
