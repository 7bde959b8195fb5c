"""Backgrounds: the values that removed edges carry.

| background | value of a removed writer |
|---|---|
| `counterfactual` | its value on the counterfactual prompt |
| `zero` | 0 |
| `mean` | its mean over calibration prompts and positions |
| `raw` | its mean over calibration prompts at each position of the template |
| `permuted` | its value on one calibration prompt of the template, the same one for all writers |
| `full` | a Gaussian surrogate: mean and joint covariance of all writers and positions on calibration |
| `noise-fitted` | its clean value plus the Gaussian's noise: the denominator of ρ |
| `optimal-constant` | the constant with the lowest loss on calibration (see `circuit.constants`) |

The covariance over all writers is never formed. With M calibration prompts of the template, whose values are
u_m, the surrogate is  μ + (M − 1)^(−1/2) Σ_m w_m (u_m − μ),  w ~ N(0, I_M): exactly the sample's mean and
covariance, of rank M − 1 at most.

*Shared* baths use one w for all writers, so that all removed edges of a writer carry the same surrogate.
*Independent* baths draw w anew for every reader. Statistics are
- single-shot: those of the clean model;
- sequential: those of the model whose earlier stages are already coarse-grained; the calibration prompts go
  through the same pass;
- counterterm: chosen such that a reader's input, kept edges plus bath, has the mean and covariance of the
  clean model, with the bath independent of the kept part. Directions in which the kept part varies more than
  that get no noise (projection to positive semidefinite matrices).

Source: protocol 1, sections 4 and 8; Li & Janson, "Optimal ablation for interpretability", 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from remainder.circuit.circuit import Circuit
from remainder.circuit.run import (
    BUDGET,
    ReaderBath,
    Values,
    WriterBath,
    record,
    record_streams,
    rows_within,
    run_circuit,
)
from remainder.model.architecture import Stage
from remainder.model.graph import CircuitModel
from remainder.residual.noise import Draw, NoiseKeys, indices, normal
from remainder.task.prompts import Prompts

__all__ = ["BACKGROUNDS", "Background", "Scene", "mean_values"]

_ROWS = 16


@dataclass(frozen=True)
class Background:
    """A way to fill removed edges."""

    kind: str
    baths: str = "shared"
    """`shared` or `independent`, for the Gaussian only."""
    statistics: str = "single-shot"
    """`single-shot`, `sequential` or `counterterm`, for the Gaussian only."""

    @property
    def draws(self) -> bool:
        """Whether the background is random."""
        return self.kind in ("full", "noise-fitted", "permuted")


BACKGROUNDS: Mapping[str, Background] = {
    "raw": Background("raw"),
    "zero": Background("zero"),
    "mean": Background("mean"),
    "counterfactual": Background("counterfactual"),
    "permuted": Background("permuted"),
    "full": Background("full"),
    "full-independent": Background("full", "independent"),
    "full-sequential": Background("full", statistics="sequential"),
    "full-sequential-independent": Background("full", "independent", "sequential"),
    "full-counterterm": Background("full", statistics="counterterm"),
    "full-counterterm-independent": Background("full", "independent", "counterterm"),
    "noise-fitted": Background("noise-fitted"),
    "optimal-constant": Background("optimal-constant"),
}
"""Backgrounds by the names of their rungs."""


@dataclass
class Scene:
    """The prompts of one template, ready to be run with any circuit and background.

    Values of the calibration prompts, and of the counterfactual and clean prompts once they are asked for,
    are kept (heads as z). No other memory depends on the number of prompts.

    Args:
        model: a model with its graph.
        calibration, evaluation: prompts of one template, of one length.
        seed: seed of the noise, which is keyed by document.
        means: values of `mean` by stage [1, 1, writers, size], over all templates; default: over this one.
        budget: bytes that the values of single writers may take in a pass.
        rows: rows of a pass, relative to the default: half as many halve the passes.
    """

    model: CircuitModel
    calibration: Prompts
    evaluation: Prompts
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    means: Values | None = None
    budget: int = BUDGET
    rows: int = _ROWS

    def __post_init__(self) -> None:
        self._bank: dict[str, Tensor] | None = None
        self._streams: dict[str, Tensor] | None = None
        self._recorded: dict[str, tuple[dict[str, Tensor], Tensor]] = {}
        self._whole: Tensor | None = None
        """Logits in a pass in which nothing is removed."""

    @property
    def counterfactual_logits(self) -> Float[Tensor, "prompts seen vocabulary"]:
        """Logits of the counterfactual prompts at `positions`."""
        return self._of("counterfactual")[1]

    @property
    def positions(self) -> list[int]:
        """Positions where any prompt of the template is scored; logits are computed only there."""
        return [int(place) for place in np.flatnonzero(self.evaluation.scored.any(0))]

    @property
    def bank(self) -> dict[str, Tensor]:
        """Clean values of the calibration prompts, [M, positions, writers, size] by stage."""
        if self._bank is None:
            self._bank, _ = self._record(self.calibration.tokens)
        return self._bank

    @property
    def clean_logits(self) -> Float[Tensor, "prompts seen vocabulary"]:
        """Logits of the evaluation prompts at `positions`."""
        return self._of("tokens")[1]

    def run(
        self,
        circuit: Circuit,
        background: Background,
        draw: int = 0,
        *,
        constants: Values | None = None,
    ) -> Float[Tensor, "prompts seen vocabulary"]:
        """Logits of the evaluation prompts at `positions`, in a pass of the circuit.

        Where nothing is removed no background is seen: the first such pass stands for all.
        """
        if circuit.edges < circuit.graph.edges:
            return self._run(circuit, background, draw, constants)
        if self._whole is None:
            self._whole = self._run(circuit, background, draw, constants)
        return self._whole

    def _run(
        self, circuit: Circuit, background: Background, draw: int, constants: Values | None
    ) -> Float[Tensor, "prompts seen vocabulary"]:
        beside = background.statistics != "single-shot" or background.baths == "independent"
        ahead = len(self.calibration) if beside else 0
        positions = self.evaluation.tokens.shape[1]
        most = max(rows_within(circuit, positions, budget=self.budget) - ahead, 8)
        # Fewer rows than the default are asked for where memory ran out: then every pass must be smaller.
        size = max(min(most, len(self.evaluation)) * min(self.rows, _ROWS) // _ROWS, 1)
        parts = []
        for start in range(0, len(self.evaluation), size):
            rows = slice(start, min(start + size, len(self.evaluation)))
            bath = self._bath(background, Draw(draw), rows, constants)
            tokens = torch.from_numpy(self.evaluation.tokens[rows])
            if beside:
                tokens = torch.cat([torch.from_numpy(self.calibration.tokens), tokens])
            clean = ahead if background.statistics == "single-shot" else 0
            logits = run_circuit(
                self.model,
                circuit,
                tokens.to(self.device),
                bath,
                clean_rows=clean,
                positions=self.positions,
            )
            parts.append(logits[ahead:])
        return torch.cat(parts)

    def _bath(
        self, background: Background, draw: Draw, rows: slice, constants: Values | None
    ) -> WriterBath | ReaderBath | Values:
        kind = background.kind
        if kind == "counterfactual":
            return {name: value[rows] for name, value in self._of("counterfactual")[0].items()}
        if kind == "zero":
            return {name: torch.zeros_like(value[:1, :1]) for name, value in self.bank.items()}
        if kind == "mean":
            given = self.means or {name: v.mean((0, 1), keepdim=True) for name, v in self.bank.items()}
            return given
        if kind == "raw":
            return {name: value.mean(0, keepdim=True) for name, value in self.bank.items()}
        if kind == "permuted":
            chosen = indices(self._places(rows), draw.index, 1, len(self.calibration), "resample")[:, 0]
            return {name: value[chosen.to(value.device)] for name, value in self.bank.items()}
        if kind == "optimal-constant":
            assert constants is not None
            return constants
        if kind == "noise-fitted":
            clean = self._of("tokens")[0]
            weights = self._weights(self._places(rows), draw)
            return _Noisy({name: value[rows] for name, value in clean.items()}, self.bank, weights)
        return self._gaussian(background, draw, rows)

    def _gaussian(self, background: Background, draw: Draw, rows: slice) -> WriterBath | ReaderBath:
        if background.baths == "shared" and background.statistics == "single-shot":
            return _Shared(self._weights(self._places(rows), draw), self.bank)
        places = self._keyed(self.calibration.documents + self.evaluation.documents[rows])
        count = len(self.calibration)
        if background.statistics == "counterterm":
            if self._streams is None:
                self._streams = record_streams(self.model, self._tokens(self.calibration.tokens))
            return _Counterterm(self._streams, places, draw, background.baths == "independent", count)
        if background.baths == "independent":
            return _Independent(places, draw, count)
        return _Shared(self._weights(places, draw))

    def _weights(self, places: NoiseKeys, draw: Draw) -> Float[Tensor, "rows bank"]:
        return normal(places, draw, 1, len(self.calibration), "bath")[:, 0].float()

    def _places(self, rows: slice) -> NoiseKeys:
        return self._keyed(self.evaluation.documents[rows])

    def _keyed(self, documents: tuple[str, ...]) -> NoiseKeys:
        return NoiseKeys(self.seed, documents, (0,) * len(documents))

    def _tokens(self, tokens: object) -> Tensor:
        return torch.as_tensor(tokens).to(self.device)

    def _of(self, which: str) -> tuple[dict[str, Tensor], Tensor]:
        if which not in self._recorded:
            self._recorded[which] = self._record(getattr(self.evaluation, which))
        return self._recorded[which]

    def _record(self, tokens: object) -> tuple[dict[str, Tensor], Tensor]:
        """Clean values and logits, recorded in portions so that no pass is larger than those of circuits."""
        portions = torch.split(self._tokens(tokens), 2 * min(self.rows, _ROWS))
        rows = [record(self.model, part, self.positions) for part in portions]
        values = {name: torch.cat([part[name] for part, _ in rows]) for name in rows[0][0]}
        return values, torch.cat([logits for _, logits in rows])


def mean_values(scenes: list[Scene]) -> Values:
    """Mean of every writer over calibration prompts and positions of all templates, [1, 1, writers, size]."""
    count = sum(scene.calibration.tokens.size for scene in scenes)
    return {
        name: torch.stack([scene.bank[name].sum((0, 1), keepdim=True) for scene in scenes]).sum(0) / count
        for name in scenes[0].bank
    }


def _surrogate(
    bank: Float[Tensor, "bank pos writers size"], weights: Float[Tensor, "rows bank"]
) -> Float[Tensor, "rows pos writers size"]:
    """Centred samples from a bank without a covariance matrix: (M − 1)^(−1/2) Σ_m w_m (u_m − μ)."""
    weights = weights.to(bank)
    # Σ w_m (u_m − μ) = Σ (w_m − w̄) u_m
    centred = (weights - weights.mean(1, keepdim=True)) / max(len(bank) - 1, 1) ** 0.5
    samples: Tensor = (centred @ bank.reshape(len(bank), -1)).view(len(weights), *bank.shape[1:])
    return samples


class _Shared:
    """The Gaussian of a bank, with one surrogate per writer.

    Without a bank it is that of the calibration rows, which come first in the batch, in this very pass.
    """

    def __init__(self, weights: Tensor, bank: Values | None = None) -> None:
        self.weights, self.bank = weights, bank
        self.reads_pass = bank is None

    def values(self, stage: Stage, now: Tensor) -> Tensor:
        bank = now[: self.weights.shape[1]] if self.bank is None else self.bank[stage.name]
        return bank.mean(0, keepdim=True) + _surrogate(bank, self.weights)


class _Noisy:
    """Clean values plus the Gaussian's noise."""

    reads_pass = False

    def __init__(self, clean: Values, bank: Values, weights: Tensor) -> None:
        self.clean, self.bank, self.weights = clean, bank, weights

    def values(self, stage: Stage, now: Tensor) -> Tensor:
        return self.clean[stage.name] + _surrogate(self.bank[stage.name], self.weights)


class _Independent:
    """The Gaussian of each reader's removed sum on the calibration rows, drawn anew for every reader."""

    def __init__(self, places: NoiseKeys, draw: Draw, count: int) -> None:
        self.places, self.draw, self.count = places, draw, count

    def inputs(self, stage: Stage, kept: Tensor, written: Tensor, stream: Tensor) -> Tensor:
        weights = _by_reader(self.places, self.draw, stage, self.count)
        removed = written[: self.count] - kept[:, : self.count]
        return torch.stack(
            [
                bank.mean(0, keepdim=True) + _surrogate(bank[:, :, None], weights[r])[:, :, 0]
                for r, bank in enumerate(removed)
            ]
        )


class _Counterterm:
    """The part missing from each reader's clean mean and covariance."""

    def __init__(self, clean: Values, places: NoiseKeys, draw: Draw, independent: bool, count: int) -> None:
        self.clean, self.places, self.draw = clean, places, draw
        self.independent, self.count = independent, count

    def inputs(self, stage: Stage, kept: Tensor, written: Tensor, stream: Tensor) -> Tensor:
        constant = (stream - written)[: self.count]
        wanted = self.clean[stage.name]
        width = 2 * self.count
        if self.independent:
            weights = _by_reader(self.places, self.draw, stage, width)
        else:
            one = normal(self.places, self.draw, 1, width, "counterterm")[:, 0].float()
            weights = one.expand(len(kept), -1, -1)
        inputs = []
        for reader, part in enumerate(kept):
            have = part[: self.count] + constant
            mean = wanted.mean(0) - have.mean(0)
            factor = _missing_factor(wanted - wanted.mean(0), have - have.mean(0))
            noise = torch.einsum("pdf,bf->bpd", factor, weights[reader][:, : factor.shape[-1]].to(factor))
            inputs.append(mean + noise)
        return torch.stack(inputs)


def _missing_factor(
    wanted: Float[Tensor, "bank pos d"], have: Float[Tensor, "bank pos d"]
) -> Float[Tensor, "pos d rank"]:
    """The factor F with F Fᵀ = the positive part of Cov(wanted) − Cov(have), at each position.

    Both covariances lie in the span of the 2M centred rows, so eigenvalues are taken there.
    """
    # In float32, `eigh` may fail to converge on nearly constant values.
    stacked = torch.cat([wanted, have]).permute(1, 2, 0).double()
    basis, triangle = torch.linalg.qr(stacked)
    signs = torch.cat([torch.ones(len(wanted)), -torch.ones(len(have))]).to(stacked)
    inner = (triangle * (signs / max(len(wanted) - 1, 1))) @ triangle.transpose(-1, -2)
    values, vectors = torch.linalg.eigh((inner + inner.transpose(-1, -2)) / 2)
    factor: Tensor = basis @ (vectors * values.clamp_min(0).sqrt()[:, None])
    return factor.to(wanted.dtype)


def _by_reader(
    places: NoiseKeys, draw: Draw, stage: Stage, width: int
) -> Float[Tensor, "readers rows width"]:
    readers = stage.readers.stop - stage.readers.start
    return normal(places, draw, readers, width, f"bath {stage.name}").permute(1, 0, 2).float()
