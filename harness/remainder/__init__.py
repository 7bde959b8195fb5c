"""Remainder: score what an interpretation of a neural network leaves out.

    import remainder
    result = remainder.evaluate("smollm2-135m/resid-15", sae)   # anything with encode and decode
    print(result)

This page is the whole public face; what lies below it may change between versions. Importing the package does
not import torch: checking, comparing and citing records stays instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remainder._version import __version__

if TYPE_CHECKING:
    from remainder.api import evaluate, evaluate_all, flow, levels, score, worst_tokens
    from remainder.circuit.circuit import Circuit
    from remainder.circuit.ranking import NodeRanking, Ranking
    from remainder.errors import (
        AssetError,
        InterpretationError,
        MeasurementError,
        RecordError,
        RemainderError,
        TaskError,
    )
    from remainder.interpretation.protocol import Reconstruction
    from remainder.interpretation.site_info import SiteInfo
    from remainder.loading.adhoc import adhoc_task
    from remainder.loading.loaded import LoadedTask
    from remainder.loading.open import open_task
    from remainder.loading.prompts import PromptTask
    from remainder.loading.site import SiteTask
    from remainder.measure.several_sites import SitesResult, evaluate_sites
    from remainder.model.architecture import Architecture, Graph
    from remainder.monitor import Monitor
    from remainder.record.schema import Record
    from remainder.record.store import StoredRecord, read_record
    from remainder.report.compare import Comparison, compare_records
    from remainder.report.result import Result
    from remainder.report.results import load_results
    from remainder.report.saebench import saebench_result
    from remainder.submission.graphs import prepare_graphs
    from remainder.submission.open import open_submission
    from remainder.submission.submission import Submission
    from remainder.task.spec import Task, list_tasks, load_task

__all__ = [
    "Architecture",
    "AssetError",
    "Circuit",
    "Comparison",
    "Graph",
    "InterpretationError",
    "LoadedTask",
    "MeasurementError",
    "Monitor",
    "NodeRanking",
    "PromptTask",
    "Ranking",
    "Reconstruction",
    "Record",
    "RecordError",
    "RemainderError",
    "Result",
    "SiteInfo",
    "SiteTask",
    "SitesResult",
    "StoredRecord",
    "Submission",
    "Task",
    "TaskError",
    "__version__",
    "adhoc_task",
    "compare_records",
    "evaluate",
    "evaluate_all",
    "evaluate_sites",
    "flow",
    "levels",
    "list_tasks",
    "load_results",
    "load_task",
    "open_submission",
    "open_task",
    "prepare_graphs",
    "read_record",
    "saebench_result",
    "score",
    "worst_tokens",
]

_HOMES = {
    "Architecture": "remainder.model.architecture",
    "AssetError": "remainder.errors",
    "Circuit": "remainder.circuit.circuit",
    "Comparison": "remainder.report.compare",
    "Graph": "remainder.model.architecture",
    "InterpretationError": "remainder.errors",
    "LoadedTask": "remainder.loading.loaded",
    "MeasurementError": "remainder.errors",
    "Monitor": "remainder.monitor",
    "NodeRanking": "remainder.circuit.ranking",
    "PromptTask": "remainder.loading.prompts",
    "Ranking": "remainder.circuit.ranking",
    "Reconstruction": "remainder.interpretation.protocol",
    "Record": "remainder.record.schema",
    "RecordError": "remainder.errors",
    "RemainderError": "remainder.errors",
    "Result": "remainder.report.result",
    "SiteInfo": "remainder.interpretation.site_info",
    "SiteTask": "remainder.loading.site",
    "SitesResult": "remainder.measure.several_sites",
    "StoredRecord": "remainder.record.store",
    "Submission": "remainder.submission.submission",
    "Task": "remainder.task.spec",
    "TaskError": "remainder.errors",
    "adhoc_task": "remainder.loading.adhoc",
    "compare_records": "remainder.report.compare",
    "evaluate": "remainder.api",
    "evaluate_all": "remainder.api",
    "evaluate_sites": "remainder.measure.several_sites",
    "flow": "remainder.api",
    "levels": "remainder.api",
    "list_tasks": "remainder.task.spec",
    "load_results": "remainder.report.results",
    "load_task": "remainder.task.spec",
    "open_submission": "remainder.submission.open",
    "open_task": "remainder.loading.open",
    "prepare_graphs": "remainder.submission.graphs",
    "read_record": "remainder.record.store",
    "saebench_result": "remainder.report.saebench",
    "score": "remainder.api",
    "worst_tokens": "remainder.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'remainder' has no attribute {name!r}")
    from importlib import import_module

    from remainder.base.platforms import require_platform

    require_platform()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
