"""The cost of an interpretation, as far as no value gives it.

L0 and bits per token follow from the per-document values (`record.store.make_record`).

Source: protocol 1, section 9; protocol 2, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from remainder.measure.codes import CodeSample
from remainder.measure.coding import Coder
from remainder.record.number import Number
from remainder.record.schema import Complexity

__all__ = ["complexity_of"]


def complexity_of(
    sample: CodeSample,
    coder: Coder | str,
    reference_steps: Sequence[int],
    lone: Number | None,
    *,
    seen_all: bool = True,
) -> Complexity:
    """Everything that does not follow from the values.

    Args:
        lone: the share of evaluation tokens whose set of latents occurs nowhere else; None if only some
            documents were measured.
        seen_all: whether the sample is of the whole calibration split.
    """
    reason = coder if isinstance(coder, str) else "bits are counted on evaluation"
    return Complexity(
        live_features=(
            Number.bare(float(sample.live_features), "a count on the calibration split")
            if seen_all
            else Number.null("of the calibration split no more was looked at than a check needs")
        ),
        bits_per_token=Number.null(reason),
        features=sample.features,
        lone_code_sets=None if isinstance(coder, str) else lone,
        coding=None if isinstance(coder, str) else coder.info(reference_steps),
    )
