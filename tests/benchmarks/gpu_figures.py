"""Measure on a CUDA device, and write the figures that tests/benchmarks/page.py puts on the page.

    PYTHONPATH=harness:tests/helpers python tests/benchmarks/gpu_figures.py OUT.json [CASE...]

Models have the shape of real ones and random weights: speed does not depend on what a weight is, and nothing
is fetched. SAEs keep the 32 largest of 16,384 latents and are random too. Each figure is of one call after a
first one, which makes what is kept for all later calls. After each figure the file is written anew, so that
what ends early leaves what was measured by then; a figure that `--seconds` leaves no room for is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from tiny import make_task
from together import evaluate_together
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedTokenizerFast

from remainder.api import Result
from remainder.loading.adapt import StoredModel
from remainder.loading.site import LanguageTask, open_on
from remainder.model.device import steady
from remainder.task.spec import CorpusSpec, ModelSpec, Positions, Site, SplitSpec, Tier
from remainder.task.text import Corpus

ROOM = 64.0
"""Gigabytes for the interpretations of a group (`REMAINDER_GROUP_GB`)."""
PACKAGES = ("torch", "transformer-lens", "transformers", "numpy")
RAW, LADDER = ("raw",), ("raw", "coded", "full")


class Case(NamedTuple):
    """A shape of a model, windows, and the calls that are timed."""

    config: Any
    block: int
    """The residual stream that enters it is what is rebuilt."""
    window: int
    tier: Tier
    calls: tuple[tuple[tuple[str, ...], int, int | None], ...]
    """Rungs, number of SAEs, windows in a pass (None: as many as by default)."""
    compare: int
    """Evaluation windows that are measured on the CPU too; 0: none."""
    latents: int = 16_384


def _tier(evaluation: int, calibration: int) -> Tier:
    return Tier(
        evaluation_windows=evaluation,
        calibration_windows=calibration,
        fit_windows=calibration,
        pairs=1,
        dtype="float32",
    )


SMOLLM: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA: dict[str, Any] = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL = {**SMOLLM, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
CASES: dict[str, Case] = {
    "SmolLM2-135M": Case(
        LlamaConfig(**SMOLLM),
        15,
        128,
        _tier(32, 64),
        (
            (RAW, 1, 8),
            (RAW, 64, 8),
            (LADDER, 1, 8),
            (LADDER, 16, 8),
            (RAW, 64, None),
            (LADDER, 16, None),
        ),
        8,
    ),
    "Gemma-2-2b": Case(
        Gemma2Config(**GEMMA),
        13,
        1024,
        _tier(8, 8),
        ((RAW, 1, 1), (RAW, 64, 1), (LADDER, 1, 1), (RAW, 1, None), (RAW, 16, None), (LADDER, 4, None)),
        0,
    ),
    "a model for trying this script": Case(
        LlamaConfig(**SMALL), 2, 32, _tier(4, 8), ((RAW, 2, None), (LADDER, 2, 2)), 2, 256
    ),
}


class TopK:
    """A random SAE: unit decoder rows, the encoder its transpose, the 32 largest codes kept."""

    def __init__(self, width: int, latents: int, seed: int, device: torch.device) -> None:
        generator = torch.Generator(device=device).manual_seed(seed)
        rows = torch.randn(latents, width, generator=generator, device=device)
        self.decoder = rows / rows.norm(dim=1, keepdim=True)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        kept = torch.topk(x @ self.decoder.T, 32, dim=-1)
        return torch.zeros(*x.shape[:-1], len(self.decoder), device=x.device).scatter_(
            -1, kept.indices, kept.values.relu()
        )

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.decoder


class Watch:
    """What a call takes on a device: seconds, the share of them that it was busy, and memory at most."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.shares = device, 0.0, [0.0]
        self.done = threading.Event()

    def _sample(self) -> None:
        while not self.done.wait(0.05):
            self.shares.append(float(torch.cuda.utilization()))

    @contextmanager
    def timed(self) -> Iterator[None]:
        cuda = self.device.type == "cuda"
        sampler = threading.Thread(target=self._sample)
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.shares = []
            sampler.start()
        start = time.perf_counter()
        try:
            yield
            if cuda:
                torch.cuda.synchronize()
        finally:
            self.seconds = time.perf_counter() - start
            self.done.set()
            if cuda:
                sampler.join()

    def figures(self, rows: int) -> dict[str, float]:
        most = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return {
            "seconds a row": self.seconds / rows,
            "busy": float(np.mean(self.shares)) / 100 if self.shares else 0.0,
            "peak GB": most / 1e9,
        }


def save(case: Case, folder: Path, device: torch.device) -> None:
    """A random model of the case's shape, with a tokenizer that nothing is read with."""
    torch.manual_seed(0)
    with device:
        model: Any = AutoModelForCausalLM.from_config(case.config)
    model.to(torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(8)}, unk_token="w0"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="w1", eos_token="w2", pad_token="w2", unk_token="w0"
    ).save_pretrained(folder)


def opened(name: str, folder: Path, device: torch.device) -> LanguageTask:
    """A task on a saved model, with random documents of one window each."""
    case, width = CASES[name], CASES[name].config.hidden_size
    hook, tier = f"blocks.{case.block}.hook_resid_pre", case.tier
    plain = make_task(folder)
    assert plain.corpus is not None
    corpus = CorpusSpec(**{**plain.corpus.model_dump(), "window": case.window})
    splits = SplitSpec(seed=3, evaluation=tier.evaluation_windows, calibration=tier.calibration_windows)
    task = make_task(
        model=ModelSpec(name=name, licence="MIT", hub=str(folder)),
        corpus=corpus,
        splits=splits,
        site=Site(hook_in=hook, hook_out=hook, width=width),
        positions=Positions(sink_norm=1e9),
        tiers={"quick": tier},
    )
    documents = tier.evaluation_windows + 2 * tier.calibration_windows
    ids = np.random.default_rng(0).integers(3, case.config.vocab_size, documents * case.window)
    bounds = np.arange(documents + 1, dtype=np.int64) * case.window
    names = tuple(f"page-{i}" for i in range(documents))
    text = Corpus(corpus, splits, ids.astype(np.int32), bounds, names, names)
    return open_on(task, StoredModel(task.model, folder), text, device)


def results(loaded: LanguageTask, saes: list[TopK], **settings: Any) -> list[Result]:
    """The public call; an SAE that could not be scored is an error here."""
    found = evaluate_together(loaded, saes, **settings)
    for one in found:
        if not isinstance(one, Result):
            raise one
    return [one for one in found if isinstance(one, Result)]


def apart(loaded: LanguageTask, case: Case, sae: TopK) -> dict[str, float]:
    """Loss and KL of the CPU less those of the device, nats a scored token: the largest row, and the mean."""
    sums = []
    for place in (torch.device("cpu"), loaded.device):
        other = replace(loaded, device=place)
        (found,) = results(other, [sae], rungs=LADDER, documents=case.compare)
        table = found.values.sort_values(["split", "document", "window", "rung", "draw"])
        sums.append((table[["loss", "kl"]].to_numpy(float).T / table["tokens"].to_numpy(float)).T)
    difference = sums[1] - sums[0]
    return {
        "rows": len(difference),
        "largest": float(np.nanmax(np.abs(difference))),
        "mean": float(abs(np.nanmean(difference))),
    }


def measured(name: str, device: torch.device, end: float, write: Any) -> None:
    """Figures of a case, given to `write` one by one."""
    case = CASES[name]
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        os.environ["REMAINDER_CACHE"] = f"{folder}/cache"
        save(case, Path(folder) / "model", device)
        loaded = opened(name, Path(folder) / "model", device)
        loaded.runner("float32")
        held = torch.cuda.memory_allocated() / 1e9 if device.type == "cuda" else 0.0
        number = max(number for _, number, _ in case.calls)
        saes = [TopK(case.config.hidden_size, case.latents, seed, device) for seed in range(number)]
        write("models", {"model": name, "GB": held, "SAE GB": saes[0].decoder.nbytes / 1e9})
        size, first = loaded.batch_size, Watch(device)
        print(name, "made after", time.perf_counter() - start, flush=True)
        with first.timed():
            results(loaded, saes[:1], rungs=LADDER)
        write("first", {"model": name, "seconds": first.seconds})
        for rungs, count, batch in case.calls:
            if time.time() > end:
                write("left out", {"model": name, "rungs": rungs, "SAEs": count})
                continue
            loaded.batch_size, watch = batch or size, Watch(device)
            with watch.timed():
                found = results(loaded, saes[:count], rungs=rungs)
            row = {"model": name, "rungs": rungs, "SAEs": count, "windows in a pass": loaded.batch_size}
            row["SAEs in memory"] = number
            row |= {"tokens": found[0].record.documents.tokens, **watch.figures(count)}
            print(row, found[0].record.provenance.timings, flush=True)
            write("calls", row)
        loaded.batch_size = size
        if case.compare and device.type == "cuda" and time.time() < end:
            write("apart", {"model": name, **apart(loaded, case, saes[0])})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="*", default=["SmolLM2-135M", "Gemma-2-2b"], metavar="case")
    parser.add_argument("--seconds", type=float, default=600, help="begin no further figure after this")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    os.environ["REMAINDER_GROUP_GB"] = str(ROOM)
    device, end = torch.device(given.device), time.time() + given.seconds
    steady(device)
    content: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "room": ROOM,
    }
    if given.out.is_file():
        content |= json.loads(given.out.read_text(encoding="utf-8"))

    def write(group: str, row: dict[str, Any]) -> None:
        content.setdefault(group, []).append(row)
        given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    for name in given.cases:
        measured(name, device, end, write)


if __name__ == "__main__":
    main()
