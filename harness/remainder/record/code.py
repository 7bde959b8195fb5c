"""The name by which records tell methods that bring code of their own; by itself, since nothing is lighter."""

from __future__ import annotations

__all__ = ["CODE"]

CODE = "code"
"""The format of a method that brings code of its own."""
