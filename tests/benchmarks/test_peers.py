"""The public call against SAELens' evaluator and a plain loop, on the same model, tokens and SAEs.

CPU time of one process with one thread; all are run in turn, several times, and each ratio is the median of
the ratios within a round. So neither another process nor a slow minute of the machine moves them much.
What the peers do is done for every SAE anew, as both do it. Activations of the calibration windows and those
of the evaluation windows lie in the cache; the rows of transform coding, once a task, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from saelens_peer import all_numbers, as_saelens
from together import evaluate_together

from remainder.base.paths import project_root
from remainder.loading.fetch import load_bridge, local_model
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.task.spec import Tier, load_task

TASK, HOOK, LAYER = "smollm2-135m/resid-15", "blocks.14.hook_out", 14
WINDOWS = 12
ROUNDS = ((1, 2), (1, 4, 16))
"""Numbers of SAEs, round after round."""
TIER = Tier(evaluation_windows=WINDOWS, calibration_windows=16, fit_windows=16, pairs=1, dtype="float32")
SINK_NORM = 1200.0  # the task's
CLOSE = 1e-4  # nats


class Subject(NamedTuple):
    """One model three times, as each of the three loads it, and what is measured on it."""

    loaded: LoadedTask
    tokens: torch.Tensor
    bridge: Any
    """SAELens' model."""
    plain: Any
    """The model of transformers."""

    def sae(self, k: int = 32, hook: str | None = None) -> Any:
        """The TopK SAE of the baselines, its `k` largest codes kept."""
        from sae_lens import SAE

        folder = project_root() / "baselines/topk-sae-32/weights"
        sae = SAE.load_from_disk(str(folder), dtype="float32").eval()
        sae.activation_fn.k = k
        if hook is not None:
            sae.cfg.metadata.hook_name = hook
        return sae


@pytest.fixture(scope="module")
def subject() -> Subject:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    task = load_task(TASK).model_copy(update={"tiers": {"bench": TIER}})
    loaded: Any = open_task(task, device="cpu")
    tokens = torch.from_numpy(loaded.windows("evaluation").first(WINDOWS).inputs)
    folder = local_model(task.model)
    bridge = as_saelens(load_bridge(task.model, folder=folder))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Subject(loaded, tokens, bridge, plain)


def plain_loop(model: Any, sae: Any, tokens: torch.Tensor) -> dict[str, float]:
    """What one writes in an afternoon: a clean pass and one with a hook, losses and KL, the task's masks."""
    here = torch.ones_like(tokens, dtype=torch.bool)

    def put(module: Any, given: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        here.copy_(x.norm(dim=-1) <= SINK_NORM)
        here[:, 0] = False  # the beginning-of-sequence token
        estimate = torch.where(here[..., None], sae.decode(sae.encode(x)), x)
        return (estimate, *output[1:]) if isinstance(output, tuple) else estimate

    with torch.inference_mode():
        clean = model(tokens).logits.log_softmax(-1)[:, :-1]
        handle = model.model.layers[LAYER].register_forward_hook(put)
        try:
            spliced = model(tokens).logits.log_softmax(-1)[:, :-1]
        finally:
            handle.remove()
        scored, targets = here[:, :-1], tokens[:, 1:, None]
        kl = (clean.exp() * (clean - spliced)).sum(-1)[scored]
        losses = [-each.gather(-1, targets)[..., 0][scored] for each in (clean, spliced)]
    means = (float(each.double().mean()) for each in (*losses, kl))
    return dict(zip(("clean", "loss", "kl"), means, strict=True))


def ours(subject: Subject, number: int, **settings: Any) -> list[Any]:
    """The public call for several SAEs."""
    saes = [subject.sae(32 - i) for i in range(number)]
    return evaluate_together(subject.loaded, saes, tier="bench", **settings)


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU time that something takes, and what it gives."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def in_turn(
    peer: Callable[[], Any], mine: Callable[[int], Any], rounds: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], Any, Any]:
    """Ratios for some numbers of SAEs, and what both found at last."""
    mine(1)  # activations and hooks are at hand from now on
    found: dict[str, list[float]] = {}
    for numbers in rounds:
        theirs, answer = cpu(peer)
        times = {}
        for number in numbers:
            times[number], results = cpu(partial(mine, number))
        most = max(numbers)
        row = {f"ratio {number}": number * theirs / seconds for number, seconds in times.items()}
        row |= {f"further, of {most}": theirs * (most - 1) / (times[most] - times[1])}
        row |= {"seconds": times[1], "seconds peer": theirs}
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    medians["ratio further"] = medians.pop(f"further, of {max(map(max, rounds))}")
    tokens = WINDOWS * 128
    for whose in ("", " peer"):
        medians[f"tokens/s{whose}"] = tokens / medians[f"seconds{whose}"]
    return medians, answer, results


FEW = ((1, 2), (1, 4))
WAYS: dict[str, tuple[str, dict[str, Any], Any]] = {
    'rungs=("raw",), compat=("saelens",)': (
        "run_evals",
        {"rungs": ("raw",), "compat": ("saelens",)},
        ROUNDS,
    ),
    'rungs=("raw",), compat=True': ("run_evals", {"rungs": ("raw",), "compat": True}, FEW),
    'rungs=("raw",)': ("plain loop", {"rungs": ("raw",)}, FEW),
}
"""Calls: what each is held against, its arguments, and its rounds."""


@pytest.mark.benchmark(group="peers")
@pytest.mark.parametrize("way", WAYS)
def test_peer(benchmark: Any, subject: Subject, way: str) -> None:
    name, settings, rounds = WAYS[way]
    if name == "run_evals":
        peer = partial(all_numbers, subject.sae(32, HOOK), subject.bridge, subject.tokens)
    else:
        peer = partial(plain_loop, subject.plain, subject.sae(), subject.tokens)
    mine = partial(ours, subject, **settings)
    medians, theirs, results = benchmark.pedantic(in_turn, args=(peer, mine, rounds), rounds=1)
    record = results[0].record
    if name == "run_evals":
        found = record.compat.saelens
        pairs = [
            (found.ce_loss_with_sae, "ce_loss_with_sae"),
            (found.ce_loss_without_sae, "ce_loss_without_sae"),
            (found.kl_div_with_sae, "kl_div_with_sae"),
        ]
    else:
        raw = record.metrics.rungs["raw"].quenched
        pairs = [(raw.kl, "kl"), (raw.loss, "loss")]
    apart = max(abs(number.value - theirs[key]) for number, key in pairs)
    benchmark.extra_info.update(
        medians, call=way, peer=name, apart=apart, rounds=len(rounds), windows=WINDOWS
    )
    assert apart < CLOSE


class Counted:
    """A runner that counts the windows of each half."""

    def __init__(self, runner: Any) -> None:
        self.suffix_windows = self.prefix_windows = 0
        suffix, prefix = runner.suffix, runner.prefix

        def counted_suffix(inputs: torch.Tensor, *rest: Any) -> Any:
            self.suffix_windows += len(inputs)
            return suffix(inputs, *rest)

        def counted_prefix(inputs: torch.Tensor) -> Any:
            self.prefix_windows += len(inputs)
            return prefix(inputs)

        runner.suffix, runner.prefix = counted_suffix, counted_prefix


COUNTED: dict[str, dict[str, Any]] = {
    'rungs=("raw",)': {"rungs": ("raw",)},
    'rungs=("raw",), compat=("saelens",)': {"rungs": ("raw",), "compat": ("saelens",)},
    'rungs=("raw",), compat=True': {"rungs": ("raw",), "compat": True},
    "the task's own rungs, one pair of draws": {},
}


@pytest.mark.benchmark(group="passes")
@pytest.mark.parametrize("call", COUNTED)
def test_passes_a_row(benchmark: Any, call: str) -> None:
    """Counted in the small model, whose passes are as many."""
    loaded: Any = open_task("tiny/wiki", device="cpu")
    loaded.task = loaded.task.model_copy(update={"tiers": {"bench": TIER}})
    runner = loaded.runner("float32")
    settings, counted = COUNTED[call], {}
    saes = ["wiki-topk", "wiki-l1", "wiki-jumprelu"]
    for some in (saes[:1], saes[:1], saes):  # what is made once a task is there after the first
        counter = Counted(runner)
        try:
            for one in evaluate_together(loaded, some, tier="bench", **settings):
                assert one.record
        finally:
            del runner.suffix, runner.prefix
        counted[len(some)] = counter.suffix_windows / WINDOWS
    benchmark.pedantic(
        evaluate_together, args=(loaded, saes[:1]), kwargs={"tier": "bench", **settings}, rounds=1
    )
    benchmark.extra_info.update({"call": call, "first": counted[1], "further": (counted[3] - counted[1]) / 2})
