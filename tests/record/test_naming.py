"""Names and commands on a terminal: never broken where they are copied, never cut to the same."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

from remainder.base.wrapping import command, fill, quoted
from remainder.errors import InterpretationError
from remainder.formats import hub
from remainder.publish.check import Checked, QuickNumbers, render
from remainder.record.naming import LONGEST, differing_ends, shortened, told_apart
from remainder.record.schema import MethodInfo, Record, SubmissionInfo
from remainder.record.store import StoredRecord
from remainder.report.compare import compare_records, render_comparison
from remainder.report.plot import overview
from remainder.report.tables import render as render_records
from remainder.submission.method import Method, WeightsMethod
from remainder.submission.names import distinct
from remainder.submission.open import _bare, _on_hub, open_submission
from remainder.submission.submission import Submission
from remainder.task.spec import load_task

VALUES = synthetic_values()
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)


# ------------------------------------------------------------------------------------------- commands


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_a_command_is_one_line_that_a_shell_takes_apart_again(words: list[str]) -> None:
    text = command(words)
    assert text.isprintable()
    if all(word.isprintable() for word in words):
        assert shlex.split(text) == words


@pytest.mark.parametrize("word", ["a\tb", "line\nbreak", "\x1b[31m'red'", "back\\slash\n", "é\x07"])
def test_a_word_with_unprintable_letters_is_what_bash_takes_it_for(word: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == word


@given(
    st.lists(st.sampled_from(["a", "word", "with-hyphens-in-it", "`one two three`", "it's", "/a/long/path"])),
    st.integers(5, 40),
)
def test_filling_changes_blanks_alone_and_breaks_nothing(words: list[str], width: int) -> None:
    text = " ".join(words)
    lines = fill(text, width).split("\n")
    assert " ".join(lines) == text
    for line in lines:
        assert len(line) <= width or line in ("`one two three`", "with-hyphens-in-it", "/a/long/path")
        assert line.count("`") % 2 == 0


def test_filling_keeps_line_breaks_and_indents_and_what_is_named_whole() -> None:
    text = 'write it:\n\n  name = "x"\n  tasks = ["a/b"]'
    assert fill(text, 40, hanging="    ") == text
    path = "/a folder/with blanks/in it"
    assert path in fill(f"what lies at {path} is no submission at all", 30, whole=[path])
    assert fill("  one two", 6, hanging="    ") == "  one\n    two"


LONG = "/a/folder with blanks/and 'quotes'/" + "deep/" * 20 + "trainer_0"


@pytest.mark.parametrize(
    "task", ["tiny/digits", "../my tasks/at layer 3", "/home/somebody/tasks/" + "x" * 90]
)
@pytest.mark.parametrize("where", ["digits-pca-4", "../my sae's/trainer_0", LONG, "hub:a/b@main:c d/e"])
@pytest.mark.parametrize("color", [False, True])
def test_check_prints_a_command_that_can_be_copied(task: str, where: str, color: bool) -> None:
    for numbers in (QuickNumbers(0.1, 2.0, 3, 4, 5), None):
        found = Checked(where, task="its/id", named=task, numbers=numbers)
        found.warnings.append(f"`{where}` holds a field that is not heeded")
        (line,) = (
            line for line in render(found, color=color).splitlines() if line.startswith("  remainder run")
        )
        assert shlex.split(line) == ["remainder", "run", task, "--with", where]


def test_check_never_breaks_a_path_in_what_it_says() -> None:
    found = Checked(LONG)
    found.fail("found", InterpretationError(f"{LONG} is no submission", fix=f"give `{LONG}/below` instead"))
    text = render(found)
    assert text.count(LONG) == 3
    short = [line for line in text.splitlines() if LONG not in line]
    assert max(map(len, short)) <= 80


def test_check_names_the_task_as_it_was_given(tmp_path: Path, remainder: Command) -> None:
    """A folder's task has an id that no command finds."""
    import shutil

    from remainder.base.paths import project_root

    folder = tmp_path / "my tasks" / "mine"
    shutil.copytree(project_root() / "tasks" / "tiny" / "digits", folder)
    done = remainder("check", "identity", "--task", folder, "--device", "cpu")
    assert done.code == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("  remainder run"))
    words = shlex.split(line)
    assert words == ["remainder", "run", str(folder), "--with", "identity"]
    ran = remainder(*words[1:], "--rungs", "raw", "--out", tmp_path / "results", "--device", "cpu")
    assert ran.code == 0, ran.err


# ---------------------------------------------------------------------------------------------- names


@given(WORDS, st.integers(8, 40))
def test_a_name_that_is_cut_keeps_both_ends(name: str, most: int) -> None:
    short = shortened(name, most)
    assert len(short) <= most
    if len(name) > most and name.isalnum():
        begin, _, end = short.partition("..")
        assert name.startswith(begin)
        assert name.endswith(end)
        assert begin
        assert end


def test_bare_folders_that_differ_at_their_ends_keep_different_names(tmp_path: Path) -> None:
    method = Method(format="identity")
    begin = "gemma-2-2b-resid-post-layer-12-topk-sae-of-width-16k"
    names = {_bare(f"{begin}-seed-{seed}", method).name for seed in range(3)}
    assert len(names) == 3
    assert all(name.startswith("gemma-2-2b") and name[-1].isdigit() for name in names)
    ends = {_bare(f"seed-{seed}-{begin}", method).name for seed in range(3)}
    assert len(ends) == 3


@pytest.mark.parametrize(
    ("place", "sae_id", "name"),
    [
        ("google/gemma-scope-2b-pt-res", "layer_5/width_16k/average_l0_82", None),
        ("google/gemma-scope-2b-pt-res", "layer_12/width_16k/average_l0_82", None),
        ("owner/repo", "sae", "repo-sae"),
        ("owner/a-repository-with-a-name-as-long-as-this-one", "x/y", None),
        ("owner/repo", "a/very/long/path/to/the/folder/of/the/autoencoder/of/layer/3", None),
    ],
)
def test_names_of_a_hub_keep_the_id_or_both_ends(
    monkeypatch: pytest.MonkeyPatch, place: str, sae_id: str, name: str | None
) -> None:
    monkeypatch.setattr(hub, "fetch", lambda _: hub.Fetched(folder=None, files={}, commit="0" * 40))
    got = _on_hub(hub.Address(place, sae_id, None)).name
    assert len(got) <= LONGEST
    if name is not None:
        assert got == name
    assert got[:3] == place.rpartition("/")[2][:3]
    assert got.endswith(sae_id.replace("/", "-")[-12:])
    if len(sae_id) <= 31:
        assert got.endswith(sae_id.replace("/", "-"))


def test_paths_are_named_by_what_differs() -> None:
    def joined(parts: tuple[str, ...]) -> str:
        return "-".join(parts)

    assert differing_ends([("r", "a", "t"), ("r", "b", "t")], joined) == ["a-t", "b-t"]
    assert differing_ends([("a", "x", "t"), ("b", "x", "t")], joined) == ["a-x-t", "b-x-t"]
    assert differing_ends([("a", "t"), ("a", "t")], joined) is None

    def cut(parts: tuple[str, ...]) -> str:
        return "-".join(parts)[-3:]  # so that whole ends look the same

    assert differing_ends([("a", "xyz", "t"), ("b", "xyz", "t")], cut) == ["a-t", "b-t"]


def identities(tmp_path: Path, *folders: str) -> list[Submission]:
    """Bare folders with content that differs."""
    made = []
    for number, name in enumerate(folders):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "x").write_text(str(number))
        method = WeightsMethod(format="saelens", path=".")
        made.append(
            _bare(folder.name, method).model_copy(update={"folder": folder, "files": {"x": fake_hash(name)}})
        )
    return made


@pytest.mark.parametrize(
    "folders",
    [
        ("layer_3/trainer_0", "layer_4/trainer_0"),
        ("sweep_with_learning_rate_0.001_and_l1_0.5/resid_post_layer_3/trainer_0",
         "sweep_with_learning_rate_0.002_and_l1_0.5/resid_post_layer_3/trainer_0"),
        ("a_run_of_november_with_width_16k/resid_post_layer_3_of_gemma/trainer_0",
         "b_run_of_november_with_width_16k/resid_post_layer_3_of_gemma/trainer_0"),
    ],
)  # fmt: skip
def test_folders_of_one_name_are_told_apart_by_what_differs(tmp_path: Path, folders: tuple[str, str]) -> None:
    found = distinct(identities(tmp_path, *folders))
    names = [entry.name for entry in found.entries]
    assert len(set(names)) == 2
    assert all(len(name) <= LONGEST for name in names)
    assert all(name.endswith("trainer_0") for name in names)


def of(name: str, content: str) -> Record:
    info = SubmissionInfo(
        name=name,
        kind="reconstruction",
        files={},
        hash=fake_hash(content),
        method=MethodInfo(format=None),
    )
    return synthetic_record(VALUES, submission=info)


def test_records_of_one_name_and_other_content_are_told_apart_wherever_they_are_shown() -> None:
    both = [of("trainer_0", "one"), of("trainer_0", "two")]
    names = [record.submission.name for record in told_apart(both)]
    assert names == [f"trainer_0 ({fake_hash(content)[:6]})" for content in ("one", "two")]
    for format in ("table", "markdown", "latex"):
        text = render_records(both, format).replace("\\_", "_")
        assert all(name in text for name in names)
    labels = [label.get_text() for label in overview(both).axes[0].get_yticklabels()]
    assert [any(name in label for label in labels) for name in names] == [True, True]
    alike = [of("trainer_0", "one"), of("trainer_0", "one"), of("other", "two")]
    assert told_apart(alike) == alike
    assert both[0].submission.name == "trainer_0"


def test_a_comparison_of_one_name_says_which_is_which() -> None:
    first, second = (StoredRecord(of("trainer_0", content), VALUES) for content in ("one", "two"))
    paths = (Path("runs/a/x/r.json"), Path("runs/b/x/r.json"))
    lines = render_comparison(compare_records(first, second, paths=paths)).splitlines()
    assert "A: trainer_0, a/x/r.json (quick)" in lines
    assert "B: trainer_0, b/x/r.json (quick)" in lines
    lines = render_comparison(compare_records(first, second)).splitlines()
    assert f"A: trainer_0 ({fake_hash('one')[:6]}) (quick)" in lines
    third = StoredRecord(of("other", "three"), VALUES)
    assert "B: other (quick)" in render_comparison(compare_records(first, third, paths=paths)).splitlines()


def test_a_run_says_that_another_content_of_that_name_lies_there(tmp_path: Path, remainder: Command) -> None:
    out = tmp_path / "results"
    assert remainder("run", "tiny/digits", "--with", "digits-pca-4", "--rungs", "raw", "--out", out).code == 0
    folder = out / "tiny/digits" / str(load_task("tiny/digits").major)
    (folder / "digits-pca-4").rename(folder / "digits-pca-8")
    again = remainder("run", "tiny/digits", "--with", "digits-pca-8", "--rungs", "raw", "--out", out)
    assert again.code == 0
    assert "digits-pca-8 holds records of other content that is called digits-pca-8 too" in again.err
    assert open_submission("digits-pca-8").name == "digits-pca-8"
