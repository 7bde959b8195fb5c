"""SAELens' own evaluator on a model, tokens and an SAE that are ours too."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

EVERYTHING = EvalConfig(
    compute_kl=True,
    compute_ce_loss=True,
    compute_l2_norms=True,
    compute_sparsity_metrics=True,
    compute_variance_metrics=True,
)


class Store:
    """What SAELens reads of an `ActivationsStore`: batches of token ids, from the beginning on."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens, self.place = tokens, 0
        self.store_batch_size_prompts, self.context_size = tokens.shape

    def get_batch_tokens(self, size: int) -> torch.Tensor:
        self.place += size
        assert self.place <= len(self.tokens)
        return self.tokens[self.place - size : self.place]

    def reset_input_dataset(self) -> None:
        self.place = 0


def as_saelens(bridge: Any) -> Any:
    """The bridge as SAELens' own factory would make one, which would ask a hub for the model."""
    bridge.__class__ = SAETransformerBridge
    bridge._acts_to_saes, bridge._transcoder_output_hooks = {}, {}
    return bridge


def all_numbers(
    sae: Any, model: Any, tokens: torch.Tensor, batches: int = 1, **options: Any
) -> dict[str, float]:
    """All numbers of `run_evals` in one dict."""
    changed = {
        "batch_size_prompts": len(tokens) // batches,
        "n_eval_reconstruction_batches": batches,
        "n_eval_sparsity_variance_batches": batches,
    }
    config = EvalConfig(**{**vars(EVERYTHING), **changed})
    found, _ = run_evals(sae, Store(tokens), model, ActivationScaler(), config, **options)  # type: ignore[arg-type]
    return {name: value for group in found.values() for name, value in group.items()}
