"""Names that stand in records in the place of a format of files; by themselves, so that they load nothing."""

from __future__ import annotations

__all__ = ["CODE", "SHELL"]

CODE = "code"
"""The format of a method that brings code of its own."""

SHELL = "shell"
"""Stands for what is an interpretation with some of its sources kept: no board ranks it."""
