"""The library in one call: `evaluate`, `evaluate_all`, `score`, `flow`, `levels` and `worst_tokens`."""

from __future__ import annotations

from remainder.api.calls import evaluate, evaluate_all, worst_tokens
from remainder.api.flows import flow
from remainder.api.levels_over import levels
from remainder.api.scoring import score
from remainder.report.result import Result

__all__ = ["Result", "evaluate", "evaluate_all", "flow", "levels", "score", "worst_tokens"]
