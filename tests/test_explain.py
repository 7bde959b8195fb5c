"""The ladder of a record in words: it fits, adds up, and says nothing that the intervals do not."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from tests.synthetic_records import fake_hash, synthetic_record
from tests.synthetic_values import histogram

from remainder import cli
from remainder.errors import RecordError
from remainder.explain import NOISELESS, explain, ladder, rung_frame
from remainder.record import write_record
from remainder.report import FORMATS
from remainder.residual.ladder import RUNGS
from remainder.rungs import RUNG_ADDS
from remainder.schema import (
    Calibration,
    Check,
    DirectionTests,
    Gaussianity,
    Measurement,
    NullTest,
    Number,
    RadiusHistogram,
    Record,
    SubmissionInfo,
    Telescope,
)

HARNESS = Path(cli.__file__).parent.parent
RECORD = 7

GAPS = {
    "raw": 0.35,
    "mean": 0.33,
    "isotropic": 0.9,
    "diagonal": 0.8,
    "full": 0.57,
    "full-unshrunk": 0.58,
    "linear-mean": 0.30,
    "linear": 0.52,
    "temporal": 0.56,
    "radial": 0.55,
    "perturbative-32": 0.585,
    "perturbative-8": 0.59,
    "perturbative-4": 0.60,
    "perturbative-2": 0.615,
    "permuted": 0.64,
    "permuted-block": 0.60,
    "matched": 0.45,
    "true": 0.0,
    "coupled": 0.41,
    "full-fold-0": 0.58,
    "full-fold-1": 0.56,
    "full-fold-2": 0.59,
    "noise-fitted": 0.12,
    "noise-directional": 0.10,
    "noise-isotropic": 0.05,
}
"""Each rung's mean gap, nats per token."""
INDEPENDENT = ("perturbative", "permuted", "matched")
GRID = [*((alpha, 1.0) for alpha in (0.25, 0.5, 0.75, 1.0, 1.25)), (1.0, 0.9), (1.0, 1.1), (0.5, 1.1)]


def ladder_values(
    gaps: dict[str, float], *, grid: bool = True, draws: int = 4, spread: float = 0.1, seed: int = 0
) -> pd.DataFrame:
    """Per-document values of any rungs with any gaps, as a run over the whole ladder writes them."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []

    def add(split: str, document: int, rung: str, draw: int, tokens: int, loss: float, **more: Any) -> None:
        row = {"split": split, "document": f"{split}-{document}", "window": 0, "rung": rung, "draw": draw}
        row |= {
            "tokens": tokens,
            "loss": loss,
            "kl": 0.0,
            "top1": tokens,
            "kl_histogram": "",
            "annealed": None,
        }
        rows.append(row | dict.fromkeys(("residual_ss", "centred_ss", "active", "spliced")) | more)

    for document in range(12):
        tokens = int(generator.integers(90, 127))
        clean = float(generator.lognormal(1.0, 0.3)) * tokens
        add("evaluation", document, "clean", 0, tokens, clean)
        shared = generator.normal(0, spread)
        for rung, gap in gaps.items():
            count = 1 if rung in NOISELESS else draws
            unit = 1 if rung.startswith(INDEPENDENT) else 2
            for draw in range(count):
                kl = (0.02 + abs(gap)) * generator.lognormal(-0.125, 0.5, tokens)
                loss = clean + tokens * gap * (1 + shared + generator.normal(0, spread / 4))
                more: dict[str, Any] = {"kl": float(kl.sum()), "kl_histogram": histogram(kl)}
                if count > 1 and draw + 1 >= 2 * unit and (draw + 1) % unit == 0:
                    more["annealed"] = loss - tokens * 0.3 * abs(gap)
                if rung == "raw":
                    more |= {"residual_ss": 0.2 * tokens, "centred_ss": 1.0 * tokens + document}
                    more |= {"active": 32 * tokens, "spliced": tokens}
                add("evaluation", document, rung, draw, tokens, loss, **more)
    for document in range(8 if grid else 0):
        tokens = int(generator.integers(90, 127))
        clean = float(generator.lognormal(1.0, 0.3)) * tokens
        add("calibration", document, "clean", 0, tokens, clean)
        for alpha, beta in GRID:
            gap = 0.35 + 0.25 * alpha**2 + generator.normal(0, 0.01)
            annealed = 0.30 + 0.2 * (alpha - 0.66) ** 2 + (beta - 1.01) ** 2 + generator.normal(0, 0.004)
            for draw in range(2):
                loss = clean + tokens * gap
                more = {"annealed": clean + tokens * annealed} if draw == 1 else {}
                add("calibration", document, f"coupled:{alpha:g}:{beta:g}", draw, tokens, loss, **more)
    return pd.DataFrame(rows)


def gaussianity() -> Gaussianity:
    """Of a residual with a spread of scales in 576 dimensions."""
    generator = np.random.default_rng(0)
    radii = np.sqrt(generator.chisquare(576, 4000)) * generator.lognormal(0, 0.18, 4000)
    counts, edges = np.histogram(radii, np.linspace(12, radii.max() * 1.25, 61))
    tests = DirectionTests(
        directions=16,
        skewness=NullTest(value=0.62, null_low=0.0, null_high=0.11),
        kurtosis=NullTest(value=4.1, null_low=0.0, null_high=0.25),
        negentropy=NullTest(value=0.0004, null_low=0.0, null_high=0.0006),
    )
    return Gaussianity(
        rank=576,
        surrogates=60,
        radial_kurtosis=NullTest(value=0.141, null_low=-0.0021, null_high=0.0034),
        directions={"loss gradients": tests, "decoder": tests},
        maximum_kurtosis=NullTest(value=11.3, null_low=-0.14, null_high=0.17),
        radial_gain=Number(value=0.0123, low=0.011, high=0.0141),
        linear_gain=Number(value=0.061, low=0.055, high=0.066),
        radii=RadiusHistogram(
            edges=tuple(float(edge) for edge in edges), counts=tuple(int(count) for count in counts)
        ),
    )


def full_record(gaps: dict[str, float] | None = None, *, name: str = "topk-sae-32", **changes: Any) -> Record:
    """A record that holds every optional part; `changes` replace its fields."""
    gaps = GAPS if gaps is None else gaps
    rungs = tuple(rung for rung in RUNG_ADDS if rung in gaps)
    measurement = Measurement(
        rungs=rungs, pairs=2, annealed_draws=4, seed=0, dtype="float32", suffix="suffix", device="cpu"
    )
    calibration = Calibration(
        documents=40,
        tokens=5000,
        dimension=576,
        shrinkage=0.0412,
        oas=0.0177,
        held_out_mahalanobis=1.07,
        rank=576,
        bank_rows=4096,
        cells=64,
        cells_explained=0.137,
    )
    record = synthetic_record(
        ladder_values(gaps),
        name=name,
        measurement=measurement,
        calibration=calibration,
        warnings=["few calibration tokens: 5,000 for 576 dimensions, where at least 2,880 are wanted"],
    )
    metrics = record.metrics.model_copy(update={"gaussianity": gaussianity()})
    return record.model_copy(update={"metrics": metrics} | changes)
