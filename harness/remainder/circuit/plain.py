"""A name that the hashed scripts of tasks import; see `remainder.model.plain`."""

from remainder.model.plain import Layer, PlainCircuitModel

__all__ = ["Layer", "PlainCircuitModel"]
