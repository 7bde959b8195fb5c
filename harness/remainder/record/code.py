"""The name by which records tell methods with code of their own; by itself, so that it loads nothing."""

from __future__ import annotations

__all__ = ["CODE"]

CODE = "code"
"""The format of a method that brings code of its own."""
