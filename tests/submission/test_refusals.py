"""What no format is: every command with a submission refuses it in the same words, and writes nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from terminal import Command

from remainder.base.paths import project_root
from remainder.record.store import values_path

NAME = "digits-pca-4"
"""A baseline that has a committed record, which `verify` compares with the submission.toml of that name."""
TASK = "tiny/digits"


class Case(NamedTuple):
    kind: str
    method: str
    """Lines of [method]."""
    words: str
    """What every command says."""


SITES = '[[method.sites]]\nhook_in = "blocks.0.hook_in"\nsubmission = "sae"\n'
CASES = {
    # another kind than the format's
    "a circuit's format as a reconstruction": Case(
        "reconstruction",
        'format = "full-graph"',
        "kind: format full-graph makes a circuit, and `kind` says reconstruction",
    ),
    "with a rank, as it was once scored": Case(
        "reconstruction",
        'format = "full-graph"\nrank = 2',
        "`rank` is not a setting of format full-graph; it has none",
    ),
    "a reconstruction's format as a circuit": Case(
        "circuit",
        'format = "pca"\nrank = 2',
        "kind: format pca makes a reconstruction, and `kind` says circuit",
    ),
    "a reconstruction's format as a circuit of features": Case(
        "feature-circuit",
        'format = "identity"',
        "kind: format identity makes a reconstruction, and `kind` says feature-circuit",
    ),
    "a circuit's format as one of features": Case(
        "feature-circuit", 'format = "edge-attribution"', "kind: format edge-attribution makes a circuit, and"
    ),
    "a format of features as a circuit": Case(
        "circuit",
        f'format = "feature-attribution"\n{SITES}',
        "kind: format feature-attribution makes a feature-circuit, and `kind` says circuit",
    ),
    # a setting that the format does not have
    "rank of identity": Case(
        "reconstruction", 'format = "identity"\nrank = 2', "`rank` is not a setting of format"
    ),
    "rank of mean": Case(
        "reconstruction", 'format = "mean"\nrank = 2', "`rank` is not a setting of format mean"
    ),
    "seed of pca": Case(
        "reconstruction",
        'format = "pca"\nrank = 2\nseed = 0',
        "`seed` is not a setting of format pca; it has `rank`",
    ),
    "steps of pca": Case(
        "reconstruction", 'format = "pca"\nrank = 2\nsteps = 3', "`steps` is not a setting of"
    ),
    "path of pca": Case(
        "reconstruction", 'format = "pca"\nrank = 2\npath = "w"', "`path` is not a setting of"
    ),
    "steps of patching": Case(
        "circuit", 'format = "edge-patching"\nsteps = 2', "`steps` is not a setting of"
    ),
    "seed of attribution": Case(
        "circuit", 'format = "edge-attribution"\nseed = 1', "`seed` is not a setting of"
    ),
    "hub of a file of arrays": Case(
        "reconstruction", 'format = "subspace"\nhub = "a/b:c"', "`hub` is not a setting"
    ),
    "sites of a circuit of edges": Case(
        "circuit", f'format = "edge-attribution"\n{SITES}', "`sites` is not a setting"
    ),
    "thresholds of a graph": Case(
        "feature-circuit",
        f'format = "feature-graph"\npath = "g.json"\nthresholds = [0.1]\n{SITES}',
        "`thresholds` is not a setting of format feature-graph",
    ),
    "fields of what has none": Case(
        "reconstruction",
        'format = "pca"\nrank = 2\nignore_fields = ["a"]',
        "`ignore_fields` is not a setting of",
    ),
    "a setting of no format": Case(
        "reconstruction", 'format = "pca"\nrank = 2\ncolour = 1', "`colour` is not a setting"
    ),
    # a format without what it needs
    "pca without rank": Case("reconstruction", 'format = "pca"', "format pca needs `rank`"),
    "a random projection without rank": Case(
        "reconstruction", 'format = "random-projection"\nseed = 3', "format random-projection needs `rank`"
    ),
    "a subspace without path": Case("reconstruction", 'format = "subspace"', "format subspace needs `path`"),
    "a codebook without path": Case("reconstruction", 'format = "codebook"', "format codebook needs `path`"),
    "a circuit without path": Case("circuit", 'format = "eap-ig"', "format eap-ig needs `path`"),
    "scores without path": Case(
        "feature-circuit", f'format = "feature-scores"\n{SITES}', "feature-scores needs `path`"
    ),
    "a graph without path": Case(
        "feature-circuit", f'format = "feature-graph"\n{SITES}', "feature-graph needs `path`"
    ),
    "features without sites": Case("feature-circuit", 'format = "feature-attribution"', "needs `sites`"),
    # a format that there is not
    "a word that is near": Case(
        "reconstruction", 'format = "saelense"', "no format 'saelense'; there is saelens"
    ),
    "a word that is far": Case(
        "circuit", 'format = "pickle"', "this version has no format 'pickle'; there is"
    ),
    "a number": Case("reconstruction", "format = 3", "`format` must be a string, and is 3; there is"),
    "none": Case("reconstruction", "rank = 3", "`format` is missing; there is"),
    # settings that contradict each other
    "both places": Case(
        "reconstruction", 'format = "saelens"\npath = "w"\nhub = "a/b:c"', "`path` or `hub`, not both"
    ),
    "a revision of nothing": Case(
        "reconstruction", 'format = "saelens"\npath = "w"\nrevision = "main"', "`revision` is that of `hub`"
    ),
    "a release for another reader": Case(
        "reconstruction", 'format = "sparsify"\nhub = "gpt2-small-res-jb:x"', "write OWNER/REPO:SAE_ID"
    ),
    "pinned nodes and a share": Case(
        "feature-circuit",
        f'format = "feature-graph"\npath = "g.json"\npinned = true\nshare = 0.5\n{SITES}',
        "`pinned` or `share`, not both",
    ),
    # values of another kind
    "a rank in words": Case(
        "reconstruction", 'format = "pca"\nrank = "2"', "method.rank: Input should be a valid integer"
    ),
    "a rank that is true": Case(
        "reconstruction", 'format = "pca"\nrank = true', "method.rank: Input should be a valid"
    ),
    "a rank of 1.0": Case(
        "reconstruction", 'format = "pca"\nrank = 1.0', "method.rank: Input should be a valid integer"
    ),
    "no direction": Case(
        "reconstruction", 'format = "pca"\nrank = 0', "method.rank: Input should be greater"
    ),
    "a seed below 0": Case(
        "circuit", 'format = "random-edges"\nseed = -1', "method.seed: Input should be greater"
    ),
    "no step": Case(
        "circuit", 'format = "edge-attribution"\nsteps = 0', "method.steps: Input should be greater"
    ),
    "a path elsewhere": Case(
        "reconstruction", 'format = "saelens"\npath = "../w"', "method.path: it must lie in the"
    ),
    "a path with a zero": Case(
        "reconstruction", 'format = "saelens"\npath = "a\\u0000"', "method.path: it must lie in"
    ),
    "a path that is no word": Case(
        "reconstruction", 'format = "subspace"\npath = 3', "method.path: Input should be a valid"
    ),
    "fields twice": Case(
        "reconstruction",
        'format = "saelens"\npath = "."\nignore_fields = ["a", "a"]',
        "names fields, none of them twice",
    ),
    "a threshold that is none": Case(
        "feature-circuit",
        f'format = "feature-attribution"\nthresholds = [nan]\n{SITES}',
        "`thresholds` are finite",
    ),
    "thresholds that fall": Case(
        "feature-circuit",
        f'format = "feature-attribution"\nthresholds = [0.2, 0.1]\n{SITES}',
        "`thresholds` ascend",
    ),
    "no threshold": Case(
        "feature-circuit",
        f'format = "feature-attribution"\nthresholds = []\n{SITES}',
        "`thresholds` are finite",
    ),
    "a share above 1": Case(
        "feature-circuit",
        f'format = "feature-graph"\npath = "g"\nshare = 1.5\n{SITES}',
        "method.share: Input should be",
    ),
}

CASES |= {
    "a list as the format": Case(
        "reconstruction", 'format = ["pca"]', "`format` must be a string, and is ['pca']; there is pca"
    ),
    "a format in capitals": Case(
        "reconstruction", 'format = "PCA"\nrank = 2', "no format 'PCA'; there is pca"
    ),
    "an empty path": Case("reconstruction", 'format = "saelens"\npath = ""', "method.path: it is empty"),
    "an empty list of sites": Case(
        "feature-circuit",
        'format = "feature-attribution"\nsites = []',
        "needs `sites`: at least one [[method.sites]]",
    ),
}

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def described(folder: Path, case: Case) -> Path:
    """A folder with the submission.toml of a case."""
    folder.mkdir(parents=True)
    (folder / "submission.toml").write_text(
        f'name = "{NAME}"\nkind = "{case.kind}"\ntitle = "T"\nauthors = ["A"]\nlicence = "MIT"\n'
        f'tasks = ["{TASK}"]\n\n[method]\n{case.method}\n'
    )
    return folder


def flat(*texts: str) -> str:
    """Words of an output, however its lines are broken."""
    return " ".join(" ".join(texts).split())


@cases
def test_check_refuses(case: Case, tmp_path: Path, remainder: Command) -> None:
    done = remainder("check", described(tmp_path / NAME, case))
    assert done.code != 0
    assert case.words in flat(done.out, done.err)


@cases
def test_run_refuses_before_anything_is_written(case: Case, tmp_path: Path, remainder: Command) -> None:
    folder, out = described(tmp_path / NAME, case), tmp_path / "results"
    done = remainder("run", TASK, "--with", folder, "--out", out)
    assert done.code == 5
    assert f"{folder / 'submission.toml'}: " in flat(done.err)
    assert case.words in flat(done.err)
    assert not list(out.rglob("*.json"))


@cases
def test_submit_refuses_before_anything_is_written(
    case: Case, tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    to = [tmp_path / "checkout" / name for name in ("baselines", "results")]
    folder = described(tmp_path / NAME, case)
    done = remainder("submit", folder, "--submissions", to[0], "--out", to[1])
    assert done.code == 5
    assert case.words in flat(done.err)
    assert not (tmp_path / "checkout").exists()
    assert not (tmp_path / "cache").exists()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit, whose baselines are empty."""
    root = tmp_path_factory.mktemp("checkout")
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / "README.md").write_text("base")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "base")
    return root


def git(root: Path, *arguments: str) -> None:
    settings = ("-c", "user.name=A", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(root), *settings, *arguments], check=True, capture_output=True)


@cases
def test_review_refuses(
    case: Case, checkout: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remainder.publish.review.project_root", lambda: checkout)
    git(checkout, "switch", "--quiet", "--force-create", "submission", "main")
    described(checkout / "baselines" / NAME, case)
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "submission")
    git(checkout, "switch", "--quiet", "main")
    try:
        done = remainder("review", "main", "submission")
    finally:
        shutil.rmtree(checkout / "baselines", ignore_errors=True)  # what the review took into the checkout
    assert done.code == 1
    assert case.words.replace("`", "ʼ") in flat(done.out)  # nothing leaves the report's fence
    assert "To mend it: " in done.out
    assert str(checkout) not in done.out


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one committed record, the tasks, and no baselines."""
    root, own = tmp_path_factory.mktemp("project"), project_root()
    (root / "tasks").symlink_to(own / "tasks")
    (source, *_) = sorted((own / "leaderboard" / "results" / TASK).glob(f"*/{NAME}/*.json"))
    target = root / source.relative_to(own)
    target.parent.mkdir(parents=True)
    shutil.copy(source, target)
    shutil.copy(values_path(source), values_path(target))
    return root


def verified(board: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr("remainder.base.paths.project_root", lambda: board)
    done = remainder("verify", board / "leaderboard" / "results")
    return done.code, flat(done.out, done.err)


@cases
def test_verify_refuses(case: Case, board: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = described(board / "baselines" / NAME, case)
    try:
        code, text = verified(board, remainder, monkeypatch)
    finally:
        shutil.rmtree(folder)
    assert code == 1
    assert f"{NAME}/submission.toml cannot be read: " in text
    assert case.words in text


PCA = (
    f'name = "{NAME}"\nkind = "reconstruction"\ntitle = "T"\nauthors = ["A"]\nlicence = "MIT"\n'
    f'tasks = ["{TASK}"]\n\n[method]\nformat = "pca"\nrank = 4\n'
)
LIST = "expected a list of strings, such as "
FIELDS = [
    (f'["{TASK}"]', f'"not-{TASK}-at-all"', f"tasks: it is 'not-{TASK}-at-all'; {LIST}[\"SUITE/TASK\"]"),
    (f'["{TASK}"]', "5", f'tasks: it is 5; {LIST}["SUITE/TASK"]'),
    (f'["{TASK}"]', "[5]", f'tasks: it is 5; {LIST}["SUITE/TASK"]'),
    ('["A"]', '"A"', f"authors: it is 'A'; {LIST}"),
    ('["A"]', "3", f"authors: it is 3; {LIST}"),
    ('title = "T"\n', "", "title: it is missing; expected a string"),
    ('title = "T"', 'title = "T"\ncolour = 1', "colour: there is no such field; there are name, title,"),
    ('kind = "reconstruction"\n', "", 'kind: it is missing; expected "reconstruction", "circuit" or'),
    ('kind = "reconstruction"', 'kind = "sae"', "kind: it is 'sae'; expected \"reconstruction\", "),
    (f'name = "{NAME}"\n', "", "name: it is missing; expected at most 40 of a-z, 0-9,"),
    (f'name = "{NAME}"', 'name = "My SAE"', "name: it is 'My SAE'; expected at most 40 of a-z, 0-9,"),
    ("[method]", "[[method]]", "expected one table, [method], which names a `format`"),
    ('[method]\nformat = "pca"\nrank = 4\n', 'method = "pca"', "method: it is 'pca'; expected one table"),
]


@pytest.mark.parametrize(("old", "new", "words"), FIELDS)
def test_fields_are_held_to_the_same_rules_by_all_commands(
    old: str, new: str, words: str, tmp_path: Path, board: Path, remainder: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert old in PCA
    folder = board / "baselines" / NAME
    folder.mkdir(parents=True)
    (folder / "submission.toml").write_text(PCA.replace(old, new, 1))
    try:
        code, text = verified(board, remainder, monkeypatch)
        others = [
            remainder(*command)
            for command in (
                ("check", folder),
                ("submit", folder, "--submissions", tmp_path / "baselines", "--out", tmp_path / "results"),
            )
        ]
        others.append(remainder("show", TASK))
    finally:
        shutil.rmtree(folder)
    assert code == 1
    assert f"{NAME}/submission.toml cannot be read: " in text
    assert str(board) not in text.partition("cannot be read: ")[2].partition("To mend")[0]
    assert words in text
    for done in others:
        assert done.code in (1, 5)
        assert words in flat(done.out, done.err)
        assert "Traceback" not in done.err


def test_a_folder_in_place_of_the_file_is_a_fault(
    board: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (board / "baselines" / NAME / "submission.toml").mkdir(parents=True)
    try:
        code, text = verified(board, remainder, monkeypatch)
    finally:
        shutil.rmtree(board / "baselines" / NAME)
    assert code == 1
    assert "is a folder; expected a file" in text


def test_weights_that_are_missing_are_asked_for(tmp_path: Path, remainder: Command) -> None:
    folder = described(tmp_path / NAME, Case("reconstruction", 'format = "saelens"', ""))
    done = remainder("run", TASK, "--with", folder, "--out", tmp_path / "results")
    assert done.code == 5
    assert "put the weights beside submission.toml, or give" in flat(done.err)


def test_verify_finds_nothing_wrong_with_that_record_and_its_own_submission(
    board: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project_root() / "baselines" / NAME, board / "baselines" / NAME)
    try:
        code, text = verified(board, remainder, monkeypatch)
    finally:
        shutil.rmtree(board / "baselines" / NAME)
    assert code == 0, text
