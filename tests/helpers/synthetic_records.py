"""Records of the made-up values, for tests of everything that reads records."""

from __future__ import annotations

import hashlib
from typing import Any

import pandas as pd
from synthetic_values import CODED_STEPS, REFERENCE_STEPS

from remainder.record.number import Number
from remainder.record.schema import (
    CalibrationInfo,
    Check,
    CodingInfo,
    Complexity,
    Measurement,
    MethodInfo,
    Pinned,
    Provenance,
    Record,
    SubmissionInfo,
    TaskInfo,
)
from remainder.record.store import make_record
from remainder.task.spec import PROTOCOL


def fake_hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def synthetic_record(
    values: pd.DataFrame, *, name: str = "pca-32", bits: float = 180.0, **changes: Any
) -> Record:
    """A record of `values`, coded if they are (`with_coding`); `changes` are arguments of `make_record`."""
    coded = "bits" in values
    arguments: dict[str, Any] = {
        "protocol": PROTOCOL,
        "task": TaskInfo(id="family/task", version="1-0", hash=fake_hash("task")),
        "submission": SubmissionInfo(
            name=name,
            kind="reconstruction",
            files={"submission.toml": fake_hash(name)},
            hash=fake_hash(name),
            method=MethodInfo(format=None),
        ),
        "tier": "quick",
        "model": Pinned(source="org/model", revision="abc", sha256=fake_hash("model")),
        "corpus": Pinned(source="org/corpus", sha256=fake_hash("corpus")),
        "complexity": Complexity(
            live_features=Number.bare(500, "a count"),
            bits_per_token=Number.bare(bits, "one pass"),
            features=512,
            coding=synthetic_coding(values) if coded else None,
        ),
        "checks": {"true_equals_clean": Check(passed=True, value=1e-6, limit=1e-4)},
        "calibration": CalibrationInfo(documents=40, tokens=5000, dimension=576, shrinkage=0.04),
        "measurement": Measurement(
            rungs=("raw", *(["coded"] if coded else []), "mean", "full", "permuted"),
            pairs=1,
            seed=0,
            dtype="float32",
            suffix="suffix",
            device="cpu",
        ),
        "provenance": Provenance(
            packages={"remainder": "0.1.0"},
            python="3.11.7",
            platform="Linux x86_64",
            git_commit=None,
            dirty=None,
            timestamp="2026-01-01T00:00:00+00:00",
            timings={"evaluate": 12.5},
        ),
    }
    return make_record(values, **(arguments | changes))


def synthetic_coding(values: pd.DataFrame) -> CodingInfo:
    """How the codes of `with_coding` were quantised."""
    return CodingInfo(
        unit="contribution",
        rms=1.0,
        steps=CODED_STEPS,
        added={rung: 0.01 * 2.0 ** (CODED_STEPS["coded"] - step) for rung, step in CODED_STEPS.items()},
        silent=12,
        reference_steps=REFERENCE_STEPS if "reference-mean" in set(values["rung"]) else (),
    )
