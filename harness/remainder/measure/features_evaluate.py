"""How faithful circuits of features are, and how much of the model's answer is left without them.

Over the evaluation prompts of all templates, F being the mean answer (see `circuit.prompts`):

    faithfulness = (F(C) − F(∅)) / (F(M) − F(∅)),    completeness = (F(M∖C) − F(∅)) / (F(M) − F(∅)),

M the untouched model, ∅ the circuit without nodes, M∖C the complement, all with the same background. A
complete circuit leaves nothing outside of it: its completeness is near 0 (Marks et al.'s convention). The
table of values has for every prompt loss and KL as well, sums over its scored positions.

Source: protocol 1, sections 2 and 8; Marks et al., "Sparse feature circuits", 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from remainder.base.cache import Progress
from remainder.circuit.attribution_metric import agreement, answer
from remainder.circuit.feature_scores import THRESHOLDS, at_threshold, score_nodes, seen_prompts
from remainder.circuit.features import FeatureCircuit, FeatureScene, FeatureSite, bits_of
from remainder.errors import InterpretationError, MeasurementError, TaskError
from remainder.interpretation.protocol import Adapted
from remainder.loading.prompts import CircuitTask
from remainder.model.sites import SiteModel
from remainder.record.intervals import Bootstrap, Estimate, Ratio
from remainder.submission.feature_circuits import site_model
from remainder.task.prompts import PADDING, Prompts, first
from remainder.task.spec import Site

__all__ = [
    "Ablation",
    "FeaturePoint",
    "FeatureResult",
    "evaluate_features",
    "feature_metrics",
    "measure_features",
]

_EMPTY, _COMPLEMENT = "∅", "~"
"""The empty circuit, and what stands before the name of a circuit whose complement is run."""


class Ablation(NamedTuple):
    """What removed nodes carry."""

    background: str
    errors: str = "nodes"

    @property
    def name(self) -> str:
        """Of the rung: the background, and what becomes of errors if that is not the circuit's to say."""
        return self.background if self.errors == "nodes" else f"{self.background}+{self.errors}-errors"

    @property
    def draws(self) -> bool:
        """Whether there is anything to draw."""
        return self.errors == "gaussian" or self.background in ("gaussian", "permuted", "noise")


@dataclass(frozen=True)
class FeaturePoint:
    """One circuit with one background."""

    circuit: str
    ablation: str
    nodes: int
    """Kept, of all templates together."""
    of: int
    bits: float
    """log₂ of the number of circuits with as many nodes."""
    answer: Estimate
    """F(C), nats."""
    faithfulness: Estimate
    completeness: Estimate
    gap: Estimate
    """What the loss grows by, nats a scored position."""
    kl: Estimate


@dataclass(frozen=True)
class FeatureResult:
    """All circuits with all backgrounds."""

    answer: Estimate
    """F(M), nats."""
    empty: Mapping[str, Estimate]
    """F(∅) by background."""
    points: tuple[FeaturePoint, ...]


def evaluate_features(
    model: SiteModel,
    sites: Sequence[FeatureSite],
    groups: Sequence[tuple[Prompts, Prompts]],
    circuits: Mapping[str, Mapping[str, FeatureCircuit]],
    *,
    ablations: Sequence[Ablation] = (Ablation("mean"), Ablation("gaussian")),
    pairs: int = 1,
    seed: int = 0,
    rows: int = 16,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> tuple[FeatureResult, pd.DataFrame]:
    """Run circuits of features, their complements and the empty one; gives metrics and per-prompt values.

    Args:
        model: e.g. `BridgeSiteModel` of a task's `circuit_model().bridge`.
        sites: in the order of a pass.
        groups: calibration and evaluation prompts of each template.
        circuits: by name (a threshold, for one), then by template.
        ablations: what removed nodes carry.
        pairs: antithetic pairs of draws, where there is anything to draw.
        seed: of the noise.
        rows: prompts in one pass.

    Raises:
        InterpretationError: a template has no circuit, or one of other sites.
        MeasurementError: a result is not finite.
    """
    for name, by_template in circuits.items():
        lacking = [group.template for _, group in groups if group.template not in by_template]
        if lacking:
            raise InterpretationError(
                f"circuit {name} has none for template {lacking[0]}", fix="give one for every template"
            )
    device = device or torch.device("cpu")
    runs = sum(2 * pairs if one.draws else 1 for one in ablations) * (1 + 2 * len(circuits)) * len(groups)
    table: list[dict[str, Any]] = []
    done = 0
    with torch.no_grad():
        for calibration, evaluation in groups:
            scene = FeatureScene(model, sites, calibration, evaluation, seed, device, rows)
            seen = seen_prompts(evaluation, scene.positions)
            clean = scene.clean()
            table += _rows(seen, "clean", 0, clean, clean)
            for name, circuit in _variants(circuits, evaluation.template):
                for ablation in ablations:
                    for draw in range(2 * pairs if ablation.draws else 1):
                        logits = scene.run(circuit, ablation.background, ablation.errors, draw)
                        table += _rows(seen, f"{ablation.name}@{name}", draw, clean, logits)
                        done += 1
                        if progress is not None:
                            progress("circuits of features", done, runs)
    values = pd.DataFrame(table)
    sizes = {
        name: (sum(c.nodes for c in by.values()), sum(c.of for c in by.values()))
        for name, by in (
            (name, {group.template: by_template[group.template] for _, group in groups})
            for name, by_template in circuits.items()
        )
    }
    return feature_metrics(values, sizes, seed=seed), values


def measure_features(
    loaded: CircuitTask,
    interpretations: Mapping[Site, Adapted],
    *,
    circuits: Mapping[str, Mapping[str, FeatureCircuit]] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    scored_against: str = "mean",
    steps: int = 10,
    fit_prompts: int = 64,
    calibration_prompts: int = 100,
    evaluation_prompts: int = 100,
    ablations: Sequence[Ablation] = (Ablation("mean"), Ablation("gaussian")),
    pairs: int = 1,
    dtype: str = "float32",
) -> tuple[FeatureResult, pd.DataFrame]:
    """Find circuits of features on a task's `fit` prompts, and evaluate them on its `evaluation` prompts.

    Args:
        loaded: a task of prompts whose model is behind TransformerLens' bridge.
        interpretations: by site, in the order of a pass.
        circuits: given ones, by name and template; nothing is found then.
        thresholds: of scores, nats; each gives a circuit.
        scored_against: what nodes are scored against, see `features_scores`; to fit with `ablations`.
        steps: of integrated gradients.
        fit_prompts, calibration_prompts, evaluation_prompts: at most so many, over all templates.
        ablations, pairs: see `evaluate_features`.
        dtype: of the model.

    Raises:
        TaskError: the task's model has no hooks.
        InterpretationError, MeasurementError: as `evaluate_features` and `score_nodes`.
    """
    model = site_model(loaded, dtype)
    sites = [
        FeatureSite(site.hook_in, site.hook_out, interpretation.placed(loaded.device))
        for site, interpretation in interpretations.items()
    ]
    evaluation = first(loaded.prompts("evaluation"), evaluation_prompts)
    calibration = {
        group.template: group for group in first(loaded.prompts("calibration"), calibration_prompts)
    }
    fit = {group.template: group for group in first(loaded.prompts("fit"), fit_prompts)}
    for group in evaluation:
        if group.template not in calibration or (circuits is None and group.template not in fit):
            raise TaskError(
                f"{loaded.task.id}: template {group.template} has prompts of evaluation alone",
                fix="take more prompts of fit and calibration",
            )
    if circuits is None:
        scores = {
            group.template: score_nodes(
                model,
                sites,
                fit[group.template],
                ablation=scored_against,
                steps=steps,
                device=loaded.device,
            )
            for group in evaluation
        }
        circuits = {
            f"{threshold:.3g}": {
                template: at_threshold(found, threshold) for template, found in scores.items()
            }
            for threshold in thresholds
        }
    return evaluate_features(
        model,
        sites,
        [(calibration[group.template], group) for group in evaluation],
        circuits,
        ablations=ablations,
        pairs=pairs,
        seed=loaded.task.seed,
        device=loaded.device,
        progress=loaded.progress,
    )


def _variants(
    circuits: Mapping[str, Mapping[str, FeatureCircuit]], template: str
) -> Iterator[tuple[str, FeatureCircuit]]:
    for place, (name, by_template) in enumerate(circuits.items()):
        circuit = by_template[template]
        if place == 0:
            yield _EMPTY, circuit.empty
        yield name, circuit
        yield _COMPLEMENT + name, circuit.complement


def _rows(prompts: Prompts, rung: str, draw: int, clean: Tensor, logits: Tensor) -> Iterator[dict[str, Any]]:
    """Sums over the scored positions of each prompt."""
    count = int(prompts.scored.sum(1)[0])
    found = {
        "loss": _loss(logits, prompts),
        "kl": -agreement(logits, clean, prompts),
        "answer": answer(logits, clean, prompts),
    }
    columns = {name: (value.double() * count).cpu().numpy() for name, value in found.items()}
    for name, column in columns.items():
        if not np.isfinite(column).all():
            raise MeasurementError(
                f"{rung}: {name} is NaN or infinite", fix="check the background's values; they may be huge"
            )
    for place, document in enumerate(prompts.documents):
        yield {
            "split": "evaluation",
            "document": document,
            "window": 0,
            "rung": rung,
            "draw": draw,
            "tokens": count,
            **{name: float(column[place]) for name, column in columns.items()},
        }


def _loss(logits: Tensor, prompts: Prompts) -> Tensor:
    """−log of the probability of the right tokens together, the mean over scored positions [prompts]."""
    scored = logits[torch.from_numpy(prompts.scored).to(logits.device)].log_softmax(-1)
    right = torch.from_numpy(prompts.correct).to(logits.device).flatten(0, 1)
    chosen = scored.gather(-1, right.clamp_min(0)).masked_fill(right == PADDING, -torch.inf)
    return -chosen.logsumexp(-1).view(len(prompts), -1).mean(1)


def feature_metrics(
    values: pd.DataFrame, sizes: Mapping[str, tuple[int, int]], *, seed: int
) -> FeatureResult:
    """Metrics from the table of values alone.

    Args:
        values: of `evaluate_features`.
        sizes: by circuit, nodes that are kept and nodes that there are.
        seed: of the bootstrap over documents.
    """
    means = values.groupby(["rung", "document"], sort=True)[["tokens", "loss", "kl", "answer"]].mean()
    documents = sorted(values["document"].unique())
    by_rung = {rung: means.loc[rung].loc[documents] for rung in values["rung"].unique()}
    clean = by_rung["clean"]
    tokens = clean["tokens"].to_numpy(dtype=np.float64)
    bootstrap = Bootstrap(len(documents), seed=seed)

    def column(rung: str, name: str) -> NDArray[np.float64]:
        found: NDArray[np.float64] = by_rung[rung][name].to_numpy(dtype=np.float64)
        return found

    def mean(column: NDArray[np.float64]) -> Estimate:
        return bootstrap.estimate(Ratio(column, tokens))

    whole = column("clean", "answer")
    ablations = [rung.removesuffix(f"@{_EMPTY}") for rung in by_rung if rung.endswith(f"@{_EMPTY}")]
    points, empty = [], {}
    for ablation in ablations:
        floor = column(f"{ablation}@{_EMPTY}", "answer")
        empty[ablation] = mean(floor)
        for name, (kept, of) in sizes.items():
            rung, rest = f"{ablation}@{name}", f"{ablation}@{_COMPLEMENT}{name}"
            ratios = (Ratio(column(r, "answer") - floor, whole - floor, guarded=True) for r in (rung, rest))
            faithfulness, completeness = map(bootstrap.estimate, ratios)
            points.append(
                FeaturePoint(
                    name,
                    ablation,
                    kept,
                    of,
                    bits_of(of, kept),
                    mean(column(rung, "answer")),
                    faithfulness,
                    completeness,
                    mean(column(rung, "loss") - column("clean", "loss")),
                    mean(column(rung, "kl")),
                )
            )
    return FeatureResult(mean(whole), empty, tuple(points))
