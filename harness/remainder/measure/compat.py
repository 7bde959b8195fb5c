"""The field's own metrics under their own names, from the sums that `measure.peers` gathers.

They are ratios of sums over documents, with the interval of every other number. What a peer averages over
batches is pooled over tokens here, so that it does not depend on the batch size.

A site that reads one place and writes another is measured where it writes; SAELens' evaluator splices what
belongs there into the place that was read.

Source: SAELens 6.54.12 `evals.py`; SAEBench 0.6.0 `evals/core/main.py`; dictionary_learning `evaluation.py`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.base.cache import Progress, silent
from remainder.interpretation.protocol import Adapted
from remainder.loading.site import LanguageTask
from remainder.measure.codes import CodeSample
from remainder.measure.losses import clean_pass
from remainder.measure.mdl import BIN_COUNTS, description_length
from remainder.measure.peers import PeerBatch, PeerSums, PeerText, SpecialIds, special_ids
from remainder.measure.splices import Splices
from remainder.record.compat import PEERS, Compat, DictionaryLearningMetrics, PeerMetrics
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.number import Number
from remainder.record.scales import ScaleName
from remainder.record.values import without_rounding

__all__ = ["SpecialIds", "compat_of", "measure_compat", "special_ids"]

_NO_INTERVAL = "not a ratio of sums over documents, so it has no interval"


def measure_compat(
    loaded: LanguageTask,
    interpretation: Adapted,
    windows: int,
    sample: CodeSample,
    progress: Progress | None = None,
    peers: tuple[str, ...] = PEERS,
) -> Compat:
    """Peers' metrics of an interpretation on the first `windows` evaluation windows.

    Args:
        sample: codes of the calibration split, for the description length.

    Raises:
        InterpretationError: the reconstruction is not finite at a special position or an attention sink.
        MeasurementError: a loss or KL is not finite.
    """
    activations = loaded.activations("evaluation", windows)
    ids, size = special_ids(loaded.given.own_tokenizer), loaded.batch_size
    text = PeerText.of(ids, activations.batches(size, loaded.device), peers)
    sums, runner, done = PeerSums(text, interpretation), loaded.runner("float32"), 0
    for batch in activations.batches(size, loaded.device):
        clean = clean_pass(runner, batch, everywhere=True)
        codes, estimate = interpretation.reconstruct(
            interpretation.choose(batch.prefix.x_in, batch.prefix.x_out)
        )
        sums.update(PeerBatch(runner, clean), Splices(runner, clean), codes, estimate)
        done += len(batch.windows)
        (progress or silent)(f"{interpretation.name}: the field's metrics", done, len(activations.windows))
    return compat_of(sums, sample, loaded.task.seed, loaded.task.site.width)


def compat_of(sums: PeerSums, sample: CodeSample, seed: int, width: int) -> Compat:
    """The metrics of the peers whose sums were gathered.

    Args:
        sample: codes of the calibration split, for SAEBench's description length.
        width: of the site.
    """
    tables = sums.tables()
    found: dict[str, object] = {}
    if "saelens" in tables:
        found["saelens"] = _saelens(tables["saelens"], seed)
    if "saebench" in tables:
        found["saebench"] = _saebench(tables["saebench"], seed, width)
        found["mdl_bits"] = _mdl_bits(sample)
    if "dictionary_learning" in tables:
        table = tables["dictionary_learning"]
        found["dictionary_learning"] = _dictionary_learning(table, seed, sums.offset())
    return Compat.model_validate(found)


def _saelens(table: pd.DataFrame, seed: int) -> PeerMetrics:
    bootstrap = Bootstrap(len(table), seed=seed)

    def ratio(over: str, below: str, scale: ScaleName = "positive", *, guarded: bool = False) -> Number:
        above = _column(table, over)
        if over.startswith("kl_"):
            above = without_rounding(above, _column(table, below))
        return Number.of(bootstrap.estimate(Ratio(above, _column(table, below), scale, guarded)))

    def score(best: NDArray[np.float64], spliced: str, zero: str) -> Number:
        """The share of the cost of zero ablation that the reconstruction avoids."""
        worst = _column(table, zero)
        gained = worst - _column(table, spliced)
        return Number.of(bootstrap.estimate(Ratio(gained, worst - best, guarded=True)))

    centred, tokens = _column(table, "centred"), _column(table, "tokens")
    explained = Ratio(centred - _column(table, "residual"), centred, "mirrored")
    undefined = {
        "legacy": "activations equal to their mean, which the legacy formula divides by their distance to it",
        "cosine": "activations or reconstructions of length 0, which have no cosine",
    }

    def unless(column: str, flag: str) -> Number:
        count = int(table[flag].sum())
        return Number.null(f"{count} {undefined[column]}") if count else ratio(column, "tokens", "plain")

    return PeerMetrics(
        tokens=int(tokens.sum()),
        ce_loss_without_sae=ratio("loss_clean", "targets"),
        ce_loss_with_sae=ratio("loss_spliced", "targets"),
        ce_loss_with_ablation=ratio("loss_zero", "targets"),
        ce_loss_score=score(_column(table, "loss_clean"), "loss_spliced", "loss_zero"),
        kl_div_with_sae=ratio("kl_spliced", "tokens"),
        kl_div_with_ablation=ratio("kl_zero", "tokens"),
        kl_div_score=score(np.zeros(len(table)), "kl_spliced", "kl_zero"),
        explained_variance=Number.of(bootstrap.estimate(explained)),
        explained_variance_legacy=unless("legacy", "at_mean"),
        mse=ratio("residual", "tokens"),
        cossim=unless("cosine", "at_zero"),
        l2_norm_in=ratio("norm_in", "tokens"),
        l2_norm_out=ratio("norm_out", "tokens"),
        l2_ratio=ratio("ratio", "tokens"),
        relative_reconstruction_bias=ratio("square_out", "dot", "plain", guarded=True),
        l0=ratio("active", "tokens"),
    )


def _saebench(table: pd.DataFrame, seed: int, width: int) -> PeerMetrics:
    """SAEBench's metrics: those of SAELens, except for two formulas."""
    sums = table.sum()
    square = sums["square_in"] / sums["tokens"]
    # It squares activations before it takes their mean, and averages over dimensions.
    variance = square - (square / width) ** 2
    explained = (
        Number.null("E‖x‖² − (E‖x‖²/d)², which SAEBench divides by, is zero")
        if variance == 0
        else Number.bare(1 - sums["residual"] / sums["tokens"] / variance, _NO_INTERVAL)
    )
    return _saelens(table, seed).model_copy(
        update={
            "explained_variance": explained,
            "mse": Number.null(
                "SAEBench divides by the tokens of a batch twice, so that it depends on the batch size: "
                "its value times the tokens of a batch is SAELens' mse"
            ),
        }
    )


def _dictionary_learning(table: pd.DataFrame, seed: int, offset: float) -> DictionaryLearningMetrics:
    bootstrap = Bootstrap(len(table), seed=seed)
    targets, clean, spliced, zero = (
        _column(table, name) for name in ("targets", "loss_clean", "loss_spliced", "loss_zero")
    )
    sums = table.sum()
    return DictionaryLearningMetrics(
        loss_original=Number.of(bootstrap.estimate(Ratio(clean, targets, "positive"))),
        loss_reconstructed=Number.of(bootstrap.estimate(Ratio(spliced, targets, "positive"))),
        loss_zero=Number.of(bootstrap.estimate(Ratio(zero, targets, "positive"))),
        frac_recovered=Number.of(bootstrap.estimate(Ratio(spliced - zero, clean - zero, guarded=True))),
        frac_variance_explained=(
            Number.null("the activations do not vary")
            if sums["centred"] == 0
            else Number.bare(1 - (sums["residual"] - offset) / sums["centred"], _NO_INTERVAL)
        ),
    )


def _mdl_bits(sample: CodeSample) -> dict[str, Number]:
    if not sample.tokens:
        return {str(bins): Number.null("no calibration token was seen") for bins in BIN_COUNTS}
    note, features = f"{sample.tokens} calibration tokens, no interval", sample.features or 0
    return {
        str(bins): Number.bare(description_length(sample.everything, features, bins), note)
        for bins in BIN_COUNTS
    }


def _column(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return table[name].to_numpy(dtype=np.float64)
