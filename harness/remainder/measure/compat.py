"""The field's own metrics under their own names, each with its peer's masks.

1. Which token ids are special is asked of the tokenizer, as each peer asks it.
2. Mean activation over the positions that each peer counts.
3. Per batch of evaluation windows four suffix passes in float32: clean; zeros everywhere, special positions
   among them; x̂ everywhere (SAEBench, dictionary_learning); x̂ but the true x at special positions (SAELens).
4. Loss and KL(clean ‖ spliced) of every position; sums per document under each peer's mask. The loss leaves
   out the last position of a window, which has no target; KL does not. Attention sinks are not masked.
5. Ratios of these sums, with the interval of every other number. What a peer averages over batches is pooled
   over tokens here, so that it does not depend on the batch size.

A site that reads one place and writes another is measured where it writes; SAELens' evaluator splices what
belongs there into the place that was read.

Source: SAELens 6.54.12 `evals.py`; SAEBench 0.6.0 `evals/core/main.py`; dictionary_learning `evaluation.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.errors import InterpretationError, MeasurementError
from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import Batch
from remainder.loading.fetch import load_tokenizer
from remainder.loading.site import LanguageTask
from remainder.measure.codes import CodeSample
from remainder.measure.likelihood import Categorical
from remainder.measure.losses import CHUNK
from remainder.measure.mdl import BIN_COUNTS, description_length
from remainder.measure.seal import Log
from remainder.model.bridge import Runner
from remainder.record.compat import Compat, DictionaryLearningMetrics, PeerMetrics
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.number import Number
from remainder.record.scales import ScaleName
from remainder.record.values import without_rounding

__all__ = ["SpecialIds", "compat_or_reason", "measure_compat", "special_ids"]

_CLEAN, _ZERO, _EVERYWHERE, _BUT_SPECIAL = "clean", "zero", "everywhere", "but special"
_TINY_NORM = 1e-4  # below this SAELens divides by 1 instead of the norm
_NO_INTERVAL = "not a ratio of sums over documents, so it has no interval"


class SpecialIds(NamedTuple):
    """Token ids that each peer leaves out."""

    saelens: frozenset[int]
    """Beginning, end, padding, separator, start of a decoder."""
    saebench: frozenset[int]
    """Beginning, end, padding."""
    padding: frozenset[int]
    """Targets that dictionary_learning leaves out."""


def special_ids(tokenizer: Any) -> SpecialIds:
    """Special ids of a Hugging Face tokenizer, as each peer asks for them.

    A tokenizer without padding pads with its end of text, as TransformerLens and nnsight make it do.
    """

    def ids(*names: str) -> frozenset[int]:
        found = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
        return frozenset(token for token in found if token is not None)

    core = ids("bos", "eos", "pad")
    return SpecialIds(core | ids("sep", "decoder_start"), core, ids("pad") or ids("eos"))


def measure_compat(
    loaded: LanguageTask,
    interpretation: Adapted,
    windows: int,
    sample: CodeSample,
    progress: Progress | None = None,
) -> Compat:
    """Every peer's metrics of an interpretation on the first `windows` evaluation windows.

    Args:
        sample: codes of the calibration split, for the description length.

    Raises:
        InterpretationError: the reconstruction is not finite at a special position or an attention sink.
        MeasurementError: a loss or KL is not finite.
    """
    ids = special_ids(load_tokenizer(loaded.folder))
    run = _PeerPass(loaded, interpretation, windows, ids)
    tables = run.tables(progress)
    seed = loaded.task.seed
    return Compat(
        saelens=_saelens(tables["saelens"], seed),
        saebench=_saebench(tables["saebench"], seed, loaded.task.site.width),
        dictionary_learning=_dictionary_learning(tables["dictionary_learning"], seed, run.offset()),
        mdl_bits=_mdl_bits(sample),
    )


def compat_or_reason(
    loaded: LanguageTask,
    interpretation: Adapted,
    windows: int,
    sample: CodeSample,
    log: Log,
    progress: Progress | None = None,
) -> Compat | None:
    """Do what `measure_compat` does; where that fails the log gets the reason, and the run goes on."""
    try:
        return measure_compat(loaded, interpretation, windows, sample, progress)
    # At special positions and sinks, which nothing else in a run reads.
    except (InterpretationError, MeasurementError) as problem:
        log.warnings.append(f"the field's metrics were not measured: {problem.what}")
        log.unmeasured["compat"] = problem.what
        return None


class _Scores(NamedTuple):
    """Scores at every position of a batch, nats; the loss at a window's last position is meaningless."""

    loss: Float[Tensor, "docs pos"]
    kl: Float[Tensor, "docs pos"]


class _PeerPass:
    """One pass over the evaluation windows: a table of sums for each peer, one row a document."""

    def __init__(self, loaded: LanguageTask, interpretation: Adapted, windows: int, ids: SpecialIds) -> None:
        self.loaded, self.interpretation, self.ids = loaded, interpretation, ids
        self.activations = loaded.activations("evaluation", windows)
        self._residual = torch.zeros(loaded.task.site.width, dtype=torch.float64)
        self._counted = 0

    def tables(self, progress: Progress | None) -> dict[str, pd.DataFrame]:
        """Sums over the positions that each peer counts."""
        means = self._means()
        rows: dict[str, list[pd.DataFrame]] = {peer: [] for peer in means}
        runner, total, done = self.loaded.runner("float32"), len(self.activations.windows), 0
        for batch in self._batches():
            x = batch.prefix.x_out
            read = self.interpretation.choose(batch.prefix.x_in, x)
            codes, estimate = self.interpretation.reconstruct(read)
            counted = self._counted_by(batch.inputs)
            scores = _token_scores(
                runner,
                batch,
                {
                    _CLEAN: x,
                    _ZERO: torch.zeros_like(x),
                    _EVERYWHERE: estimate,
                    _BUT_SPECIAL: torch.where(counted["saelens"][..., None], estimate, x),
                },
            )
            for peer, mask in counted.items():
                spliced = scores[_BUT_SPECIAL if peer == "saelens" else _EVERYWHERE]
                # dictionary_learning leaves padding out as a target, the others special tokens as inputs.
                scored = mask.roll(-1, dims=1) if peer == "dictionary_learning" else mask
                columns = _loss_sums(scores, spliced, scored, mask)
                columns |= _square_sums(x, estimate, codes, means[peer].to(x.device), mask)
                rows[peer].append(pd.DataFrame({"document": batch.windows.documents, **columns}))
            kept = counted["dictionary_learning"]
            self._residual += (x.double() - estimate.double())[kept].sum(0).cpu()
            self._counted += int(kept.sum())
            done += len(batch.windows)
            (progress or silent)(f"{self.interpretation.name}: the field's metrics", done, total)
        return {peer: pd.concat(parts).groupby("document", sort=True).sum() for peer, parts in rows.items()}

    def offset(self) -> float:
        """‖E r‖² times the number of tokens: what a free offset would take off the residual's squares."""
        return float(self._residual.square().sum()) / max(self._counted, 1)

    def _batches(self) -> Iterator[Batch]:
        return self.activations.batches(self.loaded.batch_size, self.loaded.device)

    def _counted_by(self, tokens: Int[Tensor, "docs pos"]) -> dict[str, Bool[Tensor, "docs pos"]]:
        special = {
            "saelens": self.ids.saelens,
            "saebench": self.ids.saebench,
            "dictionary_learning": self.ids.padding,
        }
        return {
            peer: ~torch.isin(tokens, torch.tensor(sorted(ids), device=tokens.device, dtype=tokens.dtype))
            for peer, ids in special.items()
        }

    def _means(self) -> dict[str, Float[Tensor, " d"]]:
        """Mean activation over the positions that each peer counts, float64."""
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for batch in self._batches():
            for peer, mask in self._counted_by(batch.inputs).items():
                rows = batch.prefix.x_out[mask].double()
                totals[peer] = totals.get(peer, 0) + rows.sum(0).cpu()
                counts[peer] = counts.get(peer, 0) + len(rows)
        for peer, count in counts.items():
            if count == 0:
                raise MeasurementError(
                    f"every token of the evaluation windows is special to {peer}",
                    fix="check the ids of bos, eos and pad in the tokenizer",
                )
        return {peer: total / counts[peer] for peer, total in totals.items()}


def _token_scores(
    runner: Runner, batch: Batch, spliced: Mapping[str, Float[Tensor, "docs pos d"]]
) -> dict[str, _Scores]:
    """Loss and KL to `clean` of every position, with each of some activations at the site."""
    hidden = {
        name: runner.suffix(batch.inputs, batch.prefix, new).flatten(0, 1) for name, new in spliced.items()
    }
    targets, likelihood = batch.targets.flatten(), Categorical()
    size = max(CHUNK // runner.logits(hidden[_CLEAN][:1]).shape[-1], 1)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in spliced}
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        clean = runner.logits(hidden[_CLEAN][part])
        kept = likelihood.keep(clean)
        for name, states in hidden.items():
            outputs = clean if name == _CLEAN else runner.logits(states[part])
            compared = likelihood.compare(kept, outputs, targets[part])
            found[name].append((compared.loss.double(), compared.kl.double()))
    scores = {}
    for name, parts in found.items():
        loss, kl = (torch.cat(column).reshape(batch.inputs.shape) for column in zip(*parts, strict=True))
        if not (torch.isfinite(loss).all() and torch.isfinite(kl).all()):
            raise MeasurementError(
                f"a loss or KL is NaN or infinite with x̂ ({name}) at special positions and attention sinks",
                fix="look at what the interpretation gives there",
            )
        scores[name] = _Scores(loss, kl)
    return scores


def _loss_sums(
    scores: Mapping[str, _Scores],
    spliced: _Scores,
    scored: Bool[Tensor, "docs pos"],
    counted: Bool[Tensor, "docs pos"],
) -> dict[str, NDArray[np.float64]]:
    """Sums over each window: losses where `scored` and there is a target, KL where `counted`."""

    def losses(which: _Scores) -> NDArray[np.float64]:
        return _sums(which.loss[:, :-1], scored[:, :-1])

    return {
        "targets": _sums(torch.ones_like(spliced.loss)[:, :-1], scored[:, :-1]),
        "loss_clean": losses(scores[_CLEAN]),
        "loss_spliced": losses(spliced),
        "loss_zero": losses(scores[_ZERO]),
        "kl_spliced": _sums(spliced.kl, counted),
        "kl_zero": _sums(scores[_ZERO].kl, counted),
    }


def _square_sums(
    activation: Float[Tensor, "docs pos d"],
    reconstruction: Float[Tensor, "docs pos d"],
    codes: Float[Tensor, "docs pos features"],
    mean: Float[Tensor, " d"],
    counted: Bool[Tensor, "docs pos"],
) -> dict[str, NDArray[np.float64]]:
    """Sums over each window of what norms, products and codes give at counted tokens."""
    x, estimate = activation.double(), reconstruction.double()
    norm_in, norm_out = x.norm(dim=-1), estimate.norm(dim=-1)
    residual, centred = (x - estimate).square().sum(-1), (x - mean).square().sum(-1)
    dot, product = (x * estimate).sum(-1), norm_in * norm_out
    per_token = {
        "tokens": torch.ones_like(dot),
        "residual": residual,
        "centred": centred,
        "legacy": 1 - residual / torch.where(centred == 0, 1.0, centred),
        "at_mean": (centred == 0).double(),
        "norm_in": norm_in,
        "norm_out": norm_out,
        "ratio": norm_out / torch.where(norm_in < _TINY_NORM, 1.0, norm_in),
        "square_in": norm_in.square(),
        "square_out": norm_out.square(),
        "dot": dot,
        "cosine": dot / torch.where(product == 0, 1.0, product),
        "at_zero": (product == 0).double(),
        "active": (codes != 0).sum(-1).double(),
    }
    return {name: _sums(values, counted) for name, values in per_token.items()}


def _sums(values: Float[Tensor, "docs pos"], mask: Bool[Tensor, "docs pos"]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = torch.where(mask, values, 0.0).sum(1).cpu().numpy()
    return total


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
    codes = sample.codes
    note = f"{codes.tokens} calibration tokens, no interval"
    return {str(bins): Number.bare(description_length(codes, bins), note) for bins in BIN_COUNTS}


def _column(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return table[name].to_numpy(dtype=np.float64)
