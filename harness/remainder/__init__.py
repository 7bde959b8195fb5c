"""Remainder: score what an interpretation of a neural network leaves out.

    import remainder
    result = remainder.evaluate("smollm2-135m/resid-15", sae)   # anything with encode and decode
    print(result)

Importing this package does not import torch: checking, comparing and citing records stays instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remainder._version import __version__

if TYPE_CHECKING:
    from remainder.api import Result, evaluate
    from remainder.errors import RemainderError
    from remainder.interpretation.protocol import Reconstruction
    from remainder.record.store import read_record
    from remainder.task.spec import list_tasks, load_task

__all__ = [
    "Reconstruction",
    "RemainderError",
    "Result",
    "__version__",
    "evaluate",
    "list_tasks",
    "load_task",
    "read_record",
]

_HOMES = {
    "Reconstruction": "remainder.interpretation.protocol",
    "RemainderError": "remainder.errors",
    "Result": "remainder.api",
    "evaluate": "remainder.api",
    "list_tasks": "remainder.task.spec",
    "load_task": "remainder.task.spec",
    "read_record": "remainder.record.store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'remainder' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
