"""Checks inside every run: a splice that changes nothing, one that should change nothing, and the dtype.

Source: protocol 1, section 10.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import Batch
from remainder.measure.kernels import FittedRung, splice
from remainder.measure.losses import Clean, clean_pass, spliced_pass
from remainder.measure.rebuilt import Rebuilt
from remainder.model.bridge import Runner
from remainder.record.rungs import CODED, RUNGS
from remainder.record.schema import Check
from remainder.record.values import of_split
from remainder.residual.ladder import Raw, TrueResidual
from remainder.residual.noise import Draw, NoiseKeys

__all__ = [
    "CIRCUIT_LIMIT",
    "DECODED_LIMIT",
    "TRUE_LIMIT",
    "Deviation",
    "check_decoded",
    "check_true",
    "check_true_of_batch",
    "check_zero",
    "dtype_deviation",
]

TRUE_LIMIT = 1e-4
"""Nats per token by which the true residual may miss the clean model."""

DECODED_LIMIT = 1e-4
"""Share of the root mean square of x by which codes that are decoded again may differ."""

CIRCUIT_LIMIT = 1e-4
"""Nats by which two ways to the same prediction, one of them a circuit, may differ."""

_MOVED = 0.01  # nats per token by which the suffix's dtype may move a loss without a warning


class Deviation(NamedTuple):
    """The difference that the suffix's dtype made to one batch, against float32; nats per token."""

    content: dict[str, float]
    warning: str | None


def check_zero(runner: Runner, clean: Clean, hook: str) -> Check:
    """Splicing zeros must change the loss: else the hook does nothing.

    Raises:
        MeasurementError: if it does not.
    """
    x = clean.batch.prefix.x_out
    zeros = torch.where(clean.batch.spliced[..., None], 0.0, x)
    scores, _ = spliced_pass(runner, clean, zeros)
    change = (sum(scores.loss) - sum(clean.scores.loss)) / max(sum(scores.tokens), 1)
    if change == 0:
        raise MeasurementError(
            f"splicing zeros at {hook} does not change the loss",
            fix="choose a hook whose value the model uses",
        )
    note = "loss with zeros spliced in, less the clean loss, on one batch"
    return Check(passed=True, value=change, note=note)


def check_decoded(interpretation: Adapted, rebuilt: Rebuilt, batch: Batch) -> Check:
    """Quantised codes must decode to the same again after other codes were made, and in another order.

    Raises:
        MeasurementError: if they do not: what is spliced in is then not what the counted codes stand for.
    """
    coded, here, x = rebuilt.coded, batch.spliced, batch.prefix.x_out
    assert coded is not None
    scale = float(x[here].double().square().mean().sqrt()) or 1.0
    number = coded.coder.points[CODED]
    interpretation.encode(interpretation.choose(batch.prefix.x_in, x).flip(0, 1))
    codes = coded.coder.rounded(coded.symbols(number), number).placed(here)
    again = interpretation.decode(codes.flip(0)).flip(0)
    change = float((again - rebuilt.scored)[here].abs().max()) / scale
    if not change <= DECODED_LIMIT:
        raise MeasurementError(
            f"{interpretation.name}: quantised codes decode to something else ({change:.2g} of the root mean "
            "square) after other activations were encoded",
            fix="make decode a function of the codes alone",
        )
    note = "change of what quantised codes decode to, over the root mean square of what is rebuilt"
    return Check(passed=True, value=change, limit=DECODED_LIMIT, note=note)


def check_true(values: pd.DataFrame) -> Check:
    """The true residual must give back the clean model.

    Raises:
        MeasurementError: if it does not.
    """
    sums = of_split(values).groupby("rung")[["loss", "tokens"]].sum()
    gap = float((sums.loss["true"] - sums.loss["clean"]) / sums.tokens["clean"])
    return _true(gap, "loss with the true residual, less the clean loss")


def check_true_of_batch(
    runner: Runner, clean: Clean, reconstruction: Float[Tensor, "docs pos d"], places: NoiseKeys
) -> Check:
    """Do what `check_true` does on one batch, where the rung `true` was not asked for.

    Raises:
        MeasurementError: if it does not.
    """
    kernel = FittedRung("true", RUNGS["true"], TrueResidual())
    scores, _ = spliced_pass(runner, clean, splice(kernel, Draw(0), clean.batch, reconstruction, places))
    gap = (sum(scores.loss) - sum(clean.scores.loss)) / max(sum(scores.tokens), 1)
    return _true(gap, "loss with the true residual, less the clean loss, on one batch")


def _true(gap: float, note: str) -> Check:
    if abs(gap) > TRUE_LIMIT:
        raise MeasurementError(
            f"splicing the true residual back misses the clean loss by {gap:.3g} nats per token, more "
            f"than {TRUE_LIMIT:g}",
            fix="make the reconstruction smaller if x is lost in its rounding; else report this as a bug",
        )
    return Check(passed=True, value=gap, limit=TRUE_LIMIT, note=note)


def dtype_deviation(
    runner: Runner,
    exact_runner: Runner,
    clean: Clean,
    reconstruction: Float[Tensor, "docs pos d"],
    places: NoiseKeys,
) -> Deviation:
    """The effect of `runner`'s dtype on clean loss and raw gap, against that of `exact_runner`."""
    exact = clean_pass(exact_runner, clean.batch)
    kernel = FittedRung("raw", RUNGS["raw"], Raw())
    spliced = splice(kernel, Draw(0), clean.batch, reconstruction, places)
    raw, _ = spliced_pass(runner, clean, spliced)
    exact_raw, _ = spliced_pass(exact_runner, exact, spliced)
    tokens = sum(exact.scores.tokens)

    def per_token(values: list[float], reference: list[float]) -> float:
        return (sum(values) - sum(reference)) / tokens

    loss = per_token(clean.scores.loss, exact.scores.loss)
    moved = per_token(raw.loss, exact_raw.loss) - loss
    gap = per_token(exact_raw.loss, exact.scores.loss)
    warning = None
    if abs(loss) > _MOVED or abs(moved) > max(_MOVED, 2 * _MOVED * abs(gap)):
        dtype = str(runner.dtype).removeprefix("torch.")
        warning = (
            f"{dtype} moves the clean loss by {loss:.3g} and the raw gap by {moved:.3g} nats "
            "per token from float32: measure with float32"
        )
    content = {
        "tokens": float(tokens),
        "clean_loss": loss,
        "raw_gap": moved,
        "raw_kl": per_token(raw.kl, exact_raw.kl),
    }
    return Deviation(content, warning)
