"""Compiled programs: against the interpreter of RASP, the compiler's own network, and enumeration."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from remainder.base.paths import project_root
from remainder.task.script import Built, load_script
from remainder.validation.claims import Claim, read_claims

ROOT = project_root() / "tasks" / "tracr"
NAMES = ("frac-prevs", "histogram", "reverse")
CATEGORICAL = ("histogram", "reverse")


@cache
def script(name: str) -> ModuleType:
    module = load_script(ROOT / f"{name}.py")
    assert isinstance(module, ModuleType)
    return module


@cache
def interpreter(name: str) -> dict[str, Tensor]:
    return load_file(ROOT / name / "interpreter.safetensors")


@cache
def task(name: str) -> Built:
    built = script("build").build(seed=11, folder=ROOT, program=name, documents=60)
    assert isinstance(built, Built)
    return built


def site(name: str) -> str:
    found = script("build").PROGRAMS[name].site
    assert isinstance(found, str)
    return found


def claims(name: str, seed: int = 0, documents: int = 20_000) -> dict[str, Claim]:
    """What is claimed of `drop-needed`, by quantity; of so many documents, hardly anything is estimated."""
    expected = load_script(ROOT / name / "expected.py")
    found = read_claims(expected, seed, {"program": name, "documents": documents}, name)
    return {one.quantity.text: one for one in found if one.interpretation == "drop-needed"}


def spliced(model: torch.nn.Module, where: str, tokens: Tensor, change: Any) -> Float[Tensor, "docs pos out"]:
    """Outputs with `change` of the activation at a site, everywhere."""
    hook = model.get_submodule(where).register_forward_hook(lambda module, args, output: change(output))
    with torch.no_grad():
        outputs: Tensor = model(tokens)
    hook.remove()
    return outputs


@pytest.mark.parametrize("name", NAMES)
def test_the_model_answers_as_the_interpreter_on_every_sequence(name: str) -> None:
    model, known = task(name).module, interpreter(name)
    tokens, answers = known["tokens"].long(), known["answers"]
    assert len(tokens) == sum(4**length for length in range(1, 6))
    with torch.no_grad():
        outputs = model(tokens)[:, 1:]
    there = tokens[:, 1:] != script("model").load_program(ROOT / name).program.pad
    if name in CATEGORICAL:
        assert torch.equal(outputs.argmax(-1)[there], answers.long()[there])
    else:
        assert float((outputs[..., 0] - answers)[there].abs().max()) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_residual_streams_are_those_of_the_compiler(name: str) -> None:
    model, known = task(name).module, interpreter(name)
    seen: dict[str, Tensor] = {}
    hooks = [
        part.register_forward_hook(lambda module, args, output, key=key: seen.update({key: output[0]}))
        for key, part in model.named_children()
        if key.startswith("resid")
    ]
    with torch.no_grad():
        model(known["example_tokens"].long()[None])
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen.pop("resid_0"), known["example_embedding"])
    torch.testing.assert_close(torch.stack(list(seen.values())), known["example_residuals"])


@pytest.mark.parametrize("name", NAMES)
def test_examples_ask_for_the_answers_of_the_interpreter(name: str) -> None:
    known = interpreter(name)
    answers = dict(zip(map(tuple, known["tokens"].tolist()), known["answers"].tolist(), strict=True))
    for examples in task(name).examples.values():
        assert examples.spliced is not None
        lengths = examples.spliced.sum(1)
        assert [sorted(lengths[i : i + 5]) for i in range(0, 300, 5)] == [[1, 2, 3, 4, 5]] * 60
        assert len(set(examples.documents)) == 60
        assert not examples.spliced[:, 0].any()
        for row, targets, length in zip(examples.inputs, examples.targets, lengths, strict=True):
            np.testing.assert_allclose(targets[1 : 1 + length], answers[tuple(row.tolist())][:length])


READ = {
    "reverse": {"indices", "one", "opp_idx-1", "reverse", "tokens"},
    "histogram": {"hist", "hist_selector_width_attn_output", "one", "tokens"},
    "frac-prevs": {"frac_prevs", "indices", "map", "one", "tokens"},
}


@pytest.mark.parametrize("name", NAMES)
def test_read_later_is_what_the_program_says(name: str) -> None:
    model = script("model").load_program(ROOT / name)
    read = script("model").read_later(model, site(name))
    labels = [label for label, is_read in zip(model.program.labels, read, strict=True) if is_read]
    assert {label.partition(":")[0] for label in labels} == READ[name]
    # After the letters were read, of the tokens only the mark of the beginning is still in use.
    letters = {label for label in labels if label.startswith("tokens:")}
    all_letters = {f"tokens:{letter}" for letter in (*"abcd", "compiler_bos")}
    assert letters == (all_letters if name == "reverse" else {"tokens:compiler_bos"})
    with pytest.raises(ValueError, match="no site"):
        script("model").read_later(model, "mlp_0")


@pytest.mark.parametrize("name", NAMES)
def test_noise_where_nothing_reads_changes_no_bit(name: str) -> None:
    model = script("model").load_program(ROOT / name)
    read, tokens = script("model").read_later(model, site(name)), interpreter(name)["tokens"].long()
    noise = 100 * torch.randn(len(tokens), 6, len(read), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = model(tokens)
    assert torch.equal(spliced(model, site(name), tokens, lambda x: x + noise * ~read), clean)
    assert not torch.equal(spliced(model, site(name), tokens, lambda x: x + noise * read), clean)


@pytest.mark.parametrize("name", NAMES)
def test_leaving_out_what_is_not_read_changes_no_bit(name: str) -> None:
    built = task(name)
    examples = built.examples["evaluation"]
    assert examples.spliced is not None
    tokens, mask = torch.from_numpy(examples.inputs), torch.from_numpy(examples.spliced)[..., None]
    with torch.no_grad():
        clean = built.module(tokens)
    for left_out in ("drop-unread", "keep-all-read"):
        one = built.interpretations[left_out]
        changed = torch.zeros(1)

        def put(x: Tensor, one: Any = one, changed: Tensor = changed) -> Tensor:
            reconstruction = one.decode(one.encode(x))
            changed += (reconstruction - x)[mask[..., 0]].square().sum()
            return torch.where(mask, reconstruction, x)

        assert torch.equal(spliced(built.module, site(name), tokens, put), clean)
        assert float(changed) > 100, "a variable that was left out must have varied"


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("reverse", "indices"),
        ("reverse", "opp_idx-1"),
        ("reverse", "tokens"),
        ("histogram", "hist_selector_width_attn_output"),
        ("frac-prevs", "indices"),
        ("frac-prevs", "map"),
    ],
)
def test_no_variable_of_the_circuit_can_be_left_out(name: str, variable: str) -> None:
    built, build = task(name), script("build")
    facts = script("model").load_program(ROOT / name).program
    circuit = built.interpretations["keep-all-read"]
    fewer = tuple(i for i in circuit.coordinates if i not in facts.coordinates(variable))
    one = build.Kept(circuit.mean, fewer)
    examples = built.examples["evaluation"]
    assert examples.spliced is not None
    mask = torch.from_numpy(examples.spliced)
    outputs = spliced(
        built.module,
        site(name),
        torch.from_numpy(examples.inputs),
        lambda x: torch.where(mask[..., None], one.decode(one.encode(x)), x),
    )[mask]
    targets = torch.from_numpy(examples.targets)[mask]
    if name in CATEGORICAL:
        assert float((outputs.argmax(-1) != targets).float().mean()) > 0.2
    else:
        assert float((outputs[:, 0] - targets).square().mean()) > 0.01


@cache
def every_activation(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All sequences: tokens, mask, answers, chance of each token under the task's law, activations."""
    model, known = task(name).module, interpreter(name)
    tokens = known["tokens"].long()
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[:, 1:] = known["answers"] >= 0
    lengths = mask.sum(1)
    chance = (1 / (15.0 * 4.0**lengths))[:, None] * mask
    answers = torch.zeros(tokens.shape, dtype=known["answers"].dtype)
    answers[:, 1:] = known["answers"]
    seen: list[Tensor] = []
    spliced(model, site(name), tokens, lambda x: seen.append(x))
    return tokens, mask, answers, chance, seen[0]


def test_the_staircase_is_the_network_between_its_steps() -> None:
    """At values that no sequence has, as a mean may be: on the ramps, and at their ends."""
    model, known = task("histogram").module, interpreter("histogram")
    expected = load_script(ROOT / "histogram" / "expected.py")
    (dropped,) = (
        script("model")
        .load_program(ROOT / "histogram")
        .program.coordinates(script("build").PROGRAMS["histogram"].needed)
    )
    x = np.linspace(0.15, 1.05, 901)

    def put(activations: Tensor) -> Tensor:
        changed = activations.clone()
        changed[:, 1, dropped] = torch.from_numpy(x).float()
        return changed

    tokens = known["tokens"][-1:].long().expand(len(x), -1)
    outputs = spliced(model, site("histogram"), tokens, put)[:, 1].double().numpy()
    np.testing.assert_allclose(outputs, 10 * expected.staircase(x), atol=2e-3)
    between = (outputs > 1) & (outputs < 9)
    assert between.any(1).sum() > 30  # the grid does see the ramps


def test_a_mean_between_two_classes_is_claimed_as_it_is() -> None:
    """In this world the mean on `fit` lies on a ramp, where the loss dips by a quarter."""
    there, usual = (claims("histogram", seed, documents=200)["raw gap"] for seed in (345743453, 0))
    assert there.expected == pytest.approx(4.683, abs=1e-3)
    assert usual.expected == pytest.approx(6.385, abs=1e-3)
    assert max(there.allowance, usual.allowance) <= 1e-3  # either would fail in the other's world


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rung", ["raw", "permuted", "full"])
def test_claims_are_what_an_enumeration_of_the_model_finds(name: str, rung: str) -> None:
    """The network itself on all sequences, its noise drawn here: apart from formulas and harness."""
    tokens, mask, answers, chance, x = every_activation(name)
    assert float(chance.sum()) == pytest.approx(1, abs=1e-5)
    model = task(name).module
    facts = script("model").load_program(ROOT / name).program
    dropped = facts.coordinates(script("build").PROGRAMS[name].needed)
    values, weights = x[mask][:, dropped].double(), chance[mask].double()
    mean = weights @ values
    generator = torch.Generator().manual_seed(1)
    if rung == "full":
        centred = values - mean
        eigenvalues, vectors = torch.linalg.eigh((weights[:, None] * centred).T @ centred)
        root = vectors * eigenvalues.clamp(min=0).sqrt()

    def put(x: Tensor) -> Tensor:
        count = int(mask.sum())
        new = mean.expand(count, -1)
        if rung == "permuted":
            new = values[torch.multinomial(weights, count, True, generator=generator)]
        if rung == "full":
            noise = torch.randn(count, len(dropped), generator=generator, dtype=torch.float64)
            new = mean + noise @ root.T
        x = x.clone()
        rows = x[mask]
        rows[:, dropped] = new.float()
        x[mask] = rows
        return x

    def score(outputs: Tensor) -> tuple[float, float]:
        """Error and loss less its constant."""
        wanted = answers[mask]
        if name in CATEGORICAL:
            wrong = (outputs[mask].argmax(-1) != wanted).double()
            loss = torch.nn.functional.cross_entropy(outputs[mask], wanted.long(), reduction="none")
        else:
            wrong = torch.zeros(len(wanted), dtype=torch.float64)
            loss = (outputs[mask][:, 0] - wanted).square() / 2
        return float(weights @ wrong), float(weights @ loss.double())

    clean = score(model(tokens))
    rounds = 1 if rung == "raw" else 20
    found = np.array([score(spliced(model, site(name), tokens, put)) for _ in range(rounds)])
    error, loss = found.mean(0)
    off = np.maximum(4 * found.std(0) / rounds**0.5, 1e-4)
    claimed = claims(name)
    assert clean[0] == 0
    if name in CATEGORICAL:
        assert clean[1] == pytest.approx(claimed["clean"].expected, abs=2e-6)
    compared = 0
    for quantity, value, tolerance in (("error", error, off[0]), ("gap", loss - clean[1], off[1])):
        if f"{rung} {quantity}" in claimed:
            assert claimed[f"{rung} {quantity}"].expected == pytest.approx(value, abs=tolerance)
            compared += 1
        if f"{rung} {quantity} at least" in claimed:
            assert 0.3 < claimed[f"{rung} {quantity} at least"].expected < value
            compared += 1
    assert compared > 0


@pytest.mark.parametrize("name", NAMES)
def test_claims_of_what_is_not_read_are_zero(name: str) -> None:
    expected = load_script(ROOT / name / "expected.py")
    found = [
        one
        for one in read_claims(expected, 0, {"program": name}, name)
        if one.interpretation != "drop-needed" and one.quantity.rung != "clean"
    ]
    assert {one.interpretation for one in found} == {"drop-unread", "keep-all-read"}
    assert {one.quantity.rung for one in found} == {"raw", "full", "permuted"}
    assert {(one.expected, one.allowance) for one in found} == {(0.0, 0.0)}


def test_stored_weights_are_small_and_described() -> None:
    for name in NAMES:
        facts = json.loads((ROOT / name / "program.json").read_text())
        weights = load_file(ROOT / name / "weights.safetensors")
        assert weights["token_embed"].shape == (6, len(facts["labels"]))
        assert {str(value.dtype) for value in weights.values()} <= {"torch.float16", "torch.float32"}
    stored: list[Path] = sorted(ROOT.glob("*/weights.safetensors"))
    assert len(stored) == len(NAMES)
    assert sum(path.stat().st_size for path in stored) < 300_000
