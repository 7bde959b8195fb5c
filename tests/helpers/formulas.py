"""Formulas of the controls, loaded by path, and independent integrals and means to compare them with."""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy import special, stats

FOLDER = Path(__file__).resolve().parents[2] / "tasks/controls"
SIGMAS = 4.0

Array = np.ndarray


@functools.cache
def load(control: str) -> ModuleType:
    """The formula code of a control, by path."""
    path = FOLDER / control / "expected.py"
    specification = importlib.util.spec_from_file_location(f"expected_{control.replace('-', '_')}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def assert_mean(samples: Array, value: float, allowance: float = 0.0) -> None:
    """The mean of independent samples is `value` within SIGMAS standard errors and a stated allowance."""
    error = float(samples.std(ddof=1) / math.sqrt(len(samples)))
    assert abs(float(samples.mean()) - value) <= SIGMAS * error + allowance, (samples.mean(), error, value)


def losses(logit: Array, label: Array) -> Array:
    """−log sigmoid(±logit), label True or False."""
    return np.logaddexp(0, np.where(label, -logit, logit))


def gaussian_mean(function: Any, *, mean: float = 0.0, variance: float = 1.0) -> float:
    """E function(N(mean, variance)) by the trapezoidal rule, which no formula code uses."""
    z = np.linspace(-10, 10, 4001)
    return float(np.sum(function(mean + math.sqrt(variance) * z) * stats.norm.pdf(z)) * (z[1] - z[0]))


def noisy_sigmoid(logit: Array, variance: float) -> Array:
    """E sigmoid(logit + N(0, variance)), elementwise, by the trapezoidal rule."""
    z = np.linspace(-8, 8, 161)
    weights = stats.norm.pdf(z) * (z[1] - z[0])
    table = np.linspace(logit.min() - 1e-9, logit.max() + 1e-9, 4001)
    return np.interp(logit, table, special.expit(table[:, None] + math.sqrt(variance) * z) @ weights)
