"""Tasks are data: loaded, merged, refused with a reason, and locked so that no number moves silently."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import make_task

from remainder.base.files import read_toml
from remainder.base.paths import project_root
from remainder.errors import TaskError
from remainder.task import lock as lock_module
from remainder.task import spec as module
from remainder.task.lock import read_lock, write_lock
from remainder.task.spec import Task, list_tasks, load_task

MODELS = ("gpt2", "qwen2.5-0.5b", "smollm2-135m")
IDS = {
    *(f"controls/{name}" for name in ("alignment", "gaussian-equivalence", "gaussian-equivalence-relu")),
    *(f"controls/impurities-{kind}" for kind in ("equal", "geometric", "per-sample", "strict")),
    *(f"controls/{name}" for name in ("linear-gaussian", "parity", "two-point")),
    *(
        f"controls/{name}"
        for name in ("bernoulli-gaussian", "conditional-equivalence", "independent-residual", "mixture")
    ),
    "controls/quadratic-chaos",
    *(f"controls/{name}-{number}" for name in ("shell-chain", "two-sites") for number in (1, 2)),
    *(f"controls/width-{width}" for width in (16, 32, 64, 128, 256, 512)),
    "gemma-2-2b/resid-13",
    *(f"gemma-3-270m/{site}" for site in ("mlp-9", "resid-5", "resid-9", "resid-13")),
    "gpt2/resid-8",
    *(f"{model}/{name}" for model in MODELS for name in ("ioi", "agreement", "greater-than", "pronouns")),
    "pythia-70m/resid-4",
    *(f"smollm2-135m/{site}" for site in ("attn-15", "mlp-15", "resid-8", "resid-15", "resid-22")),
    *(f"smollm2-135m/resid-15-{text}" for text in ("python", "wiki-to-python")),
    *(f"tiny/{name}" for name in ("digits", "induction", "induction-circuit", "induction-heads")),
    "tiny/modular-addition",
    *(f"tiny/{name}" for name in ("rule-and-noise", "wiki", "wiki-mlp")),
    *(
        f"tracr/{name}"
        for name in ("frac-prevs", "histogram", "histogram-circuit", "reverse", "reverse-circuit")
    ),
}
"""Ids that results refer to. A new task is added here; none is ever taken out."""

TASKS = project_root() / "tasks"
EXAMPLE = "smollm2-135m/resid-15"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's tasks that may be changed."""
    shutil.copytree(TASKS, tmp_path / "tasks")
    for where in (module, lock_module):
        monkeypatch.setattr(where, "project_root", lambda: tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


# the tasks of this project


def test_ids_only_grow() -> None:
    assert set(list_tasks()) == IDS


@pytest.mark.parametrize("name", list_tasks())
def test_every_task_is_locked_as_it_is(name: str) -> None:
    """If this fails: raise N of the version where numbers can move, then `python -m remainder.task`."""
    locked = read_lock().tasks
    task = load_task(name)
    assert (locked[name].version, locked[name].hash) == (task.version, task.hash)
    assert set(locked) == set(list_tasks())


@pytest.mark.parametrize("name", list_tasks())
def test_every_task_pins_what_it_measures(name: str) -> None:
    task = load_task(name)
    assert task.id == name
    if task.build is None:
        # What is on a hub was not at hand to be hashed; a commit there says as much.
        on_hub = task.model.hub is not None and re.fullmatch("[0-9a-f]{40}", task.model.revision or "")
        if task.circuit is not None:
            assert on_hub or (task.model.weights_sha256 and task.circuit.prompts_sha256)
        else:
            assert on_hub or (task.model.weights_sha256 and task.corpus.tokens_sha256)
            assert task.corpus.bos in task.corpus.special_tokens
            assert task.splits.evaluation >= 40
    else:
        assert set(task.build.sha256) == {task.build.script, *task.build.files}
    assert set(task.tiers) >= {"quick", "standard"}
    assert task.description.strip()


# loading


def test_a_task_is_laid_over_its_family(root: Path) -> None:
    task = load_task(EXAMPLE)
    own = root / "tasks" / EXAMPLE / "task.toml"
    family = read_toml(own.parent.parent / "family.toml")
    assert task.model.name == family["model"]["name"]
    assert task.site.hook_in == read_toml(own)["site"]["hook_in"]
    edit(own, "seed = 15", "seed = 15\nsplits = { seed = 1, evaluation = 50, calibration = 9 }")
    assert load_task(EXAMPLE).splits.evaluation == 50
    assert load_task(EXAMPLE).corpus == task.corpus


def test_a_task_is_found_by_id_and_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_id = load_task(EXAMPLE)
    assert load_task(by_id) is by_id
    assert load_task(TASKS / EXAMPLE) == by_id
    shutil.copytree(TASKS / "smollm2-135m", tmp_path / "mine")
    copied = load_task(tmp_path / "mine" / "resid-15")
    assert copied.id == "mine/resid-15"
    monkeypatch.chdir(tmp_path / "mine" / "resid-15")
    assert load_task(".") == copied


def test_an_unknown_task_is_refused_and_the_nearest_are_offered() -> None:
    with pytest.raises(TaskError, match="no task 'smolm2/resid-15'") as caught:
        load_task("smolm2/resid-15")
    assert f"did you mean {EXAMPLE}" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "place", "why"),
    [
        ("seed = 15", "", "seed", "Field required"),
        ("seed = 15", "seed = 15\nsede = 16", "sede", "Extra inputs are not permitted"),
        ("seed = 15", "seed = 'x'", "seed", "valid integer"),
        ("seed = 15", "seed = 15\nid = 'other'", "id", "place of its folder"),
        ('version = "2-A"', 'version = "2"', "version", "match pattern"),
        ('version = "2-A"', 'version = "0-A"', "version", "match pattern"),
        ("width = 576", "width = -1", "site.width", "greater than 0"),
        ('dtype = "float32"', 'dtype = "float16"', "tiers.quick.dtype", "'float32' or 'bfloat16'"),
    ],
)
def test_a_malformed_field_is_named(old: str, new: str, place: str, why: str, root: Path) -> None:
    edit(root / "tasks" / EXAMPLE / "task.toml", old, new)
    with pytest.raises(TaskError) as caught:
        load_task(EXAMPLE)
    assert f"task.toml: {place}: " in str(caught.value)
    assert why in str(caught.value)


def test_a_model_has_exactly_one_source(root: Path) -> None:
    edit(
        root / "tasks/smollm2-135m/family.toml",
        'licence = "Apache-2.0"',
        'licence = "Apache-2.0"\nhub = "a/b"',
    )
    with pytest.raises(TaskError, match=r"exactly one of `wheel` .* `hub`"):
        load_task(EXAMPLE)


@pytest.mark.parametrize("file", ["family.toml", "resid-15/task.toml"])
def test_a_file_that_is_no_toml_is_named_with_its_line(file: str, root: Path) -> None:
    path = root / "tasks/smollm2-135m" / file
    path.write_text("a = 1\nb = = 2\n")
    with pytest.raises(TaskError, match=r"is not valid TOML.*line 2") as caught:
        load_task(EXAMPLE)
    assert str(path) in str(caught.value)


def test_an_unknown_tier_is_refused_with_those_that_exist() -> None:
    with pytest.raises(TaskError, match="no tier 'slow'") as caught:
        load_task(EXAMPLE).tier("slow")
    assert "quick, standard" in str(caught.value)


# the hash


WORDS = [
    ("title", "Other words"),
    ("description", "Other words"),
    ("version", "1-B"),
    ("model.name", "other"),
    ("model.licence", "other"),
    ("corpus.name", "other"),
    ("corpus.licence", "other"),
    ("corpus.attribution", "other"),
]
NUMBERS: list[tuple[str, Any]] = [
    ("version", "2-A"),
    ("seed", 6),
    ("rungs", ("raw",)),
    ("splits.seed", 4),
    ("splits.evaluation", 11),
    ("site.hook_in", "blocks.1.hook_resid_pre"),
    ("site.width", 17),
    ("positions.sink_norm", 2.0),
    ("corpus.window", 25),
    ("corpus.special_tokens", (0,)),
    ("corpus.tokens_sha256", "1" * 64),
    ("model.weights_sha256", "1" * 64),
    ("model.revision", "main"),
    ("tiers.quick.pairs", 2),
    ("tiers.quick.evaluation_windows", 9),
    ("tiers.quick.dtype", "bfloat16"),
]


def changed(task: Task, place: str, value: Any) -> Task:
    content = task.model_dump()
    *parents, name = place.split(".")
    part = content
    for parent in parents:
        part = part[parent]
    assert part[name] != value
    part[name] = value
    return Task.model_validate(content)


@pytest.mark.parametrize(("place", "value"), WORDS)
def test_words_do_not_move_the_hash(place: str, value: Any) -> None:
    assert changed(make_task(), place, value).hash == make_task().hash


@pytest.mark.parametrize(("place", "value"), NUMBERS)
def test_whatever_moves_a_number_moves_the_hash(place: str, value: Any) -> None:
    assert changed(make_task(), place, value).hash != make_task().hash


def test_a_changed_copy_has_its_own_hash() -> None:
    task = make_task()
    before = task.hash
    assert task.model_copy(update={"seed": 6}).hash == make_task(seed=6).hash != before


@pytest.mark.parametrize("name", ["version", "wheel_sha256", "file", "sha256"])
def test_ids_that_are_pinned_are_the_same_however_they_are_fetched(name: str) -> None:
    """A text whose ids have no hash of their own is pinned by its file."""
    loose = make_task()
    pinned = changed(loose, "corpus.tokens_sha256", "1" * 64)
    place, value = f"corpus.wheel.{name}", "2" * 64
    assert changed(pinned, place, value).hash == pinned.hash
    assert changed(loose, place, value).hash != loose.hash
    assert changed(pinned, "corpus.window", 25).hash != pinned.hash


def test_values_known_beforehand_move_the_hash_by_their_ladder(root: Path) -> None:
    """`expected` is no number of a record, but it decides of what the rungs are measured."""
    before = load_task("controls/parity")
    edit(root / "tasks/controls/parity/task.toml", 'expected = "expected.py"\n', "")
    after = load_task("controls/parity")
    assert (before.ladder, after.ladder) == ("exact", "coded")
    assert before.hash != after.hash


def test_a_field_that_is_absent_moves_no_hash() -> None:
    """So that a field which a later version adds leaves the tasks without it as they are locked."""
    task = make_task()
    content = task.model_dump(mode="json", exclude_none=True)
    assert Task.model_validate(content | {"circuit": None, "build": None}).hash == task.hash


@pytest.mark.parametrize(
    ("name", "ladder", "places"),
    [
        ("controls/alignment", "exact", False),
        ("tracr/reverse", "exact", False),
        ("tiny/wiki", "coded", False),
        ("tiny/induction-circuit", "exact", False),
        ("smollm2-135m/resid-15", "coded", True),
        ("smollm2-135m/ioi", "exact", True),
        ("gpt2/resid-8", "coded", True),
    ],
)
def test_ladders_and_places(name: str, ladder: str, places: bool) -> None:
    task = load_task(name)
    assert (task.ladder, task.gives_places) == (ladder, places)


@pytest.mark.parametrize("name", list_tasks())
def test_every_tier_is_of_float32(name: str) -> None:
    assert {tier.dtype for tier in load_task(name).tiers.values()} == {"float32"}


# the lock


def opened(root: Path, state: bool) -> bytes:
    """The lock, open or closed by hand."""
    path = root / "tasks/lock.json"
    content = json.loads(path.read_bytes()) | {"open": state}
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path.read_bytes()


def test_it_is_open_until_a_task_that_gives_places_has_a_record() -> None:
    """If this fails: write `"open": false` into tasks/lock.json, in the commit that brings that record."""
    results = project_root() / "leaderboard" / "results"
    placed = [name for name in list_tasks() if load_task(name).gives_places and (results / name).exists()]
    assert read_lock().open == (not placed)


@pytest.mark.parametrize("state", [True, False])
def test_the_lock_is_written_as_it_is(state: bool, root: Path) -> None:
    before = opened(root, state)
    assert write_lock().read_bytes() == before


def test_a_lock_that_is_not_there_is_begun_open(root: Path) -> None:
    before = opened(root, state=True)
    (root / "tasks/lock.json").unlink()
    assert write_lock().read_bytes() == before


def test_numbers_move_freely_while_it_is_open(root: Path) -> None:
    opened(root, state=True)
    edit(root / "tasks" / EXAMPLE / "task.toml", "sink_norm = 1200.0", "sink_norm = 1300.0")
    content = json.loads(write_lock().read_bytes())
    assert content["open"] is True
    assert content["tasks"][EXAMPLE] == {"version": "2-A", "hash": load_task(EXAMPLE).hash}


def test_numbers_that_move_need_a_new_n_once_it_is_closed(root: Path) -> None:
    before = opened(root, state=False)
    file = root / "tasks" / EXAMPLE / "task.toml"
    edit(file, "sink_norm = 1200.0", "sink_norm = 1300.0")
    with pytest.raises(TaskError, match="measures something else than when it was locked as 2-A") as caught:
        write_lock()
    assert 'version = "3-A"' in str(caught.value)
    assert (root / "tasks/lock.json").read_bytes() == before
    edit(file, 'version = "2-A"', 'version = "3-A"')
    assert json.loads(write_lock().read_bytes())["tasks"][EXAMPLE]["version"] == "3-A"


def test_words_that_move_need_none(root: Path) -> None:
    opened(root, state=False)
    edit(root / "tasks" / EXAMPLE / "task.toml", "half-way", "in the middle")
    edit(root / "tasks" / EXAMPLE / "task.toml", 'version = "2-A"', 'version = "2-B"')
    entry = json.loads(write_lock().read_bytes())["tasks"][EXAMPLE]
    assert entry == {"version": "2-B", "hash": load_task(EXAMPLE).hash}


@pytest.mark.parametrize("state", [True, False])
def test_a_locked_task_cannot_disappear(state: bool, root: Path) -> None:
    opened(root, state)
    shutil.rmtree(root / "tasks" / EXAMPLE)
    with pytest.raises(TaskError, match=f"task {EXAMPLE} is locked and gone"):
        write_lock()


@pytest.mark.parametrize("text", ["{}x", '{"open": 3}', '{"tasks": {"a/b": {}}}', '{"a/b": {}}'])
def test_a_malformed_lock_is_named(text: str, root: Path) -> None:
    (root / "tasks/lock.json").write_text(text)
    with pytest.raises(TaskError, match=r"lock\.json: "):
        read_lock()
