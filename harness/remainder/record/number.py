"""Numbers as a record keeps them: six significant digits, an interval, and a reason for every gap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator

from remainder.record.intervals import Bootstrap, Estimate, Ratio
from remainder.record.json import significant

__all__ = ["FrozenModel", "GrownModel", "Number", "Real", "Sha256"]

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

Real = Annotated[float, AfterValidator(significant)]
"""A float as a record keeps it: six significant digits."""


class FrozenModel(BaseModel):
    """Base of everything in a record: immutable, and strangers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GrownModel(FrozenModel):
    """A part of a record that has grown: fields that came later are left out where there is nothing to say.

    So records that were written before such a field keep their bytes and hashes.
    """

    later: ClassVar[tuple[str, ...]]

    @model_serializer(mode="wrap")
    def _without_later(self, handler: Callable[..., Any]) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {name: part for name, part in content.items() if part is not None or name not in self.later}


class Number(FrozenModel):
    """A number with its 95 % interval; null where it has none, with the reason."""

    value: Real | None
    low: Real | None
    high: Real | None
    reason: str | None = None

    @classmethod
    def of(cls, estimate: Estimate) -> Number:
        """The record's form of an `Estimate`."""
        return cls(value=estimate.value, low=estimate.low, high=estimate.high, reason=estimate.reason)

    @classmethod
    def of_ratio(cls, bootstrap: Bootstrap, ratio: Ratio | str) -> Number:
        """The estimate of a ratio, or null with the reason given in its place."""
        return cls.null(ratio) if isinstance(ratio, str) else cls.of(bootstrap.estimate(ratio))

    @classmethod
    def bare(cls, value: float | int, reason: str) -> Number:
        """A value without an interval, and why it has none."""
        return cls(value=value, low=None, high=None, reason=reason)

    @classmethod
    def null(cls, reason: str) -> Number:
        """No value, and why."""
        return cls(value=None, low=None, high=None, reason=reason)

    @model_validator(mode="after")
    def _explained(self) -> Number:
        if self.value is None and not self.reason:
            raise ValueError("a null value needs a reason")
        return self

    @model_serializer
    def _without_empty_reason(self) -> dict[str, float | str | None]:
        content: dict[str, float | str | None] = {"value": self.value, "low": self.low, "high": self.high}
        return content if self.reason is None else {**content, "reason": self.reason}
