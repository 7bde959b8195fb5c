"""How much is measured, and how: a tier of a task, with parts of it replaced.

Source: protocol 1, sections 1 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import NamedTuple

from remainder._version import __version__
from remainder.base.messages import whole_number
from remainder.base.resolve import resolve
from remainder.errors import TaskError
from remainder.measure.precision import bfloat16_cost, has_bfloat16_units
from remainder.model.bridge import DTYPES
from remainder.model.device import pick_device
from remainder.record.compat import PEERS
from remainder.record.intervals import MINIMUM_DOCUMENTS
from remainder.record.part import Part, part_of
from remainder.record.rungs import (
    ALL,
    BARE,
    BOARD,
    BOARD_RUNGS,
    CODED,
    COUPLINGS,
    GAUSSIANITY,
    KERNELS,
    NULLS,
    PARTS,
    draws_of,
)
from remainder.record.store import Hashed, measurement_key
from remainder.task.spec import DEMO, Task, Tier

__all__ = ["Plan", "plan"]

_QUICK = "quick"
_DEMO_RUNGS = ("full",)  # beside exact and quantised codes
_NULL = "noise-fitted"  # of the nulls of the Gaussian ratio the one that every table shows
_CHECK = "true"  # a rung that must give back the clean model, which one batch can tell
_LEAST = 2  # documents
_ANNEALED_PAIRS = 8


class Plan(NamedTuple):
    """How much is measured, and how."""

    tier: str
    """The tier, with the number of documents if not all of them are measured: `quick (8 documents)`."""
    rungs: tuple[str, ...]
    pairs: int
    dtype: str
    evaluation_windows: int
    calibration_windows: int
    fit_windows: int
    device: str
    """The type of what it runs on: `cpu` or `cuda`."""
    annealed_pairs: int = 0
    """Pairs of the rungs whose annealed loss is a headline, if more than `pairs`."""
    whole: bool = False
    """Whether couplings, refits and tests of Gaussianity are measured too."""
    compat: bool = False
    """Whether the field's own metrics are measured too."""
    peers: tuple[str, ...] | None = None
    """Peers whose metrics these are; None: all."""
    nulls: tuple[str, ...] = ()
    """Kinds of noise around x whose harm the Gaussian ratio divides by."""
    is_coded: bool = False
    """Whether the ladder is of quantised codes, those whose bits are counted."""
    documents: int | None = None
    """How many of the tier's evaluation documents are measured; None: all."""
    is_lean: bool = False
    """Whether it leaves out what a row of the board has beside its rungs: further points of the curve,
    transform coding, description lengths."""
    notes: tuple[str, ...] = ()
    """Sentences on deviations from the tier, which every record of the plan has among its warnings."""

    @property
    def has_reference(self) -> bool:
        """Whether transform coding is measured beside it, which takes 13 passes, once a task."""
        return self.is_coded and not self.is_lean

    @property
    def is_bare(self) -> bool:
        """Whether nothing but exact codes is spliced in: then nothing is fitted and no bits are counted."""
        return not self.whole and set(self.rungs) <= BARE

    @property
    def needs_codes(self) -> bool:
        """Whether codes of the whole calibration split are looked at."""
        return not self.is_bare or (self.compat and "saebench" in (self.peers or PEERS))

    @property
    def fits(self) -> bool:
        """Whether anything is fitted to the residual."""
        return self.whole or bool(self.nulls) or not set(self.rungs) <= {*BARE, CODED}

    @property
    def describes(self) -> bool:
        """Whether description lengths are measured: where conditional rungs are."""
        return self.fits and self.keeps and not self.is_lean

    @property
    def keeps(self) -> bool:
        """Whether a rung is fitted to all calibration rows, which then have to be kept."""
        return any(KERNELS[rung].keeps for rung in self.rungs if rung in KERNELS)

    @property
    def couples(self) -> bool:
        """Whether amplitudes of source and noise are fitted."""
        return self.whole or bool({*COUPLINGS} & {*self.rungs})

    @property
    def tests_gaussianity(self) -> bool:
        """Whether the residual is tested for Gaussianity."""
        return self.whole or GAUSSIANITY in self.rungs

    @property
    def annealed_draws(self) -> int:
        """Draws of the rungs whose annealed loss is a headline; 0 if there is none."""
        return 2 * self.annealed_pairs

    def draws(self, rung: str) -> int:
        """Number of noise draws for a stochastic rung."""
        return draws_of(rung, self.rungs, self.pairs, self.annealed_pairs, whole=self.whole)

    def of_documents(self, documents: int | None, *notes: str) -> Plan:
        """This plan for the first documents of its tier (None: for all), with further sentences on it.

        Args:
            documents: fewer than the tier has.
        """
        if documents is None:
            return self._replace(notes=(*self.notes, *notes))
        part = Part(self.tier, documents)
        return self._replace(tier=part.name, documents=documents, notes=(*self.notes, part.note, *notes))

    def key(self, task: Task, submission: Hashed, reference: Hashed | None = None) -> str:
        """The measurement key of the record that this plan gives."""
        return measurement_key(
            self,
            protocol=task.protocol,
            tier=self.tier,
            task=task,
            submission=submission,
            reference=reference,
            version=__version__,
        )


def plan(
    task: Task,
    tier: str,
    *,
    rungs: tuple[str, ...] | None = None,
    pairs: int | None = None,
    dtype: str | None = None,
    compat: bool | Sequence[str] = False,
    documents: int | None = None,
    device: str = "auto",
) -> Plan:
    """A tier of a task, with parts of it replaced.

    Args:
        tier: one of the task's, or what `Plan.tier` calls a part of one.
        rungs: names (for circuits, of backgrounds); `board` asks for what every row of the board has, `all`
            for every rung, and where there is a residual for annealed losses, couplings, refits and
            Gaussianity, on a text for `compat` too. Of these `coupled` (couplings) and `gaussianity` may be
            named by themselves. Default: the task's (of tier `demo` only `full`), but `true`, a check, is
            then run on one batch only.
        dtype: default: the tier's; but float32 on a CPU that has no units for bfloat16.
        compat: the field's own metrics: True for those of every peer, or names of peers (`saelens`, …).
        documents: how many of the tier's evaluation documents are measured; default: all.
        device: what it will run on: `auto`, `cpu` or `cuda`.

    Raises:
        TaskError: if there is no such tier, rung, peer, dtype or device, `compat` is asked of a task that is
            no text, or the number of documents is too small.
    """
    if not isinstance(tier, str):
        raise TaskError(f"the tier is {tier!r}", fix='give its name, such as "quick"')
    if documents is not None and not isinstance(documents, Real):
        raise TaskError(f"documents is {documents!r}", fix="give a whole number, or leave it out")
    tier, part = _part(task, tier, documents)
    amount = task.tier(tier)
    ordered, everything = _ordered(task, rungs, _DEMO_RUNGS if tier == DEMO else task.rungs)
    pairs = None if pairs is None else whole_number("pairs", pairs, 1)
    peers = _peers(compat)
    if peers and task.corpus is None:
        raise TaskError(
            f"{task.id} has no text, and the field's metrics (compat) are defined for language models only",
            fix="leave compat out",
        )
    precision, notes = _dtype(dtype, amount, device)
    # Circuits leave no residual at a site, and couplings, Gaussianity and annealed losses are of one.
    whole = everything and task.kind.has_residual
    return Plan(
        tier=tier if part is None else part.name,
        rungs=ordered,
        pairs=pairs or amount.pairs,
        dtype=precision,
        evaluation_windows=amount.evaluation_windows,
        calibration_windows=amount.calibration_windows,
        fit_windows=amount.fit_windows,
        device=pick_device(device).type,
        annealed_pairs=_ANNEALED_PAIRS if whole or {*COUPLINGS} & {*ordered} else 0,
        whole=whole,
        compat=bool(peers) or (whole and task.corpus is not None),
        peers=None if whole or not peers or peers == PEERS else peers,
        nulls=_nulls(tier, ordered, everything=everything),
        is_coded=task.ladder == "coded" and not set(ordered) <= BARE,
        documents=None if part is None or tier == DEMO else part.documents,
        notes=notes if part is None else (*notes, part.note),
    )


def _part(task: Task, tier: str, documents: int | None) -> tuple[str, Part | None]:
    """The tier, and the part of it that is measured if not all: by its name, or by a number beside it.

    The tier `demo` as a whole is named as a part is, so that whatever refuses a part refuses it.
    """
    stated = part_of(tier)
    name = tier if stated is None else stated.tier
    task.tier(name)
    given = task.demo_documents if name == DEMO else None if stated is None else stated.documents
    asked = documents if stated is None or documents is not None else stated.documents
    if None not in (given, asked) and given != asked:
        raise TaskError(
            f"tier {tier!r} is of {given} documents, and {asked} were asked for",
            fix="leave the number of documents out, or name tier quick with a number of documents",
        )
    wanted = asked if given is None else given
    if wanted is None:
        return name, None
    if name != DEMO:
        _check_documents(wanted, task, name)
    return name, Part(name, wanted)


def _ordered(
    task: Task, rungs: tuple[str, ...] | None, default: tuple[str, ...]
) -> tuple[tuple[str, ...], bool]:
    """The rungs in the order of tables, and whether all were asked for."""
    known: Iterable[str] = resolve(task.kind.rungs)
    if task.ladder == "exact":
        known = [rung for rung in known if rung != CODED]
    chosen = rungs or default
    several = _asks(task)
    if BOARD in chosen and BOARD in several:
        board = (rung for rung in BOARD_RUNGS if rung in known)
        chosen = (*(rung for rung in chosen if rung != BOARD), *board)
    parts = PARTS if task.kind.has_residual else ()
    unknown = [rung for rung in chosen if rung not in known and rung != ALL and rung not in parts]
    if unknown:
        names = ", ".join([*several, *known, *parts])
        raise TaskError(f"there is no rung {unknown[0]!r}", fix=f"choose from: {names}")
    everything = ALL in chosen
    # Every other rung is compared with exact and with quantised codes alone; `raw` by itself needs neither.
    beside = {"raw"} if set(chosen) <= BARE else {"raw", CODED}
    # With everything come all nulls, whichever the ladder's rungs are.
    ordered = tuple(
        rung for rung in known if (everything and rung not in NULLS) or rung in {*beside, *chosen}
    )
    if rungs is None:  # one batch tells as much
        ordered = tuple(rung for rung in ordered if rung != _CHECK)
    if everything:  # then they come by themselves
        return ordered, everything
    named = {*chosen, *(COUPLINGS if {*COUPLINGS} & {*chosen} else ())}
    return (*ordered, *(part for part in parts if part in named)), everything


def _asks(task: Task) -> tuple[str, ...]:
    """Names that ask for several rungs."""
    return (BOARD, ALL) if task.kind.has_residual else (ALL,)


def _peers(compat: bool | Sequence[str]) -> tuple[str, ...]:
    """Names of the peers that are asked for, in the order of tables."""
    if isinstance(compat, bool):
        return PEERS if compat else ()
    named = (compat,) if isinstance(compat, str) else tuple(compat)
    for name in named:
        if name not in PEERS:
            raise TaskError(f"compat names {name!r}", fix=f"choose from: {', '.join(PEERS)}; True takes all")
    return tuple(peer for peer in PEERS if peer in named)


def _check_documents(documents: int, task: Task, tier: str) -> None:
    """Raise TaskError unless it is a part of what the tier has, as far as the task's file tells."""
    most = task.tier(tier).evaluation_windows
    if task.splits is not None:
        most = min(most, task.splits.evaluation)
    if not _LEAST <= documents < most or documents % 1:
        some = f"give {_LEAST} to {most - 1} (fewer than {MINIMUM_DOCUMENTS} have no intervals)"
        raise TaskError(
            f"documents is {documents}; tier {tier} of {task.id} has {most}",
            fix=f"{some if most > _LEAST else 'leave it out'}; without a number all are measured",
        )


def _nulls(tier: str, rungs: tuple[str, ...], *, everything: bool) -> tuple[str, ...]:
    """The nulls whose ratios somebody will read: those asked for, in the quick tier its table's, else all.

    None in a first look, whose table has no ratio, and none beside `raw` alone.
    """
    if named := tuple(name for name in NULLS if name in rungs):
        return named
    if not set(rungs) - {"raw", CODED} or (tier == DEMO and not everything):
        return ()
    return (_NULL,) if tier == _QUICK and not everything else tuple(NULLS)


def _dtype(wanted: str | None, amount: Tier, device: str) -> tuple[str, tuple[str, ...]]:
    """The dtype of the suffix pass, and what must be said of it."""
    precision = wanted or amount.dtype
    if precision not in DTYPES:
        raise TaskError(f"there is no dtype {precision!r}", fix=f"choose from: {', '.join(DTYPES)}")
    place = pick_device(device)
    if precision != "bfloat16" or has_bfloat16_units(place):
        return precision, ()
    if wanted is None:
        return "float32", (
            "Measured in float32 instead of bfloat16, for which this CPU has no units; the two agree within "
            "what records of bfloat16 state as their deviation.",
        )
    slower = f"{bfloat16_cost(place):.1f} times as long as in float32"
    return precision, (f"This CPU has no units for bfloat16: a linear layer takes {slower}.",)
