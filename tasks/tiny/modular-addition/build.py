"""Addition modulo 113 by a one-layer transformer that has grokked; see `model.py` for both.

A window is a document, its 113 positions are independent pairs. Everything is spliced; only pairs that the
model was trained on in neither order are scored.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from remainder.build import Built, Examples, load_script

__all__ = ["build"]


def build(seed: int, folder: Path) -> Built:
    """The trained model and all pairs; `seed` moves nothing, since weights belong to one choice of pairs."""
    script = load_script(folder / "model.py")
    model = script.ModularAddition()
    weights = load_file(folder / "weights.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    examples = {}
    for split, documents in script.splits().items():
        pairs = script.pairs_of(documents)
        examples[split] = Examples(
            inputs=pairs,
            targets=pairs.sum(-1) % script.MODULUS,
            documents=tuple(f"a={a:03d}" for a in documents),
            scored=script.held_out(pairs),
        )
    return Built(model.eval(), examples)
