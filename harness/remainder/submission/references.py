"""Interpretations that are made from moments of a task's `fit` split: the makers of their formats.

They rebuild what they read; at a task that reads another place than it replaces, they read what is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remainder.formats.places import Loaded, beside_output
from remainder.interpretation.protocol import FitMoments
from remainder.interpretation.references import Identity, mean_only, principal_components, random_projection
from remainder.task.spec import Task

if TYPE_CHECKING:
    from remainder.submission.submission import Submission

__all__ = ["identity", "mean", "pca", "random"]


def identity(submission: Submission, task: Task, fit: FitMoments) -> Loaded:
    """x̂ = x."""
    return beside_output(Identity(), task)


def mean(submission: Submission, task: Task, fit: FitMoments) -> Loaded:
    """x̂ = E x."""
    return beside_output(mean_only(fit()), task)


def pca(submission: Submission, task: Task, fit: FitMoments) -> Loaded:
    """The leading principal components."""
    return beside_output(principal_components(fit(), submission.method.get("rank")), task)


def random(submission: Submission, task: Task, fit: FitMoments) -> Loaded:
    """Random directions."""
    method = submission.method
    return beside_output(random_projection(fit(), method.get("rank"), method.get("seed")), task)
