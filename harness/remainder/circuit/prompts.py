"""A name that the hashed scripts of tasks import; see `remainder.task.prompts`."""

from remainder.task.prompts import PADDING, Prompts

__all__ = ["PADDING", "Prompts"]
