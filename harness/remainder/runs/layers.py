"""A chain of sites, coarse-grained from below, with ever fewer sources kept: planned, measured, and kept.

All of it is one file in the folder of results, which a later run finds; it is written once everything is
measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from remainder.base.cache import Progress
from remainder.errors import TaskError
from remainder.interpretation.kept import Shared
from remainder.loading.loaded import LoadedTask
from remainder.loading.site import SiteTask
from remainder.measure.keeping import Sources, look_at_sources
from remainder.measure.layers import LEADING, STEP, Layered, measure_layers, require_order
from remainder.measure.plan import Plan, plan
from remainder.measure.seal import info
from remainder.measure.several_sites import site_model
from remainder.model.device import may_round_to_tf32
from remainder.record.layers import Chain, Layers, LayerShell, LayerSite, numbers_of, statements_of
from remainder.record.layers_file import layers_place, read_layers, write_layers
from remainder.record.provenance import collect_provenance
from remainder.record.schema import TaskInfo
from remainder.runs.flow import keeps_of
from remainder.submission.submission import Entry, SiteEntry

__all__ = ["PlannedLayers", "chain_of", "layers_plan", "measured_layers", "plan_layers", "require_chain"]

_ORDER = "dynamic"
_RATIO = 2.0


class PlannedLayers(NamedTuple):
    """A chain before it is measured."""

    chain: tuple[Layered, ...]
    """Sites in the order of a pass."""
    entries: tuple[Entry, ...]
    plan: Plan
    keeps: tuple[int, ...]
    """Ascending."""


def layers_plan(
    loaded: Sequence[LoadedTask],
    tier: str,
    documents: int | None = None,
    dtype: str | None = None,
    *,
    pairs: int | None = None,
    calibration: int | None = None,
) -> Plan:
    """How much is measured: that of the first site's task.

    Args:
        documents: of the evaluation split; default: all of the tier.
        pairs: antithetic pairs of draws; default: the tier's.
        calibration: windows that statistics are fitted to; default: the tier's.

    Raises:
        TaskError: there is no such tier or dtype, or a number is too small or too large.
    """
    first = loaded[0]
    found = plan(
        first.task,
        tier,
        rungs=("raw", "full"),
        pairs=pairs,
        dtype=dtype,
        documents=documents,
        device=first.device.type,
    )
    if calibration is None:
        return found
    if not 2 <= calibration <= found.calibration_windows:
        raise TaskError(
            f"--calibration {calibration}: tier {tier} of {first.task.id} has {found.calibration_windows} "
            "calibration windows",
            fix=f"give 2 to {found.calibration_windows}",
        )
    return found._replace(calibration_windows=calibration)


def require_chain(loaded: Sequence[LoadedTask], entries: Sequence[Entry]) -> list[SiteTask]:
    """Check that tasks are a chain of sites of one model and text, with an interpretation for each.

    Raises:
        TaskError: there is one site alone, one is named twice, they are not as many as submissions, one has
            no activations at a site, or they are of different models or texts.
    """
    names = [one.task.id for one in loaded]
    if len(loaded) < 2:
        raise TaskError(
            f"{', '.join(names)}: one site has no layer below it",
            fix="name two tasks or more, lowest site first",
        )
    if len(loaded) != len(entries):
        raise TaskError(
            f"{len(loaded)} tasks and {len(entries)} submissions",
            fix="give --with once for every task, in the order of the tasks",
        )
    sites = []
    for one, entry in zip(loaded, entries, strict=True):
        if not isinstance(one, SiteTask):
            raise TaskError(
                f"{one.task.id} has no activations at a site, and layers are chains of such",
                fix="`remainder tasks` lists what there is",
            )
        if not isinstance(entry, SiteEntry):
            raise TaskError(f"{entry.name} rebuilds no activations", fix="name interpretations of the sites")
        sites.append(one)
    hooks = [one.task.site.hook_out for one in sites]
    for place, hook in enumerate(hooks):
        if hook in hooks[:place]:
            raise TaskError(
                f"{names[hooks.index(hook)]} and {names[place]} are both at {hook}", fix="name each site once"
            )
    for one in sites[1:]:
        for what, own, first in (
            ("models", one.model.sha256, sites[0].model.sha256),
            ("texts", one.data.sha256, sites[0].data.sha256),
        ):
            if own != first:
                raise TaskError(
                    f"{names[0]} and {one.task.id} are of different {what}",
                    fix="choose sites of one model, on one text",
                )
    return sites


def plan_layers(
    loaded: Sequence[LoadedTask],
    entries: Sequence[Entry],
    settings: Plan,
    *,
    keeps: Sequence[int] | None = None,
    ratio: float | None = None,
    shells: int | None = None,
    progress: Progress | None = None,
) -> PlannedLayers:
    """The chain, and how many sources are kept.

    Args:
        loaded: tasks, lowest site first.
        entries: an interpretation of each.
        keeps: how many sources are kept at each token and site; default: by `ratio` (2) and `shells`, of the
            largest number that is on at any site, see `runs.flow.keeps_of`.

    Raises:
        TaskError: they are no chain (`require_chain`), sites are not in the order of a pass, or more is to be
            kept than there is.
        InterpretationError: an interpretation has no sources with contributions, or breaks a rule.
    """
    sites = require_chain(loaded, entries)
    _require_order(sites, settings)
    layered = []
    for one, entry in zip(sites, entries, strict=True):
        assert isinstance(entry, SiteEntry)
        sources = look_at_sources(one, entry, settings, _ORDER, progress=progress)
        layered.append(Layered(one, _shared(sources)))
    most = max(one.sources.full for one in layered)
    if keeps is None:
        return PlannedLayers(
            tuple(layered), tuple(entries), settings, keeps_of(most, ratio or _RATIO, shells)
        )
    if beyond := [keep for keep in keeps if not 0 <= keep <= most]:
        raise TaskError(
            f"--keep {beyond[-1]}: at most {most} sources are on at one token and site",
            fix=f"keep 0 to {most} of them",
        )
    return PlannedLayers(tuple(layered), tuple(entries), settings, tuple(sorted(set(keeps))))


def _shared(sources: Sources) -> Sources:
    return replace(sources, adapted=replace(sources.adapted, inner=Shared(sources.adapted.inner)))


def _require_order(sites: Sequence[SiteTask], settings: Plan) -> None:
    """Check the order of the sites in a pass over one window.

    Raises:
        TaskError: they come otherwise, or windows differ.
    """
    windows = [one.windows("evaluation").first(settings.evaluation_windows) for one in sites]
    for one, own in zip(sites[1:], windows[1:], strict=True):
        if own.documents != windows[0].documents:
            raise TaskError(
                f"{sites[0].task.id} and {one.task.id} have different windows of evaluation",
                fix="choose tasks on one text, with the same splits",
            )
    model = site_model(sites, [None] * len(sites), settings.dtype)
    inputs = torch.from_numpy(windows[0].take([0]).inputs).to(sites[0].device)
    require_order([one.task.site.hook_out for one in sites], model, inputs)


def measured_layers(
    planned: PlannedLayers, out: Path, *, fresh: bool = False, progress: Progress | None = None
) -> Layers:
    """Measure a chain, or find it in the folder of results; nothing is written before all is measured.

    Args:
        out: the folder of results.

    Raises:
        RemainderError: it cannot be measured, or the file that is there is damaged.
    """
    chain = chain_of(planned)
    place = layers_place(chain, out)
    if place.is_file() and not fresh:
        found = read_layers(place)
        if [shell.keep for shell in found.shells] == list(planned.keeps):
            return found
    started = time.perf_counter()
    values = measure_layers(planned.chain, planned.keeps, planned.plan, progress=progress)
    first = planned.chain[0].loaded
    layers = Layers(
        chain=chain,
        documents=values.documents,
        tokens=values.tokens,
        clean=values.clean,
        shells=tuple(
            LayerShell(
                keep=keep,
                sums=values.sums[keep],
                fits=values.fits[keep],
                **numbers_of(values.sums[keep], values.tokens, seed=chain.seed)._asdict(),
            )
            for keep in planned.keeps
        ),
        statements=statements_of(
            [values.sums[keep] for keep in planned.keeps], values.tokens, seed=chain.seed
        ),
        provenance=collect_provenance(
            {"measurement": time.perf_counter() - started},
            threads=torch.get_num_threads(),
            tf32=may_round_to_tf32(first.device),
        ),
    )
    write_layers(layers, out)
    return layers


def chain_of(planned: PlannedLayers) -> Chain:
    """The facts of a chain that its file states."""
    first = planned.chain[0].loaded
    return Chain(
        protocol=first.task.protocol,
        sites=tuple(
            LayerSite(
                task=TaskInfo(id=task.id, version=task.version, hash=task.hash),
                submission=info(entry),
                hook=task.site.hook_out,
                width=task.site.width,
                sources=one.sources.full,
            )
            for one, entry in zip(planned.chain, planned.entries, strict=True)
            for task in [one.loaded.task]
        ),
        model=first.model,
        data=first.data,
        tier=planned.plan.tier,
        dtype=planned.plan.dtype,
        order=_ORDER,
        seed=first.task.seed,
        pairs=planned.plan.pairs,
        step=STEP,
        leading=LEADING,
        calibration_windows=planned.plan.calibration_windows,
    )
