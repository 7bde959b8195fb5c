"""The metrics of SAELens, SAEBench and dictionary_learning, as a record keeps them."""

from __future__ import annotations

from remainder.record.number import FrozenModel, GrownModel, Number

__all__ = [
    "PEERS",
    "Compat",
    "DictionaryLearningMetrics",
    "PeerMetrics",
]


PEERS = ("saelens", "saebench", "dictionary_learning")
"""Libraries whose metrics are made."""


class PeerMetrics(FrozenModel):
    """The metrics that SAELens and SAEBench share, under their names. Losses and KL: nats per token."""

    tokens: int
    """Tokens that the peer counts: those whose own id is not special to it."""
    ce_loss_without_sae: Number
    ce_loss_with_sae: Number
    ce_loss_with_ablation: Number
    """The loss with zeros at every position."""
    ce_loss_score: Number
    """(with ablation − with SAE) / (with ablation − without SAE)."""
    kl_div_with_sae: Number
    kl_div_with_ablation: Number
    kl_div_score: Number
    """(with ablation − with SAE) / with ablation."""
    explained_variance: Number
    explained_variance_legacy: Number
    """Mean over tokens of 1 − ‖r‖²/‖x − E x‖²; the peers take E x over a batch."""
    mse: Number
    """E ‖r‖², summed over dimensions."""
    cossim: Number
    l2_norm_in: Number
    l2_norm_out: Number
    l2_ratio: Number
    """E (‖x̂‖/‖x‖)."""
    relative_reconstruction_bias: Number
    """E ‖x̂‖² / E (x·x̂); the peers average it over batches."""
    l0: Number


class DictionaryLearningMetrics(FrozenModel):
    """Metrics of dictionary_learning, pooled over tokens where it averages over batches. Nats per token."""

    loss_original: Number
    loss_reconstructed: Number
    loss_zero: Number
    frac_recovered: Number
    """(reconstructed − zero) / (original − zero)."""
    frac_variance_explained: Number
    """1 − Σ Var r / Σ Var x, so that a constant offset is free."""


class Compat(GrownModel):
    """The field's own metrics with its own masks, on the evaluation windows and in float32.

    They need activations: like the tests of Gaussianity, they cannot be recomputed from per-document values.
    A peer that was not asked for is left out.
    """

    later = (*PEERS, "mdl_bits")

    saelens: PeerMetrics | None = None
    """SAELens 6.54.12: special tokens keep their activation."""
    saebench: PeerMetrics | None = None
    """SAEBench 0.6.0: special tokens are reconstructed too, though not counted."""
    dictionary_learning: DictionaryLearningMetrics | None = None
    """Every position counts, the beginning of the sequence too."""
    mdl_bits: dict[str, Number] | None = None
    """Bits per token by the number of bins a feature, as SAEBench counts them; on calibration."""
