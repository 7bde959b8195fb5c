"""Single tokens: where an interpretation harms the model most, with the text before and what was kept.

Records keep sums over documents. Here the splice of rung `raw` is made once more, and every scored token is
looked at by itself; the mean of their KL is that of the record. Nothing of it is put into a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.errors import TaskError
from remainder.loading.activations import Batch
from remainder.loading.loaded import LoadedTask
from remainder.loading.site import LanguageTask
from remainder.measure.gather import evaluation_part
from remainder.measure.losses import clean_pass, compared_pass
from remainder.measure.plan import Plan
from remainder.measure.row import build
from remainder.measure.seal import Log
from remainder.submission.submission import SiteEntry
from remainder.task.spec import Task

__all__ = ["TOKENS", "require_text", "worst_tokens"]

TOKENS = 100
"""Tokens that are shown unless another number is asked for."""

_BEFORE = 32  # tokens of text that are shown before one
_CODES = 5  # of the codes of a token, the largest


def require_text(task: Task) -> None:
    """Raise TaskError unless a task has tokens with a text."""
    if task.corpus is None:
        raise TaskError(
            f"{task.id} has no text, and single tokens are shown with theirs",
            fix="leave the tokens out, or choose a task on a text",
        )


def worst_tokens(
    loaded: LoadedTask,
    entry: SiteEntry,
    plan: Plan,
    most: int = TOKENS,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The scored tokens with the largest KL on rung `raw`, the largest first.

    Returns:
        One row a token. `document`, `window` and `position` say where it stands. `before` is the text up to
        it, `token` the token itself, whose activation is replaced, `next` the one that follows. `top_clean`
        and `top_spliced` are what the model takes to be next, untouched and with the reconstruction in
        place. `kl`, `loss_clean` and `loss_spliced` are in nats. `l0` counts the codes that are not zero
        there, and `codes` lists the largest as `latent:value`.

    Raises:
        TaskError: if the task has no text, or `most` is no number of tokens.
        InterpretationError: if it breaks a rule, or gives values of a wrong shape or not finite.
    """
    if most < 1 or most % 1:
        raise TaskError(f"{most} tokens were asked for", fix="give a whole number, 1 or more")
    require_text(loaded.task)
    assert isinstance(loaded, LanguageTask)
    worst = pd.DataFrame()
    with torch.inference_mode():
        for found in _found(loaded, entry, plan, most, progress or silent):
            # Where two are equal the earlier one stands first, whatever the batches are.
            joined = pd.concat([worst, found]).sort_values("kl", ascending=False, kind="stable")
            worst = joined.head(most)
    return _with_text(worst.reset_index(drop=True), loaded)


def _found(
    loaded: LanguageTask, entry: SiteEntry, plan: Plan, most: int, progress: Progress
) -> Iterator[pd.DataFrame]:
    """The worst tokens of each batch, with ids in place of texts."""
    interpretation = build(loaded, entry, plan, Log())
    runner = loaded.runner(plan.dtype)
    windows, part = evaluation_part(loaded, plan)
    first = 0
    for batch in loaded.activations("evaluation", windows).batches(loaded.batch_size, loaded.device):
        progress(f"{entry.name}: tokens", first, windows)
        numbers = [
            (row, first + row)
            for row, name in enumerate(batch.windows.documents)
            if part is None or name in part
        ]
        first += len(batch.windows)
        if not numbers:
            continue
        some = batch.take([row for row, _ in numbers])
        x = some.prefix.x_out
        codes, estimate = interpretation.reconstruct(interpretation.choose(some.prefix.x_in, x), some.spliced)
        clean = clean_pass(runner, some)
        spliced = compared_pass(runner, clean, torch.where(some.spliced[..., None], estimate, x))
        order = spliced.kl.argsort(descending=True, stable=True)[:most].sort().values
        columns = {
            "kl": spliced.kl,
            "loss_clean": clean.compared.loss,
            "loss_spliced": spliced.loss,
            "top_clean": clean.compared.answers,
            "top_spliced": spliced.answers,
        }
        chosen = {name: column[order].tolist() for name, column in columns.items() if column is not None}
        yield _places(some, [number for _, number in numbers], order).assign(
            **chosen, **_kept(codes[some.scored][order])
        )
    progress(f"{entry.name}: tokens", windows, windows)


def _places(batch: Batch, numbers: list[int], order: Tensor) -> pd.DataFrame:
    """Places of scored tokens; `numbers`: the place of each window among all of the split."""
    rows, positions = (part[order].cpu().numpy() for part in batch.scored.nonzero(as_tuple=True))
    found: pd.DataFrame = pd.DataFrame(
        {
            "document": np.array(batch.windows.documents, dtype=object)[rows],
            "window": np.array(batch.windows.indices)[rows],
            "position": positions,
            "place": np.array(numbers)[rows],
        }
    )
    return found


def _kept(codes: Float[Tensor, "tokens features"]) -> dict[str, Any]:
    """The number of codes of each token, and the largest of them."""
    top = codes.abs().topk(min(_CODES, codes.shape[-1]), -1).indices
    shown = [
        " ".join(f"{latent}:{value:.3g}" for latent, value in zip(*pair, strict=True) if value)
        for pair in zip(top.tolist(), codes.gather(-1, top).tolist(), strict=True)
    ]
    return {"l0": (codes != 0).sum(-1).cpu().numpy(), "codes": shown}


def _with_text(worst: pd.DataFrame, loaded: LanguageTask) -> pd.DataFrame:
    """The texts of tokens in place of their ids, and columns in the order in which they are read."""
    tokenizer = loaded.given.tokenizer
    inputs = loaded.windows("evaluation").inputs

    def text(ids: NDArray[Any]) -> str:
        decoded: str = tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
        return decoded

    texts: dict[str, list[str]] = {"before": [], "token": [], "next": []}
    for place, at in zip(worst["place"], worst["position"], strict=True):
        bounds = (max(at - _BEFORE, 0), at, at + 1, at + 2)
        for name, start, end in zip(texts, bounds, bounds[1:], strict=False):
            texts[name].append(text(inputs[place, start:end]))
    tops = {
        name: [text(one) for one in worst[name].to_numpy()[:, None]] for name in ("top_clean", "top_spliced")
    }
    where, harm = ["document", "window", "position"], ["kl", "loss_clean", "loss_spliced"]
    shown: pd.DataFrame = worst.assign(**texts, **tops)[[*where, *texts, *tops, *harm, "l0", "codes"]]
    return shown
