"""Train the language model of tiny/wiki and tiny/wiki-mlp; write `model/` and `train.log`.

    python tasks/tiny/wiki/train.py

1. A byte-level BPE of 4,096 tokens is trained on the `fit` documents alone. Which documents are long enough
   for a split depends on the tokenizer in turn, so this is repeated until the splits stay.
2. Windows of the `fit` documents, cut at new offsets in every epoch; four documents are held out for the
   choice of settings and for stopping early. Dropout, random input tokens (data noising: Xie et al. 2017, a
   neural counterpart of interpolation with unigrams) and weight decay, since the text is short: the model
   sees it many times. Muon (in torch from 2.9 on) for the matrices of the blocks, AdamW for the rest.
3. The weights with the lowest loss on the held-out documents are stored as float16. Their loss on
   `evaluation`, on the tokens that the tasks score, is set against interpolated Kneser-Ney models of the same
   text and tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from remainder.model.bridge import weights_hash
from remainder.record.intervals import Bootstrap
from remainder.task.spec import load_task
from remainder.task.text import Corpus, Document, read_documents, text_of

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from kneser_ney import KneserNey  # noqa: E402 -- lies beside this script, in no package

TASK = load_task("tiny/wiki")
assert TASK.corpus is not None
assert TASK.splits is not None
CORPUS, SPLITS, BOS = TASK.corpus, TASK.splits, TASK.corpus.bos
VOCABULARY, HELD_OUT, EVERY = 4096, 4, 100
SETTINGS = {"hidden_size": 112, "intermediate_size": 304, "num_hidden_layers": 4, "num_attention_heads": 4}


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE whose token 0 begins a window; every byte is a token, so nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return tokenizer


def tokenise(documents: list[Document]) -> tuple[Tokenizer, Corpus]:
    """Step 1: the tokenizer, and the text in its tokens."""
    chosen = documents
    while True:
        tokenizer = train_tokenizer([document.text for document in chosen])
        ids = [tokenizer.encode(document.text).ids for document in documents]
        corpus = Corpus(
            spec=CORPUS,
            splits=SPLITS,
            tokens=np.concatenate([np.asarray(row, dtype=np.int32) for row in ids]),
            bounds=np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64),
            ids=tuple(document.id for document in documents),
            titles=tuple(document.title for document in documents),
        )
        found = [documents[place] for place in corpus.documents("fit")]
        if found == chosen:
            return tokenizer, corpus
        chosen = found


def save_tokenizer(tokenizer: Tokenizer) -> None:
    """Save it as transformers does, in as few bytes as it goes."""
    folder = HERE / "model"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    ).save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    compact = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(compact + "\n", encoding="utf-8")


def cut(document: NDArray[np.int32], start: int) -> NDArray[np.int64]:
    """Windows of a document from place `start` on, with the beginning-of-sequence token before each."""
    length = CORPUS.window - 1
    count = (len(document) - start) // length
    rows = document[start : start + count * length].reshape(count, length)
    return np.concatenate([np.full((count, 1), BOS), rows], axis=1).astype(np.int64)


def batches(documents: list[NDArray[np.int32]], size: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Windows without end: every epoch cuts documents at new offsets and takes windows in a new order."""
    length = CORPUS.window - 1
    while True:
        starts = [int(random.integers(min(length, len(row) - length + 1))) for row in documents]
        rows = np.concatenate([cut(row, start) for row, start in zip(documents, starts, strict=True)])
        rows = rows[random.permutation(len(rows))]
        for first in range(0, len(rows) - size + 1, size):
            yield torch.from_numpy(rows[first : first + size])


def make_model(seed: int, dropout: float) -> LlamaForCausalLM:
    """A small Llama, with dropout of embeddings, of what a block adds, and of the last hidden state."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CORPUS.window,
        bos_token_id=BOS,
        eos_token_id=BOS,
        tie_word_embeddings=True,
        **SETTINGS,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # the fastest of them on a CPU, for heads this small
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            writes = "o_proj" in name or "down_proj" in name
            scale = 0.02 if "embed" in name else weight.shape[1] ** -0.5 * (0.5 if writes else 1.0)
            nn.init.normal_(weight, std=scale)

    def drop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, tuple):
            return (functional.dropout(output[0], dropout, module.training), *output[1:])
        return functional.dropout(output, dropout, module.training)

    places = [model.model.embed_tokens, model.model.norm]
    for block in model.model.layers:
        places += [block.self_attn, block.mlp]
    for place in places:
        place.register_forward_hook(drop)
    return model


class MeanLoss(torch.autograd.Function):
    """Mean cross-entropy of hidden states under an unembedding.

    256 rows at a time, so that their logits stay in the cache; gradients are made on the way, from bfloat16
    products.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        context: Any, hidden: Tensor, unembedding: Tensor, targets: Tensor
    ) -> Tensor:
        weight, total, rows = unembedding.bfloat16(), 0.0, len(targets)
        by_hidden, by_weight = torch.empty_like(hidden), torch.zeros_like(unembedding)
        for first in range(0, rows, 256):
            part = hidden[first : first + 256].bfloat16()
            target = targets[first : first + 256, None]
            log_p = (part @ weight.T).float().log_softmax(-1)
            total -= float(log_p.gather(1, target).sum())
            error = log_p.exp_()
            error.scatter_add_(1, target, torch.full(target.shape, -1.0))
            error = (error / rows).bfloat16()
            by_hidden[first : first + 256] = error @ weight
            by_weight += error.T @ part
        context.save_for_backward(by_hidden, by_weight)
        return hidden.new_tensor(total / rows)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        by_hidden, by_weight = context.saved_tensors
        return by_hidden * gradient, by_weight * gradient, None


@torch.no_grad()
def scored_losses(model: LlamaForCausalLM, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Loss of every token that a task scores, [windows, window − 2]: not of the first, which BOS predicts."""
    model.eval()
    losses = []
    for part in torch.from_numpy(rows).split(64):
        logits = model(part[:, :-1], use_cache=False).logits[:, 1:]
        losses.append(functional.cross_entropy(logits.transpose(1, 2), part[:, 2:], reduction="none"))
    model.train()
    return torch.cat(losses).double().numpy()


def train(
    documents: list[NDArray[np.int32]], held_out: NDArray[np.int64], options: argparse.Namespace
) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """Step 2: the model with the lowest loss on `held_out`, and its log."""
    random = np.random.default_rng(options.seed)
    model = make_model(options.seed, options.dropout)
    # Muon is for matrices between hidden states; embedding and norms go to AdamW.
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "embed" not in name]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=options.muon_rate, weight_decay=options.decay / 10, momentum=0.95),
        torch.optim.AdamW(
            [
                {"params": [model.model.embed_tokens.weight], "weight_decay": options.decay},
                {"params": norms, "weight_decay": 0.0},
            ],
            lr=options.rate,
            betas=(0.9, 0.98),
        ),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(
                1.0, (step + 1) / 100, max(0.02, (options.steps - step) / (0.6 * options.steps))
            ),
        )
        for optimizer in optimizers
    ]
    frequency = np.bincount(np.concatenate(documents), minlength=VOCABULARY).astype(float)
    frequency /= frequency.sum()
    best, kept, log, total, start = np.inf, model.state_dict(), [], 0.0, time.monotonic()
    stream = batches(documents, options.batch, random)
    for step in range(1, options.steps + 1):
        rows = next(stream)
        noise = torch.from_numpy(random.choice(VOCABULARY, size=rows.shape, p=frequency))
        noisy = torch.from_numpy(random.random(rows.shape) < options.noise)
        noisy[:, 0] = False
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(torch.where(noisy, noise, rows)[:, :-1], use_cache=False).last_hidden_state
        loss = MeanLoss.apply(hidden.float().flatten(0, 1), model.lm_head.weight, rows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        total += float(loss.detach())
        if step % EVERY == 0:
            found = float(scored_losses(model, held_out).mean())
            seconds = round(time.monotonic() - start)
            log.append(
                {
                    "step": step,
                    "train": round(total / EVERY, 4),
                    "held_out": round(found, 4),
                    "seconds": seconds,
                }
            )
            print(json.dumps(log[-1]), flush=True)
            total = 0.0
            if found < best:
                best = found
                kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    return model, log


def pooled(losses: NDArray[np.float64], documents: tuple[str, ...]) -> dict[str, float]:
    """Mean over tokens with its interval over documents; losses [windows, tokens]."""
    names = sorted(set(documents))
    place = np.array([names.index(name) for name in documents])
    totals = np.bincount(place, weights=losses.sum(1))
    tokens = np.bincount(place) * float(losses.shape[1])
    estimate = Bootstrap(len(names), seed=TASK.seed).mean(totals, tokens)
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return {"value": round(estimate.value, 4), "low": round(estimate.low, 4), "high": round(estimate.high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the language model of tiny/wiki.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16, help="windows")
    parser.add_argument("--rate", type=float, default=5e-3, help="of AdamW")
    parser.add_argument("--muon-rate", type=float, default=2e-2)
    parser.add_argument(
        "--decay", type=float, default=0.3, help="weight decay of AdamW; Muon's is a tenth of it"
    )
    parser.add_argument("--dropout", type=float, default=0.15, help="share of hidden units set to 0")
    parser.add_argument("--noise", type=float, default=0.1, help="share of input tokens that are random ones")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    documents = read_documents(text_of(CORPUS.wheel))
    tokenizer, corpus = tokenise(documents)
    (HERE / "model").mkdir(exist_ok=True)
    save_tokenizer(tokenizer)
    fit = [corpus.tokens[corpus.bounds[d] : corpus.bounds[d + 1]] for d in corpus.documents("fit")]
    held_out = np.concatenate([cut(document, 0) for document in fit[:HELD_OUT]])
    model, log = train(fit[HELD_OUT:], held_out, options)
    lines: list[dict[str, object]] = [
        {
            "settings": vars(options) | SETTINGS,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "fit_documents": len(fit),
            "fit_tokens": sum(map(len, fit)),
            "held_out_tokens": sum(map(len, fit[:HELD_OUT])),
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        *log,
    ]

    # Step 3.
    windows = corpus.windows("evaluation")
    found = {"float32": scored_losses(model, windows.inputs)}
    model.half().save_pretrained(HERE / "model")
    (HERE / "model" / "generation_config.json").unlink(missing_ok=True)
    found["stored as float16"] = scored_losses(model.float(), windows.inputs)
    for order, name in ((2, "bigram"), (3, "trigram"), (4, "4-gram")):
        ngrams = KneserNey.fit(fit, order=order, vocabulary=VOCABULARY, bos=BOS)
        found[f"Kneser-Ney {name}"] = -np.log(ngrams.probabilities(windows.inputs[:, 1:])[:, 1:])
    for name in ("bigram", "trigram", "4-gram"):
        found[f"Kneser-Ney {name} - float16"] = found[f"Kneser-Ney {name}"] - found["stored as float16"]
    summary = {name: pooled(losses, windows.documents) for name, losses in found.items()}
    lines.append({"evaluation": summary, "unit": "nats per scored token, 95 % intervals over documents"})
    lines.append({"weights_sha256": weights_hash(HERE / "model"), "tokens_sha256": corpus.hash})
    (HERE / "train.log").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(json.dumps(lines[-2:], indent=1))


if __name__ == "__main__":
    main()
