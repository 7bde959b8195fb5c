"""Objects that a table names by their place, so that the table can be read without importing them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["resolve"]


def resolve(place: str) -> Any:
    """The object at `module:name`, or the module itself, imported now.

    Raises:
        ImportError, AttributeError: if there is none; a table of this package is then wrong.
    """
    module, _, name = place.partition(":")
    imported = import_module(module)
    return getattr(imported, name) if name else imported
