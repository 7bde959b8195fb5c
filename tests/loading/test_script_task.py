"""Tasks made by a script: loaded, hashed, measured through the same code path, refused with a reason."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Shrink

from remainder import evaluate
from remainder.errors import InterpretationError, MeasurementError, RemainderError, TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.model.module import ModuleRunner
from remainder.submission.open import open_submission, submissions_for
from remainder.task.script import windows_of
from remainder.task.spec import load_task

SCRIPT = """
import numpy as np
import torch
from torch import nn

from remainder.build import Built, Examples


class Double:
    def encode(self, x):
        return x

    def decode(self, codes):
        return 2 * codes


def build(seed, folder, width=4, numbers=False, groups=40):
    generator = np.random.default_rng(seed)

    def examples(documents, start):
        names = tuple(f"group-{start + i // 2}" for i in range(2 * documents))
        inputs = generator.normal(size=(len(names), 6, width)).astype(np.float32)
        targets = (inputs.sum(-1) > 0).astype(np.int64)
        scored = np.ones(targets.shape, dtype=bool)
        scored[:, 0] = False
        if numbers:
            targets = inputs.sum(-1)
        return Examples(inputs, targets, names, scored=scored)

    torch.manual_seed(seed)
    module = nn.Sequential()
    module.add_module("lower", nn.Linear(width, width))
    module.add_module("hidden", nn.Tanh())
    module.add_module("upper", nn.Linear(width, 1 if numbers else 2))
    splits = {"fit": examples(12, 0), "calibration": examples(30, 100), "evaluation": examples(groups, 200)}
    return Built(module, splits, {"double": Double()})
"""
TOML = """
version = "1-A"
title = "A script"
description = "For tests."
seed = 5
rungs = ["raw", "mean", "full", "permuted", "true"]
site = {{ hook_in = "hidden", hook_out = "hidden", width = 4 }}

[model]
name = "two layers"
licence = "MIT"

[build]
script = "build.py"
data = "random numbers"
data_licence = "MIT"
{more}

[tiers.quick]
evaluation_windows = 1000
calibration_windows = 1000
fit_windows = 1000
pairs = 1
dtype = "float32"
"""


def write(folder: Path, script: str = SCRIPT, more: str = "", toml: str = TOML) -> Path:
    place = folder / "scripts" / "two-layers"
    place.mkdir(parents=True, exist_ok=True)
    (place / "build.py").write_text(script)
    (place / "task.toml").write_text(toml.format(more=more))
    return place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.fixture
def loaded(place: Path) -> LoadedTask:
    return open_task(place, device="cpu")


def by_hand(loaded: LoadedTask, spliced: Any) -> torch.Tensor:
    """Outputs on the scored positions of evaluation with `spliced(hidden)` at the site, float64."""
    module = loaded.built.module.double()  # type: ignore[attr-defined]
    windows = loaded.windows("evaluation")
    with torch.no_grad():
        hidden = torch.tanh(module.lower(torch.from_numpy(windows.inputs).double()))
        return module.upper(spliced(hidden))[torch.from_numpy(windows.scored)]


def targets(loaded: LoadedTask) -> torch.Tensor:
    windows = loaded.windows("evaluation")
    assert windows.targets is not None
    return torch.from_numpy(windows.targets[windows.scored])


def test_classes_are_scored_like_the_next_token_of_a_text(loaded: LoadedTask) -> None:
    record = evaluate(loaded, Shrink(), name="shrink", rungs=loaded.task.rungs).record
    expected = targets(loaded)
    clean = by_hand(loaded, lambda x: x)
    shrunk = by_hand(loaded, lambda x: 0.7 * x + 0.2)
    cross_entropy = torch.nn.functional.cross_entropy
    raw = record.metrics.rungs["raw"].quenched
    assert record.metrics.clean.loss.value == pytest.approx(float(cross_entropy(clean, expected)), rel=1e-5)
    assert raw.loss.value == pytest.approx(float(cross_entropy(shrunk, expected)), rel=1e-5)
    accuracy = float((clean.argmax(-1) == expected).double().mean())
    assert 0.5 < accuracy < 1
    assert record.metrics.clean.accuracy.value == pytest.approx(accuracy, rel=1e-5)
    assert raw.accuracy.value == pytest.approx(
        float((shrunk.argmax(-1) == expected).double().mean()), rel=1e-5
    )
    kl = (clean.softmax(-1) * (clean.log_softmax(-1) - shrunk.log_softmax(-1))).sum(-1).mean()
    assert raw.kl.value == pytest.approx(float(kl), rel=1e-4)
    assert record.metrics.rungs["true"].quenched.gap.value == pytest.approx(0, abs=1e-6)
    assert record.documents.documents == 40
    assert record.documents.tokens == 40 * 2 * 5
    assert record.corpus.source == "random numbers"
    assert record.measurement.suffix == "the whole module"


def test_numbers_are_scored_by_their_squared_error(tmp_path: Path) -> None:
    loaded = open_task(write(tmp_path, more="parameters = { numbers = true }"), device="cpu")
    record = evaluate(loaded, Shrink(), rungs="all").record
    expected = targets(loaded).double()
    clean, shrunk = (by_hand(loaded, f)[:, 0] for f in (lambda x: x, lambda x: 0.7 * x + 0.2))
    raw = record.metrics.rungs["raw"].quenched
    constant = math.log(2 * math.pi) / 2
    assert raw.loss.value == pytest.approx(
        float((expected - shrunk).square().mean() / 2) + constant, rel=1e-5
    )
    assert raw.kl.value == pytest.approx(float((clean - shrunk).square().mean() / 2), rel=1e-4)
    assert raw.top1.value is raw.accuracy.value is None
    assert "numbers" in str(raw.accuracy.reason)
    assert record.metrics.gaussianity is not None  # loss gradients exist for numbers too
    # In squared loss a linear readout sees second moments only: no shape gap.
    assert record.metrics.telescope is not None
    assert record.metrics.telescope.shape.value == pytest.approx(0, abs=0.05)


def test_batching_changes_nothing(place: Path) -> None:
    results = [
        evaluate(open_task(place, device="cpu", batch_size=size), Shrink(), name="shrink").record
        for size in (3, 64)
    ]
    for rung in ("raw", "full", "permuted"):
        values = [result.metrics.rungs[rung].quenched.loss.value for result in results]
        assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_interpretations_of_the_task_are_scored_beside_the_baselines(loaded: LoadedTask) -> None:
    names = [submission.name for submission in submissions_for(loaded)]
    assert names[0] == "double"
    assert {"identity", "mean-only"} <= set(names)
    (double,) = submissions_for(loaded, ["double"])
    x = torch.ones(1, 2, 4)
    torch.testing.assert_close(
        double.build(loaded.task, lambda: loaded.fit_moments(9)).reconstruct(x)[1], 2 * x
    )
    with pytest.raises(InterpretationError, match="no submission"):
        submissions_for(loaded, ["triple"])


def test_the_seed_makes_another_world(place: Path) -> None:
    task = load_task(place)
    first, again = open_task(task), open_task(task)
    other = open_task(task.model_copy(update={"seed": 6}))
    assert (first.model, first.data) == (again.model, again.data)
    assert first.model.sha256 != other.model.sha256
    assert first.data.sha256 != other.data.sha256


def test_whatever_the_script_is_moves_the_hash(tmp_path: Path) -> None:
    hashes = {
        load_task(write(tmp_path, script, more)).hash
        for script, more in (
            (SCRIPT, ""),
            (SCRIPT + "\n", ""),
            (SCRIPT, "parameters = { width = 4 }"),
            (SCRIPT, 'files = ["build.py"]'),
        )
    }
    assert len(hashes) >= 3
    answers = [load_task(write(tmp_path, more=f'expected = "{name}.py"')).hash for name in ("one", "other")]
    assert answers[0] == answers[1]  # which they are moves no number; that there are some decides the ladder
    assert answers[0] != load_task(write(tmp_path)).hash


def test_windows_of_a_document_are_numbered(loaded: LoadedTask) -> None:
    windows = windows_of(loaded.built.examples["evaluation"])  # type: ignore[attr-defined]
    assert windows.indices == (0, 1) * 40
    assert len(set(windows.documents)) == 40


def test_at_a_site_of_two_places_a_reference_reads_what_it_rebuilds(tmp_path: Path) -> None:
    toml = TOML.replace('hook_in = "hidden"', 'hook_in = "lower"')
    loaded = open_task(write(tmp_path, toml=toml))
    names = [submission.name for submission in submissions_for(loaded)]
    assert {"identity", "mean-only"} <= set(names)
    identity = open_submission("identity").build(loaded.task, lambda: loaded.fit_moments(9))
    assert identity.reads == "out"
    batch = next(loaded.activations("evaluation").batches(4))
    read = identity.choose(batch.prefix.x_in, batch.prefix.x_out)
    assert torch.equal(identity.reconstruct(read)[1], batch.prefix.x_out)
    assert not torch.equal(batch.prefix.x_in, batch.prefix.x_out)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def build", "def make", "defines no function build"),
        ("return Built(module, splits", "return (module, splits", "build gave tuple"),
        ('"fit": examples(12, 0), ', "", "no examples of split fit"),
        (".astype(np.float32)", "", "inputs are float64"),
        ("targets = (inputs", "inputs[0, 0, 0] = np.nan\n        targets = (inputs", "inputs hold NaN"),
        ("Examples(inputs, targets, names", "Examples(inputs, targets, names[1:]", "documents have shape"),
        ("Examples(inputs, targets, names", "Examples(inputs, targets[1:], names", "targets have shape"),
        (
            "nn.Linear(width, 1 if",
            "nn.Flatten() if width else nn.Linear(width, 1 if",
            "the module gives shape",
        ),
        ('"hidden", nn.Tanh()', '"middle", nn.Tanh()', "no submodule 'hidden'"),
        ("import numpy as np", "import numpy as np)", "importing it failed: SyntaxError"),
        ("import numpy as np", "import nothing_of_that_name", "failed: ModuleNotFoundError"),
        ("torch.manual_seed(seed)", "raise SystemExit(0)", r"SystemExit: 0 \(build.py, line"),
        ("torch.manual_seed(seed)", "folder / 3", "failed: TypeError"),
        ("def build(seed, folder, ", "def build(seed, ", "unexpected keyword argument 'folder'"),
        ("examples(30, 100)", "examples(30, 200)", "document 'group-200' is in two splits"),
        ("> 0).astype(np.int64)", "> 0).astype(np.int64) * 7", "is class 7; the module has 2 outputs"),
        ("> 0).astype(np.int64)", "> 0).astype(np.int64) - 1", "a target is -1"),
        ("> 0).astype(np.int64)", "> 0).astype(np.float32)", "are numbers, and the module has 2 outputs"),
        (
            "scored = np.ones(targets.shape, dtype=bool)",
            "scored = np.zeros(targets.shape, dtype=bool)",
            "no position of evaluation is scored",
        ),
        ("scored=scored)", "scored=scored * 1)", "scored are int64|TypeCheckError"),
        ("scored=scored)", "scored=scored.tolist())", "scored is of type list|TypeCheckError"),
        ("start + i // 2}", "start + i // 2}\\n", "is no name"),
        ("examples(12, 0)", "examples(0, 0)", "failed|inputs have shape"),
        ("Built(module, splits", "Built(module.forward, splits", "module is of type method|TypeCheckError"),
        (
            "return Built",
            "nn.init.zeros_(module.lower.bias)\n    nn.init.zeros_(module.lower.weight)\n    return Built",
            "nothing but zeros",
        ),
        (
            "return Built",
            "module.upper.weight.data[:] = float('nan')\n    return Built",
            "own outputs are NaN",
        ),
    ],
)
def test_a_script_that_is_wrong_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SCRIPT
    with pytest.raises(RemainderError, match=message):
        open_task(write(tmp_path, SCRIPT.replace(old, new))).runner("float32")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('files = ["weights.safetensors"]', "weights.safetensors, and there is no such file"),
        ('sha256 = { a = "b" }', "build.sha256: this is found"),
        ("[splits]\nseed = 1\nevaluation = 2\ncalibration = 2", "makes model and data itself"),
    ],
)
def test_a_task_file_that_is_wrong_is_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(write(tmp_path, more=more))


def test_a_task_needs_a_text_or_a_script(tmp_path: Path) -> None:
    toml = TOML[: TOML.index("[build]")] + TOML[TOML.index("[tiers") :]
    with pytest.raises(TaskError, match=r"needs corpus, splits, positions.*needs \[build\]"):
        load_task(write(tmp_path, toml=toml))


class Twice(torch.nn.Module):
    """Calls its submodule twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.inner(x))


def test_a_submodule_that_is_called_twice_is_refused(loaded: LoadedTask) -> None:
    site = loaded.task.site.model_copy(update={"hook_in": "inner", "hook_out": "inner"})
    with pytest.raises(MeasurementError, match="inner was called 2 times"):
        ModuleRunner(Twice(), site, torch.ones(2, 3, 4))


def test_a_site_of_another_width_is_refused(loaded: LoadedTask) -> None:
    site = loaded.task.site.model_copy(update={"width": 5})
    with pytest.raises(TaskError, match=r"hidden gives shape \(2, 6, 4\); expected \(2, 6, 5\)"):
        ModuleRunner(loaded.built.module, site, torch.ones(2, 6, 4))  # type: ignore[attr-defined]


def test_a_module_that_is_not_deterministic_is_refused(loaded: LoadedTask) -> None:
    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + torch.rand_like(x)

    site = loaded.task.site.model_copy(update={"hook_in": "inner", "hook_out": "inner"})
    with pytest.raises(MeasurementError, match="deterministic"):
        ModuleRunner(Noisy(), site, torch.ones(2, 3, 4))


def test_half_precision_runs_in_half_precision(place: Path) -> None:
    record = evaluate(open_task(place, device="cpu"), Shrink(), dtype="bfloat16").record
    assert record.measurement.dtype == "bfloat16"
    assert record.measurement.bf16_deviation is not None
    assert 0 < abs(record.measurement.bf16_deviation["raw_gap"]) < 0.02


def test_codes_of_a_codebook_name_the_nearest_entry(loaded: LoadedTask, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    centroids = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    save_file({"centroids": centroids}, tmp_path / "codebook.safetensors")
    (tmp_path / "submission.toml").write_text(
        'name = "five"\nkind = "reconstruction"\ntitle = "five"\nauthors = []\nlicence = "MIT"\n'
        '[method]\nformat = "codebook"\npath = "codebook.safetensors"\n'
    )
    built = open_submission(tmp_path).build(loaded.task, lambda: loaded.fit_moments(9))
    x = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    codes, found = built.reconstruct(x)
    distances = (x[..., None, :] - centroids).square().sum(-1)
    np.testing.assert_array_equal(codes.argmax(-1).numpy(), distances.argmin(-1).numpy())
    torch.testing.assert_close(found, centroids[distances.argmin(-1)])
    assert torch.equal(codes.sum(-1), torch.ones(3, 6))
    record = evaluate(loaded, tmp_path).record
    assert set(record.submission.files) == {"codebook.safetensors"}
    assert record.complexity.l0.value == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mean": (4,)}, "holds mean; expected directions, mean"),
        ({"mean": (4,), "directions": (2, 5)}, r"directions has shape \(2, 5\); the site has width 4"),
        ({"mean": (4, 1), "directions": (2, 4)}, "mean has shape"),
        (None, "no readable safetensors|not a readable safetensors"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    loaded: LoadedTask, tmp_path: Path, arrays: dict[str, tuple[int, ...]] | None, message: str
) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "subspace.safetensors"
    if arrays is None:
        file.write_bytes(b"12345")
    else:
        save_file({name: torch.zeros(shape) for name, shape in arrays.items()}, file)
    (tmp_path / "submission.toml").write_text(
        'name = "two"\nkind = "reconstruction"\ntitle = "two"\nauthors = []\nlicence = "MIT"\n'
        '[method]\nformat = "subspace"\npath = "subspace.safetensors"\n'
    )
    with pytest.raises(InterpretationError, match=message):
        open_submission(tmp_path).build(loaded.task, lambda: loaded.fit_moments(9))
