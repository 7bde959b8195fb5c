"""A chain of sites, of which those below are coarse-grained: sums over documents, and fits of remainders.

1. On calibration, for every k at once: moments of each site's remainder in the untouched model; then, from
   the second site to the last, of the remainder with x̂ below and with x̂ and noise below, and of what arrives
   from the site below. Noise below has the statistics that were just found (*sequential*).
2. On evaluation: the clean model, each site alone, and all sites up to each, see `record.layers`.
3. J ε is a central difference, (F(b + h ε) − F(b − h ε)) / 2h: two passes for any number of tokens, without a
   graph, and exact where F is linear.

Passes start at the block of the first site, where the model can, since nothing below it is touched.

Source: `record.layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.circuit.features import FeatureSite
from remainder.errors import MeasurementError, TaskError
from remainder.interpretation.kept import Kept
from remainder.loading.site import SiteTask
from remainder.measure.gather import evaluation_part
from remainder.measure.keeping import Sources
from remainder.measure.layers_fit import LEADING, Fitted, fit_of, mean_of, noise_of, spectrum_of
from remainder.measure.layers_sums import Sums, by_window
from remainder.measure.likelihood import likelihood_of
from remainder.measure.plan import Plan
from remainder.measure.several_sites import site_batches, site_model
from remainder.measure.several_sites_fit import FoldMoments, SiteBatch, SiteNoise
from remainder.model.sites import Edit, Entry, SiteModel, activation_from, entry_of, run_from
from remainder.record.layers import LayerSums, SiteFit
from remainder.residual.noise import Draw

__all__ = ["LEADING", "STEP", "LayerValues", "Layered", "Measured", "measure_layers", "require_order"]

STEP = 0.01
"""Share of the noise by which J is taken.

With nothing kept of tiny/wiki, the largest noise, a twentieth takes 1.6 % off the power of J ε, a hundredth a
twenty-fifth of that; float32 rounds it by less than a thousandth.
"""


class Layered(NamedTuple):
    """A site of the chain: its task, and the sources of its interpretation."""

    loaded: SiteTask
    sources: Sources

    def at(self, keep: int) -> FeatureSite:
        """The site with so many sources kept."""
        adapted, site = self.sources.adapted, self.loaded.task.site
        inner = Kept(adapted.inner, self.sources.keeping(keep))
        return FeatureSite(site.hook_in, site.hook_out, replace(adapted, inner=inner))


class LayerValues(NamedTuple):
    """Everything that is measured of a chain, `sums` and `fits` by how many sources are kept."""

    documents: tuple[str, ...]
    tokens: tuple[int, ...]
    clean: tuple[float, ...]
    sums: dict[int, LayerSums]
    fits: dict[int, tuple[SiteFit, ...]]


def measure_layers(
    chain: Sequence[Layered], keeps: Sequence[int], plan: Plan, *, progress: Progress | None = None
) -> LayerValues:
    """Coarse-grain the sites of a chain, one at a time and from below.

    Args:
        chain: in the order of a pass.
        keeps: how many sources are kept at each token and site.
        plan: tier, draws, dtype and windows; those of the first site's task.

    Raises:
        TaskError: sites are of different models or texts, or not in the order of a pass.
        MeasurementError: a value is not finite, or nothing is spliced at a site.
    """
    with torch.no_grad():
        found = Measured(chain, tuple(keeps), plan, progress or silent)
        found.calibrate()
        return found.evaluate()


def require_order(hooks: Sequence[str], model: SiteModel, inputs: Tensor) -> None:
    """Check that hooks come in this order in a pass over these inputs.

    Raises:
        TaskError: they do not.
    """
    reached: list[str] = []

    def noted(hook: str) -> Edit:
        return lambda x: reached.append(hook)

    with torch.no_grad():
        model.run(inputs, [(hook, noted(hook)) for hook in hooks])
    if reached != list(hooks):
        raise TaskError(
            f"in a pass the sites come as {', '.join(reached)}",
            fix="name their tasks in this order, lowest first",
        )


class _Seen(NamedTuple):
    """A site in a pass."""

    x: Tensor
    estimate: Float[Tensor, "docs pos d"]
    """x̂ of it, float64."""


@dataclass
class Measured:
    """A chain while it is measured."""

    chain: Sequence[Layered]
    keeps: tuple[int, ...]
    plan: Plan
    tell: Progress

    def __post_init__(self) -> None:
        self.tasks = [one.loaded for one in self.chain]
        self.model: SiteModel = site_model(
            self.tasks, [one.sources.adapted for one in self.chain], self.plan.dtype
        )
        self.sites = {keep: [one.at(keep) for one in self.chain] for keep in self.keeps}
        self.fitted = {keep: [Fitted() for _ in self.chain] for keep in self.keeps}
        first = self.sites[self.keeps[0]]
        self.hooks = sorted({hook for site in first for hook in (site.hook_in, site.hook_out)})
        self.activations = [FoldMoments() for _ in self.chain]

    # ------------------------------------------------------------------------------------------ calibration

    def calibrate(self) -> None:
        """Moments of all remainders, from below."""
        for batch, entry in self.batches("calibration", "remainders"):
            self.look(batch, entry)
        self.fit_alone()
        for place in range(1, len(self.chain)):
            for batch, entry in self.batches("calibration", f"layer {place + 1} of {len(self.chain)}"):
                self.look_above(batch, entry, place)
            self.fit_above(place)

    def look(self, batch: SiteBatch, entry: Entry | None) -> None:
        """Add the remainders of all sites in the untouched model."""
        untouched = self._untouched(batch, entry)
        for one, moments, at in zip(
            self.sites[self.keeps[0]], self.activations, untouched[self.keeps[0]], strict=True
        ):
            moments.update(batch.places, at.x, batch.spliced[one.name])
        for keep, seen in untouched.items():
            for one, fitted, at in zip(self.sites[keep], self.fitted[keep], seen, strict=True):
                rows = at.x.double() - at.estimate
                fitted.remainder["alone"].update(batch.places, rows, batch.spliced[one.name])

    def fit_alone(self) -> None:
        """Noise of all sites in the untouched model."""
        for keep in self.keeps:
            for one, fitted in zip(self.sites[keep], self.fitted[keep], strict=True):
                fitted.single = noise_of(one.name, fitted.remainder["alone"])
            self.fitted[keep][0].sequential = self.fitted[keep][0].single

    def look_above(self, batch: SiteBatch, entry: Entry | None, place: int) -> None:
        """Add the remainders of a site given those below, and what arrives there."""
        clean = self._seen(batch, entry, self.sites[self.keeps[0]][place], []).x
        for keep in self.keeps:
            self._given_below(batch, entry, keep, place)
            fitted, mask = self.fitted[keep][place], batch.spliced[self.sites[keep][place].name]
            for name, rows in self._arrivals(batch, entry, keep, place, clean, Draw(0)).items():
                fitted.arrival[name].update(batch.places, rows, mask)

    def fit_above(self, place: int) -> None:
        """Noise of a site given those below."""
        for keep in self.keeps:
            fitted = self.fitted[keep][place]
            fitted.sequential = noise_of(self.sites[keep][place].name, fitted.remainder["gaussian"])

    def _given_below(self, batch: SiteBatch, entry: Entry | None, keep: int, place: int) -> None:
        """Remainders at a site with x̂ below, and with x̂ and noise."""
        site, fitted = self.sites[keep][place], self.fitted[keep][place]
        for below, noises in (("raw", None), ("gaussian", self._noises(keep, "sequential"))):
            at = self._seen(batch, entry, site, self._edits(batch, keep, range(place), noises, Draw(0)))
            fitted.remainder[below].update(
                batch.places, at.x.double() - at.estimate, batch.spliced[site.name]
            )

    def _arrivals(
        self, batch: SiteBatch, entry: Entry | None, keep: int, place: int, clean: Tensor, draw: Draw
    ) -> dict[str, Float[Tensor, "docs pos d"]]:
        """Arrivals at a site from the one below it, by name."""
        site, below = self.sites[keep][place], self.sites[keep][place - 1]
        noise = self.fitted[keep][place - 1].single

        def moved(size: float) -> Tensor:
            def put(estimate: Tensor) -> Tensor:
                drawn = noise.sample(batch.places, draw, estimate.shape[1]).to(estimate.device)
                mean = noise.mean.to(estimate.device)
                return estimate + mean + size * (drawn - mean)

            edits = _edits(below, batch, put)
            return activation_from(self.model, entry, batch.inputs, edits, site.hook_out).double()

        base = moved(0.0)
        return {
            "linear": (moved(STEP) - moved(-STEP)) / (2 * STEP),
            "gaussian": moved(1.0) - base,
            "real": clean.double() - base,
        }

    # ------------------------------------------------------------------------------------------- evaluation

    def evaluate(self) -> LayerValues:
        """Sums over the documents of evaluation."""
        sums = Sums(self.keeps, len(self.chain))
        for batch, entry in self.batches("evaluation", "all sites"):
            self.add(batch, entry, sums)
        documents = sums.documents
        return LayerValues(
            documents,
            tuple(int(number) for number in sums.of("tokens")),
            tuple(float(number) for number in sums.of("clean")),
            {keep: sums.of_shell(keep) for keep in self.keeps},
            {keep: self._fits(keep) for keep in self.keeps},
        )

    def add(self, batch: SiteBatch, entry: Entry | None, sums: Sums) -> None:
        """Add one batch of evaluation windows."""
        names, scored = batch.places.documents, batch.scored
        targets = batch.targets[scored]
        likelihood = likelihood_of(targets)
        outputs = run_from(self.model, entry, batch.inputs, [])[scored]
        kept, clean = likelihood.clean(outputs, targets)
        sums.add("tokens", names, by_window(torch.ones_like(clean.loss), scored))
        sums.add("clean", names, by_window(clean.loss, scored))
        draws = [Draw(index) for index in range(2 * self.plan.pairs)]
        untouched = self._untouched(batch, entry)
        for keep in self.keeps:
            squares = partial(self._squares, sums, batch, keep)
            for place, (fitted, at) in enumerate(zip(self.fitted[keep], untouched[keep], strict=True)):
                squares(
                    place, "activation", "", at.x.double() - mean_of(self.activations[place]).to(at.x.device)
                )
                rest = at.x.double() - at.estimate - mean_of(fitted.remainder["alone"]).to(at.x.device)
                squares(place, "remainder", "alone", rest)

            def score(rung: str, edits: list[tuple[str, Edit]], of: int, keep: int = keep) -> None:
                spliced = run_from(self.model, entry, batch.inputs, edits)[scored]
                compared = likelihood.compare(kept, spliced, targets)
                if not (torch.isfinite(compared.loss).all() and torch.isfinite(compared.kl).all()):
                    raise MeasurementError(
                        f"{rung} with {keep} kept: a loss or KL is NaN or infinite",
                        fix="check the reconstructions' scale",
                    )
                parts = {"loss": compared.loss - clean.loss, "kl": compared.kl}
                if compared.answers is not None and clean.answers is not None:
                    parts["top1"] = (compared.answers == clean.answers).to(compared.loss)
                for name, values in parts.items():
                    sums.add((keep, rung, name), names, by_window(values, scored) / of)

            for place in range(len(self.chain)):
                one = range(place, place + 1)
                score(f"raw {place + 1}", self._edits(batch, keep, one, None, Draw(0)), 1)
                for draw in draws:
                    edits = self._edits(batch, keep, one, self._noises(keep, "single"), draw)
                    score(f"full {place + 1}", edits, len(draws))
            for place in range(1, len(self.chain)):
                upto, to = range(place + 1), f"to {place + 1}"
                note = partial(self._remainder, squares, keep, place)
                score(f"raw {to}", self._edits(batch, keep, upto, None, Draw(0), note("raw", 1)), 1)
                for draw in draws:
                    edits = self._edits(batch, keep, upto, self._noises(keep, "single"), draw)
                    score(f"full {to}", edits, len(draws))
                    noises = self._noises(keep, "sequential")
                    noted = note("gaussian", len(draws))
                    score(f"sequential {to}", self._edits(batch, keep, upto, noises, draw, noted), len(draws))
                    arrived = self._arrivals(batch, entry, keep, place, untouched[keep][place].x, draw)
                    for name, rows in arrived.items():
                        squares(place, "arrival", name, rows, len(draws))

    def _remainder(
        self, squares: Callable[..., None], keep: int, place: int, below: str, of: int
    ) -> Callable[[str, Tensor, Tensor], None]:
        """A note of the remainder at one of the sites of a pass."""
        name = self.sites[keep][place].name

        def note(at: str, x: Tensor, estimate: Tensor) -> None:
            if at == name:
                mean = mean_of(self.fitted[keep][place].remainder[below]).to(x.device)
                squares(place, "remainder", below, x.double() - estimate - mean, of)

        return note

    def _squares(
        self,
        sums: Sums,
        batch: SiteBatch,
        keep: int,
        place: int,
        group: str,
        name: str,
        rows: Float[Tensor, "docs pos d"],
        of: int = 1,
    ) -> None:
        """Add sums of squares over spliced tokens, of one of `of` draws."""
        mask = batch.spliced[self.sites[keep][place].name]
        squares = rows[mask].square().sum(-1)
        sums.add((keep, place, group, name), batch.places.documents, by_window(squares, mask) / of)

    # ----------------------------------------------------------------------------------------------- passes

    def batches(self, split: Any, doing: str) -> Iterator[tuple[SiteBatch, Entry | None]]:
        """Windows of a split, and where passes over them can start."""
        windows, chosen = self.plan.calibration_windows, None
        if split == "evaluation":
            windows, chosen = evaluation_part(self.tasks[0], self.plan)
        sites = self.sites[self.keeps[0]]
        done = 0
        for whole in site_batches(self.tasks, sites, split, windows, self.tasks[0].batch_size):
            self.tell(f"{split}: {doing}", done, windows)
            done += len(whole.inputs)
            batch = whole if chosen is None else _part(whole, chosen)
            if len(batch.inputs):
                yield batch, entry_of(self.model, batch.inputs, self.hooks)
        self.tell(f"{split}: {doing}", windows, windows)

    def _untouched(self, batch: SiteBatch, entry: Entry | None) -> dict[int, list[_Seen]]:
        """All sites in the untouched model, by how many sources are kept."""
        reads: dict[str, Tensor] = {}

        def keep_read(hook: str) -> Edit:
            def note(x: Tensor) -> None:
                reads[hook] = x.detach().clone()

            return note

        final = self.sites[self.keeps[0]][-1].hook_out
        edits = [(hook, keep_read(hook)) for hook in self.hooks if hook != final]
        reads[final] = activation_from(self.model, entry, batch.inputs, edits, final)
        if missing := [hook for hook in self.hooks if hook not in reads]:
            raise TaskError(
                f"in a pass {missing[0]} comes after {final}",
                fix="name the tasks in the order of their sites",
            )
        return {
            keep: [_look(site, reads[site.hook_in], reads[site.hook_out]) for site in sites]
            for keep, sites in self.sites.items()
        }

    def _seen(
        self, batch: SiteBatch, entry: Entry | None, site: FeatureSite, edits: list[tuple[str, Edit]]
    ) -> _Seen:
        """A site in a pass with edits below it."""
        read: list[Tensor] = []
        if site.hook_in != site.hook_out:
            edits = [*edits, (site.hook_in, read.append)]
        x = activation_from(self.model, entry, batch.inputs, edits, site.hook_out)
        return _look(site, read[0] if read else x, x)

    def _noises(self, keep: int, rule: str) -> list[SiteNoise]:
        """Noise of each site whose statistics are known by now."""
        return [getattr(fitted, rule) for fitted in self.fitted[keep] if hasattr(fitted, rule)]

    def _edits(
        self,
        batch: SiteBatch,
        keep: int,
        places: range,
        noises: Sequence[SiteNoise] | None,
        draw: Draw,
        note: Callable[[str, Tensor, Tensor], None] | None = None,
    ) -> list[tuple[str, Edit]]:
        """Splices of some of the sites.

        Args:
            noises: of each site; None: raw.
            note: told the hook, activation and reconstruction of each.
        """

        def put(place: int, estimate: Tensor) -> Tensor:
            if noises is None:
                return estimate
            drawn = noises[place].sample(batch.places, draw, estimate.shape[1])
            return estimate + drawn.to(estimate.device)

        return [
            edit
            for place in places
            for edit in _edits(self.sites[keep][place], batch, partial(put, place), note)
        ]

    # ----------------------------------------------------------------------------------------------- fits

    def _fits(self, keep: int) -> tuple[SiteFit, ...]:
        """Covariances on calibration, in a few numbers."""
        first, *others = self.fitted[keep]
        return SiteFit(alone=spectrum_of(first.remainder["alone"])), *(map(fit_of, others))


def _part(batch: SiteBatch, documents: frozenset[str]) -> SiteBatch:
    """The windows of some documents."""
    rows = [row for row, name in enumerate(batch.places.documents) if name in documents]
    places = batch.places
    return SiteBatch(
        batch.inputs[rows],
        batch.targets[rows],
        places._replace(
            documents=tuple(places.documents[row] for row in rows),
            windows=tuple(places.windows[row] for row in rows),
        ),
        {name: mask[rows] for name, mask in batch.spliced.items()},
        batch.scored[rows],
    )


def _look(site: FeatureSite, x_in: Tensor, x: Tensor) -> _Seen:
    """A site whose hooks have these activations."""
    read = x if getattr(site.interpretation, "reads", "in") == "out" else x_in
    return _Seen(x, site.rebuild(site.interpretation.encode(read), read).double())


def _edits(
    site: FeatureSite,
    batch: SiteBatch,
    put: Callable[[Tensor], Tensor],
    note: Callable[[str, Tensor, Tensor], None] | None = None,
) -> list[tuple[str, Edit]]:
    """Edits that replace a site at its spliced positions by what `put` makes of x̂."""

    def splice(read: Tensor, x: Tensor) -> Tensor:
        estimate = site.rebuild(site.interpretation.encode(read), read).double()
        if note is not None:
            note(site.name, x, estimate)
        return torch.where(batch.spliced[site.name][..., None], put(estimate), x.double()).to(x.dtype)

    return site.edits(splice)
