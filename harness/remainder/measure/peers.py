"""Sums that peers' metrics are made of: for each peer a table, one row a document.

1. Which token ids are special is asked of the tokenizer, as each peer asks it.
2. Mean activation over the positions that each peer counts.
3. Per batch of evaluation windows suffix passes in float32: clean; zeros everywhere, special positions among
   them; x̂ everywhere (SAEBench, dictionary_learning); x̂ but the true x at special positions (SAELens). The
   first two are those of all interpretations together, and windows in which splices are equal are run once.
4. Loss and KL(clean ‖ spliced) of every position; sums per document under each peer's mask. The loss leaves
   out the last position of a window, which has no target; KL does not. Attention sinks are not masked.

Source: SAELens 6.54.12 `evals.py`; SAEBench 0.6.0 `evals/core/main.py`; dictionary_learning `evaluation.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import Batch
from remainder.measure.likelihood import Compared
from remainder.measure.losses import Clean, compared_pass
from remainder.measure.splices import Splices
from remainder.model.bridge import Runner
from remainder.record.compat import PEERS

__all__ = ["PeerBatch", "PeerSums", "PeerText", "SpecialIds", "special_ids"]

_TINY_NORM = 1e-4  # below this SAELens divides by 1 instead of the norm


class SpecialIds(NamedTuple):
    """Token ids that each peer leaves out."""

    saelens: frozenset[int]
    """Beginning, end, padding, separator, start of a decoder."""
    saebench: frozenset[int]
    """Beginning, end, padding."""
    padding: frozenset[int]
    """Targets that dictionary_learning leaves out."""

    def counted(self, tokens: Int[Tensor, "docs pos"], peer: str) -> Bool[Tensor, "docs pos"]:
        """The positions that a peer counts."""
        ids = self.padding if peer == "dictionary_learning" else getattr(self, peer)
        return ~torch.isin(tokens, torch.tensor(sorted(ids), device=tokens.device, dtype=tokens.dtype))


def special_ids(tokenizer: Any) -> SpecialIds:
    """Special ids of a Hugging Face tokenizer, as each peer asks for them.

    A tokenizer without padding pads with its end of text, as TransformerLens and nnsight make it do.
    """

    def ids(*names: str) -> frozenset[int]:
        found = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
        return frozenset(token for token in found if token is not None)

    core = ids("bos", "eos", "pad")
    return SpecialIds(core | ids("sep", "decoder_start"), core, ids("pad") or ids("eos"))


class Scores(NamedTuple):
    """Scores at every position of a batch, nats, float64; the loss at a window's last one is meaningless."""

    loss: Float[Tensor, "docs pos"]
    kl: Float[Tensor, "docs pos"]


@dataclass
class PeerText:
    """Facts that peers need of model and text alone: they are made once for all interpretations.

    Raises:
        MeasurementError: every token is special to a peer.
    """

    ids: SpecialIds
    peers: tuple[str, ...]
    means: dict[str, Float[Tensor, " d"]]

    @classmethod
    def of(cls, ids: SpecialIds, batches: Iterable[Batch], peers: tuple[str, ...] = PEERS) -> PeerText:
        """Means over the positions that each peer counts, float64."""
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for batch in batches:
            for peer in peers:
                rows = batch.prefix.x_out[ids.counted(batch.inputs, peer)].double()
                totals[peer] = totals.get(peer, 0) + rows.sum(0).cpu()
                counts[peer] = counts.get(peer, 0) + len(rows)
        for peer, count in counts.items():
            if count == 0:
                raise MeasurementError(
                    f"every token of the evaluation windows is special to {peer}",
                    fix="check the ids of bos, eos and pad in the tokenizer",
                )
        return cls(ids, peers, {peer: total / counts[peer] for peer, total in totals.items()})


class PeerBatch:
    """The untouched model and the one without the site on a batch, at every position.

    Args:
        clean: compared at every position (`clean_pass(…, everywhere=True)`).
    """

    def __init__(self, runner: Runner, clean: Clean) -> None:
        self.batch = clean.batch
        shape = clean.batch.inputs.shape
        zeros = torch.zeros_like(clean.batch.prefix.x_out)
        self.clean = _scores(clean.compared, shape, "clean")
        self.zero = _scores(compared_pass(runner, clean, zeros), shape, "zeros")


@dataclass
class PeerSums:
    """Sums of one interpretation, batch after batch."""

    text: PeerText
    interpretation: Adapted
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def update(
        self,
        peers: PeerBatch,
        splices: Splices,
        codes: Float[Tensor, "docs pos features"],
        estimate: Float[Tensor, "docs pos d"],
    ) -> dict[str, list[dict[str, Any]]]:
        """Add a batch of windows, and give its rows.

        Args:
            codes: exact ones at every position.
            estimate: the reconstruction at every position.

        Raises:
            InterpretationError: codes or reconstruction are not finite at a special position or sink.
            MeasurementError: a loss or KL is not finite.
        """
        self.interpretation.require_finite(codes, estimate)
        batch = peers.batch
        x, shape = batch.prefix.x_out, batch.inputs.shape
        squares = _squares(x, estimate, codes)
        new: dict[str, list[dict[str, Any]]] = {}
        scores: dict[str, Scores] = {}
        for peer in self.text.peers:
            counted = self.text.ids.counted(batch.inputs, peer)
            where = "but special" if peer == "saelens" else "everywhere"
            if where not in scores:
                inside = torch.where(counted[..., None], estimate, x) if peer == "saelens" else estimate
                scores[where] = _scores(splices.compare(inside), shape, where)
            # dictionary_learning leaves padding out as a target, the others special tokens as inputs.
            scored = counted.roll(-1, dims=1) if peer == "dictionary_learning" else counted
            columns = _loss_sums(peers, scores[where], scored, counted)
            columns |= _square_sums(x, squares, self.text.means[peer].to(x.device), counted)
            if peer == "dictionary_learning":
                columns["_offset"] = _residual_sums(x, estimate, counted)
            new[peer] = [
                {"document": document, **{name: column[i].tolist() for name, column in columns.items()}}
                for i, document in enumerate(batch.windows.documents)
            ]
        self.add(new)
        return new

    def add(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        """Add rows that `update` gave."""
        for peer, new in rows.items():
            self.rows.setdefault(peer, []).extend(new)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Sums over the positions that each peer counts, one row a document."""
        found = {}
        for peer, rows in self.rows.items():
            kept = [{name: value for name, value in row.items() if name != "_offset"} for row in rows]
            found[peer] = pd.DataFrame(kept).groupby("document", sort=True).sum()
        return found

    def offset(self) -> float:
        """‖E r‖² times the number of tokens: what a free offset would take off the residual's squares."""
        rows = self.rows["dictionary_learning"]
        total = np.sum([row["_offset"] for row in rows], axis=0)
        tokens: float = sum(row["tokens"] for row in rows)
        return float(np.square(total).sum()) / max(tokens, 1)


def _scores(compared: Compared, shape: torch.Size, where: str) -> Scores:
    loss, kl = compared.loss.double().reshape(shape), compared.kl.double().reshape(shape)
    if not (torch.isfinite(loss).all() and torch.isfinite(kl).all()):
        raise MeasurementError(
            f"a loss or KL is NaN or infinite with x̂ ({where}) at special positions and attention sinks",
            fix="look at what the interpretation gives there",
        )
    return Scores(loss, kl)


def _loss_sums(
    peers: PeerBatch,
    spliced: Scores,
    scored: Bool[Tensor, "docs pos"],
    counted: Bool[Tensor, "docs pos"],
) -> dict[str, NDArray[np.float64]]:
    """Sums over each window: losses where `scored` and there is a target, KL where `counted`."""

    def losses(which: Scores) -> NDArray[np.float64]:
        return _sums(which.loss[:, :-1], scored[:, :-1])

    return {
        "targets": _sums(torch.ones_like(spliced.loss)[:, :-1], scored[:, :-1]),
        "loss_clean": losses(peers.clean),
        "loss_spliced": losses(spliced),
        "loss_zero": losses(peers.zero),
        "kl_spliced": _sums(spliced.kl, counted),
        "kl_zero": _sums(peers.zero.kl, counted),
    }


def _residual_sums(
    activation: Float[Tensor, "docs pos d"],
    reconstruction: Float[Tensor, "docs pos d"],
    counted: Bool[Tensor, "docs pos"],
) -> NDArray[np.float64]:
    """Sum of the residual over the counted tokens of each window, [docs d]."""
    residual = activation.double() - reconstruction.double()
    total: NDArray[np.float64] = torch.where(counted[..., None], residual, 0.0).sum(1).cpu().numpy()
    return total


def _squares(
    activation: Float[Tensor, "docs pos d"],
    reconstruction: Float[Tensor, "docs pos d"],
    codes: Float[Tensor, "docs pos features"],
) -> dict[str, Float[Tensor, "docs pos"]]:
    """Everything of each token that norms, products and codes give, whatever the peer."""
    x, estimate = activation.double(), reconstruction.double()
    norm_in, norm_out = x.norm(dim=-1), estimate.norm(dim=-1)
    dot, product = (x * estimate).sum(-1), norm_in * norm_out
    return {
        "tokens": torch.ones_like(dot),
        "residual": (x - estimate).square().sum(-1),
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


def _square_sums(
    activation: Float[Tensor, "docs pos d"],
    squares: Mapping[str, Float[Tensor, "docs pos"]],
    mean: Float[Tensor, " d"],
    counted: Bool[Tensor, "docs pos"],
) -> dict[str, NDArray[np.float64]]:
    """Sums over each window of what norms, products and codes give at counted tokens."""
    centred = (activation.double() - mean).square().sum(-1)
    per_token = {
        **squares,
        "centred": centred,
        "legacy": 1 - squares["residual"] / torch.where(centred == 0, 1.0, centred),
        "at_mean": (centred == 0).double(),
    }
    return {name: _sums(values, counted) for name, values in per_token.items()}


def _sums(values: Float[Tensor, "docs pos"], mask: Bool[Tensor, "docs pos"]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = torch.where(mask, values, 0.0).sum(1).cpu().numpy()
    return total
