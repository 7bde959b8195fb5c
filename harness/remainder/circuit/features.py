"""Circuits of features: latents of several sparse autoencoders, and their errors, as nodes.

At a site the activation is  x = decode(f) + e,  f = encode(x) and e = x − decode(f). At every position of a
template each latent is a node, and so is the whole error e. In a pass with a circuit, at each site in turn,

    x' = decode(f̃) + ẽ,    f̃_j = f_j of this pass if node j is kept, else its background; ẽ likewise.

So a kept node feels the effects of earlier removals. Backgrounds of a removed node, by name:
- `mean`: its mean over the calibration prompts at its position;
- `mean-counterfactual`: its mean over their counterfactuals (Marks et al.'s "mean ablation over patch
prompts");
- `counterfactual`: its value on the counterfactual of this prompt;
- `permuted`: its value on one calibration prompt, the same one for all nodes;
- `zero`: 0;
- `gaussian`: ε_j = μ_j + (M − 1)^(−1/2) Σ_m w_m (f_jm − μ_j) over M calibration prompts, one w ~ N(0, I) for
  all nodes. With an affine decoder the removed part r = x − b − Σ_kept f_j d_j is thereby drawn from the
  Gaussian with its mean and covariance on calibration, jointly over positions and sites, and no covariance is
  formed;
- `noise`: its clean value on this prompt, and ε_j − μ_j: the denominator of ρ.

Errors are treated separately: as the circuit says (`nodes`), all kept whatever it says (`kept`), or all
removed with the named background (`mean`, `gaussian`). Except for `nodes`, this applies to the empty circuit
and to complements as well.

A transcoder reads one hook and rebuilds another; its skipped part is always that of the current pass.

Source: protocol 1, section 8; Marks et al., "Sparse feature circuits", 2024, and its code, `ablation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.circuit.circuit import bits_of
from remainder.errors import InterpretationError, MeasurementError, TaskError
from remainder.interpretation.protocol import Reconstruction
from remainder.model.sites import Edit, Edits, Entry, SiteModel, entry_of, run_from
from remainder.residual.noise import Draw, NoiseKeys, indices, normal
from remainder.task.prompts import Prompts

__all__ = [
    "BACKGROUNDS",
    "ERRORS",
    "FeatureCircuit",
    "FeatureScene",
    "FeatureSite",
    "NodeValues",
    "map_nodes",
    "positions_of",
    "record_nodes",
]

BACKGROUNDS = ("mean", "mean-counterfactual", "counterfactual", "permuted", "zero", "gaussian", "noise")
ERRORS = ("nodes", "kept", "mean", "gaussian")


class NodeValues(NamedTuple):
    """Latents and error of one site; axes of size one are broadcast over rows or positions."""

    latents: Float[Tensor, "#rows #pos features"]
    error: Float[Tensor, "#rows #pos d"]


@dataclass(frozen=True)
class FeatureSite:
    """A place of the model and its interpretation.

    Args:
        hook_in: hook of the activation that is encoded; differs from `hook_out` for a transcoder only.
        hook_out: hook of the activation that is rebuilt.
        interpretation: encodes and decodes [rows, positions, …]; `Adapted` or any `Reconstruction`.
    """

    hook_in: str
    hook_out: str
    interpretation: Reconstruction

    @property
    def name(self) -> str:
        """The hook that is rebuilt."""
        return self.hook_out

    def split(self, x_in: Float[Tensor, "rows pos d"], x_out: Float[Tensor, "rows pos e"]) -> NodeValues:
        """The nodes of an activation."""
        read = x_out if getattr(self.interpretation, "reads", "in") == "out" else x_in
        latents = self.interpretation.encode(read)
        return NodeValues(latents, x_out - self.rebuild(latents, read))

    def rebuild(
        self, latents: Float[Tensor, "rows pos features"], read: Float[Tensor, "rows pos d"]
    ) -> Float[Tensor, "rows pos e"]:
        """The reconstruction from latents, including the skipped part."""
        decoded = self.interpretation.decode(latents)
        skip: Any = getattr(self.interpretation, "skip", None)
        passed = skip(read) if callable(skip) else None
        return decoded if passed is None else decoded + passed

    def edits(self, change: Any) -> list[tuple[str, Edit]]:
        """Edits at the hooks of this site that replace x_out by `change(read, x_out)`, unless it is None."""
        if self.hook_in == self.hook_out:
            return [(self.hook_out, lambda x: change(x, x))]
        seen: list[Tensor] = []

        def read(x: Tensor) -> None:
            seen[:] = [x]

        def write(x: Tensor) -> Tensor | None:
            if not seen:
                raise TaskError(
                    f"{self.hook_out} comes before {self.hook_in} in a pass", fix="exchange the two hooks"
                )
            reads_out = getattr(self.interpretation, "reads", "in") == "out"
            changed: Tensor | None = change(x if reads_out else seen[0], x)
            return changed

        return [(self.hook_in, read), (self.hook_out, write)]


@dataclass(frozen=True)
class FeatureCircuit:
    """The kept nodes of a template, by site."""

    latents: Mapping[str, Bool[Tensor, "pos features"]]
    errors: Mapping[str, Bool[Tensor, " pos"]]

    @property
    def nodes(self) -> int:
        """Number of kept nodes."""
        return sum(int(part.sum()) for group in (self.latents, self.errors) for part in group.values())

    @property
    def of(self) -> int:
        """Number of all nodes."""
        return sum(part.numel() for group in (self.latents, self.errors) for part in group.values())

    @property
    def bits(self) -> float:
        """log₂ of the number of circuits with as many nodes: the bits it takes to write this one down."""
        return bits_of(self.of, self.nodes)

    @property
    def complement(self) -> FeatureCircuit:
        """The circuit of all nodes that are not kept here."""
        return self._with(torch.logical_not)

    @property
    def empty(self) -> FeatureCircuit:
        """The circuit without nodes."""
        return self._with(torch.zeros_like)

    def _with(self, change: Callable[[Tensor], Tensor]) -> FeatureCircuit:
        groups = (self.latents, self.errors)
        return FeatureCircuit(*({name: change(part) for name, part in group.items()} for group in groups))


def positions_of(prompts: Prompts) -> list[int]:
    """Positions where any prompt is scored."""
    return [int(place) for place in np.flatnonzero(prompts.scored.any(0))]


@dataclass
class FeatureScene:
    """The prompts of one template, ready to be run with any circuit and background.

    Nodes of the calibration prompts are kept once they are asked for, [prompts, positions, features].

    Args:
        model: a model with the hooks of all sites.
        sites: sites in the order of a pass.
        calibration, evaluation: prompts of one template, of one length.
        seed: seed of the noise, which is keyed by document.
        rows: prompts in one pass.
        spared: number of first positions at which all nodes are kept, whatever a circuit says.

    Raises:
        TaskError: if calibration and evaluation prompts differ in length, or two sites share a name.
    """

    model: SiteModel
    sites: Sequence[FeatureSite]
    calibration: Prompts
    evaluation: Prompts
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rows: int = 16
    spared: int = 0

    def __post_init__(self) -> None:
        self._recorded: dict[str, dict[str, NodeValues]] = {}
        self._entries: dict[int, Entry | None] = {}
        names = [site.name for site in self.sites]
        if not names or len(set(names)) < len(names):
            raise TaskError(f"sites are {', '.join(names) or 'none'}", fix="name each hook once")
        if self.calibration.tokens.shape[1] != self.evaluation.tokens.shape[1]:
            raise TaskError(
                f"template {self.evaluation.template}: calibration prompts of "
                f"{self.calibration.tokens.shape[1]} tokens, evaluation prompts of "
                f"{self.evaluation.tokens.shape[1]}",
                fix="give prompts of one template",
            )

    @property
    def features(self) -> dict[str, int]:
        """Number of latents of each site."""
        return {name: values.latents.shape[-1] for name, values in self._bank("calibration").items()}

    def run(
        self, circuit: FeatureCircuit, background: str = "mean", errors: str = "nodes", draw: int = 0
    ) -> Float[Tensor, "prompts seen outputs"]:
        """Outputs of the evaluation prompts, at `positions_of` them, in a pass of the circuit.

        Raises:
            TaskError: if there is no such background.
            InterpretationError: if the circuit is not one of these sites, positions and latents.
        """
        if background not in BACKGROUNDS or errors not in ERRORS:
            raise TaskError(
                f"there is no background {background!r} with errors {errors!r}",
                fix=f"backgrounds: {', '.join(BACKGROUNDS)}; errors: {', '.join(ERRORS)}",
            )
        self._check(circuit)
        parts = []
        for rows in self._portions():
            values = self._values(background, rows, draw)
            if errors in ("mean", "gaussian"):
                instead = self._values(errors, rows, draw)
                values = {name: part._replace(error=instead[name].error) for name, part in values.items()}
            edits: Edits = [
                edit
                for site in self.sites
                for edit in site.edits(_mix(site, circuit, errors, values[site.name], self.spared))
            ]
            tokens = self._tokens(self.evaluation.tokens[rows])
            parts.append(run_from(self.model, self._entry(rows), tokens, edits, self.positions))
        return torch.cat(parts)

    @property
    def positions(self) -> list[int]:
        """Positions where outputs are computed."""
        return positions_of(self.evaluation)

    def clean(self, counterfactual: bool = False) -> Float[Tensor, "prompts seen outputs"]:
        """Outputs of the untouched model on the prompts or on their counterfactuals."""
        tokens = self.evaluation.counterfactual if counterfactual else self.evaluation.tokens
        return torch.cat(
            [self.model.run(self._tokens(tokens[rows]), [], self.positions) for rows in self._portions()]
        )

    def _entry(self, rows: slice) -> Entry | None:
        """The place where passes over some evaluation prompts start: before the first site all are alike."""
        if rows.start not in self._entries:
            hooks = [hook for site in self.sites for hook in (site.hook_in, site.hook_out)]
            tokens = self._tokens(self.evaluation.tokens[rows])
            self._entries[rows.start] = entry_of(self.model, tokens, hooks)
        return self._entries[rows.start]

    def _portions(self) -> list[slice]:
        count = len(self.evaluation)
        return [slice(start, min(start + self.rows, count)) for start in range(0, count, self.rows)]

    def _values(self, background: str, rows: slice, draw: int) -> dict[str, NodeValues]:
        if background == "counterfactual":
            return map_nodes(self._bank("evaluation counterfactual"), lambda part: part[rows])
        bank = self._bank("counterfactual" if background == "mean-counterfactual" else "calibration")
        if background == "zero":
            return map_nodes(bank, lambda part: torch.zeros_like(part[:1, :1]))
        documents = self.evaluation.documents[rows]
        places = NoiseKeys(self.seed, documents, (0,) * len(documents))
        count = len(self.calibration)
        if background == "permuted":
            chosen = indices(places, draw, 1, count, "resample")[:, 0]
            return map_nodes(bank, lambda part: part[chosen.to(part.device)])
        if background not in ("gaussian", "noise"):
            return map_nodes(bank, lambda part: part.mean(0, keepdim=True))
        if count < 2:
            raise MeasurementError(
                f"template {self.calibration.template} has {count} calibration prompts, and a covariance "
                "needs two",
                fix="measure on a larger tier",
            )
        weights = normal(places, Draw(draw), 1, count, "bath")[:, 0]
        # Σ w_m (f_m − μ) = Σ (w_m − w̄) f_m
        weights = (weights - weights.mean(1, keepdim=True)) / math.sqrt(count - 1)
        noise = map_nodes(bank, lambda part: torch.einsum("bm,m...->b...", weights.to(part), part))
        if background == "noise":
            centre = map_nodes(self._bank("evaluation"), lambda part: part[rows])
        else:
            centre = map_nodes(bank, lambda part: part.mean(0))
        return {
            name: NodeValues(centre[name].latents + v.latents, centre[name].error + v.error)
            for name, v in noise.items()
        }

    def _bank(self, which: str) -> dict[str, NodeValues]:
        if which not in self._recorded:
            tokens = {
                "calibration": self.calibration.tokens,
                "counterfactual": self.calibration.counterfactual,
                "evaluation": self.evaluation.tokens,
                "evaluation counterfactual": self.evaluation.counterfactual,
            }[which]
            self._recorded[which] = record_nodes(self.model, self.sites, self._tokens(tokens), self.rows)
        return self._recorded[which]

    def _tokens(self, tokens: np.ndarray) -> Tensor:
        return torch.from_numpy(tokens).to(self.device)

    def _check(self, circuit: FeatureCircuit) -> None:
        positions = self.evaluation.tokens.shape[1]
        expected = {name: (positions, width) for name, width in self.features.items()}
        found = {name: tuple(part.shape) for name, part in circuit.latents.items()}
        lengths = {name: tuple(part.shape) for name, part in circuit.errors.items()}
        if found != expected or lengths != {name: (positions,) for name in expected}:
            raise InterpretationError(
                f"the circuit has latents {found} and errors {lengths} [positions, latents]; template "
                f"{self.evaluation.template} has {expected}",
                fix="give a circuit of these sites and of this template",
            )


@torch.no_grad()
def record_nodes(
    model: SiteModel, sites: Sequence[FeatureSite], tokens: Tensor, rows: int
) -> dict[str, NodeValues]:
    """Nodes of all sites in clean passes over `tokens` [prompts, positions], `rows` at a time."""
    parts: dict[str, list[NodeValues]] = {site.name: [] for site in sites}

    def keep(site: FeatureSite) -> Any:
        def note(read: Tensor, x_out: Tensor) -> None:
            parts[site.name].append(site.split(read, x_out))

        return note

    for some in torch.split(tokens, rows):
        model.run(some, [edit for site in sites for edit in site.edits(keep(site))], [-1])
    return {
        name: NodeValues(torch.cat([v.latents for v in found]), torch.cat([v.error for v in found]))
        for name, found in parts.items()
    }


def map_nodes(bank: Mapping[str, NodeValues], change: Any) -> dict[str, NodeValues]:
    """`change` applied to the latents and errors of every site."""
    return {name: NodeValues(change(part.latents), change(part.error)) for name, part in bank.items()}


def _mix(site: FeatureSite, circuit: FeatureCircuit, errors: str, background: NodeValues, spared: int) -> Any:
    """An edit that keeps some nodes of this pass and takes the others from the background."""
    first = (torch.arange(len(circuit.errors[site.name])) < spared).to(circuit.errors[site.name].device)
    kept = circuit.latents[site.name] | first[:, None]
    kept_errors = {
        "nodes": circuit.errors[site.name],
        "kept": torch.ones_like(circuit.errors[site.name]),
    }.get(errors, torch.zeros_like(circuit.errors[site.name]))[:, None] | first[:, None]

    def change(read: Tensor, x_out: Tensor) -> Tensor:
        now = site.split(read, x_out)
        latents = torch.where(kept.to(read.device), now.latents, background.latents)
        error = torch.where(kept_errors.to(read.device), now.error, background.error)
        return site.rebuild(latents, read) + error

    return change
