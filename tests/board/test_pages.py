"""Pages and README of the board: the same bytes each time, safe whatever a record says, and current."""

from __future__ import annotations

import hashlib
import http.client
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from generated import made_on_main
from hatchling.builders.wheel import WheelBuilder
from synthetic_board import coded, let_give_places, put, small_board, submission
from synthetic_records import fake_hash
from synthetic_values import synthetic_values
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.audits import AuditVerdict, keep_verdict
from remainder.board.build import build, check, write_readme
from remainder.board.bundle import DATATABLES, VENDOR
from remainder.board.merge import BoardRow, read_entries
from remainder.board.pages import TaskText, record_html, task_html
from remainder.board.readme import section
from remainder.board.serve import server
from remainder.board.text import markdown, oddities, page_name, visible
from remainder.board.view import boards, cell
from remainder.errors import RecordError
from remainder.record.metrics import CircuitMetrics, CircuitPoint, CircuitRung
from remainder.record.number import Number
from remainder.record.schema import CircuitSize, TaskInfo
from remainder.record.store import read_summary


class Reader(HTMLParser):
    """Tags, links and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    small_board(folder)
    return folder


@pytest.fixture(scope="module")
def site(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    assert not build(results, folder).faults
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# ------------------------------------------------------------------------------------------------ building


def test_the_same_records_give_the_same_bytes_by_any_number_of_processes(
    results: Path, site: Path, tmp_path: Path
) -> None:
    again = build(results, tmp_path / "again", processes=2)
    assert contents(tmp_path / "again") == contents(site)
    assert build(results, None).readme == again.readme


def test_every_link_leads_to_a_file_of_the_site_and_none_leaves_it(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 10 + 2 + 8  # shared ones, tasks, records
    for page in pages:
        for link in Reader(page.read_text(encoding="utf-8")).links:
            target = (page.parent / link.partition("#")[0]).resolve()
            assert target.is_relative_to(site.resolve()), f"{page.name}: {link}"
            assert target.is_file() or link.startswith("#"), f"{page.name}: {link}"


def test_no_page_of_ours_names_another_machine(site: Path) -> None:
    for path in [*site.rglob("*.html"), *(site / "assets").glob("*.css")]:
        found = re.findall(r"(?:https?:)?//[\w.]+", path.read_text(encoding="utf-8"))
        named = {"https://img.shields.io"} if path.name == "cite.html" else set()  # a line to copy
        assert set(found) <= {"//www.w3.org", *named}, path.name
    for name in ("theme.js", "table.js", "explore.js", "copy.js", "hover.js"):
        assert "http" not in (site / "assets" / name).read_text(encoding="utf-8")


def test_a_task_page_has_every_row_with_its_complexity_before_any_score(site: Path) -> None:
    page = (site / "tasks/family.task.v1.html").read_text(encoding="utf-8")
    table, references = re.findall(r'<table class="board.*?</table>', page, re.S)
    heads = re.findall(r"<th [^>]*>([^<]*)</th>", table)
    assert heads.index("Bits") < heads.index("KL raw")
    for part, expected in ((table, ["good", "equal", "even"]), (references, ["copy", "mean"])):
        body = part[part.index("<tbody>") :]
        assert re.findall(r'records/\w+\.html"><bdi>(\w+)</bdi>', body) == expected
        assert body.count('class="reference"') == (2 if part is references else 0)
    assert page.index(table) < page.index("<summary>References: 2 rows") < page.index(references)
    assert 'class="place' not in table
    assert "This task checks the measurement: there are no places." in page
    assert "Nested: a finer interpretation" in page
    # Without a script all columns stand there; with one those that follow the default ones are hidden first.
    assert 'class="num more"' in table
    assert "brief" not in table


def test_places_stand_within_budgets_beside_the_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_give_places(monkeypatch, "family/task")
    task = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    for number, factor in enumerate((0.4, 1.0, 1.02)):
        info = submission(f"row-{number}")
        values = coded(factor, bits=150.0 + number, seed=number)
        path = put(tmp_path / "results", values, task=task, submission=info)
    built = build(tmp_path / "results", tmp_path / "site", processes=1)
    page = (tmp_path / "site/tasks/family.task.v1.html").read_text(encoding="utf-8")
    cells = re.findall(r'<td class="place([^"]*)" data-order="[\d.]*"[^>]*>(.*?)</td>', page)
    places = [text for kind, text in cells if "more" in kind]
    assert places[:5] == ["–", "–", "–", "1", "1"]
    assert places[10:] == ["–", "–", "–", "2–3", "2–3"]
    # The best of them stands first; the others are there on demand.
    best = [re.sub(r"<[^>]*>", " ", text).split() for kind, text in cells if "more" not in kind]
    assert best[0] == ["1", "of", "3,", "R₀/4"]
    assert best[2] == ["2–3", "of", "3,", "R₀/4"]
    assert "no point of its curve is within 7." in page
    assert "with its point coded-100, " in page
    (figure,) = re.findall(
        r'<svg class="figure pareto"[^>]*aria-labelledby="rate-1-title".*?</svg>', page, re.S
    )
    assert figure.count("curve s") == 3
    assert figure.count("curve transform") == 1
    assert all(f">{name}</text>" in figure for name in ("R₀/32", "R₀/16", "R₀/8", "R₀/4", "R₀/2"))
    record = Reader((tmp_path / f"site/records/{path.stem}.html").read_text(encoding="utf-8"))
    text = " ".join(record.text.split())
    assert "place 2–3 of 3 within 1/2 of R₀" in text
    assert "+100 %" in text
    assert "enters budgets" in text
    assert "| ≤ 1/32 | ≤ 1/16 |" in re.sub(r" +", " ", built.readme)


def test_rows_with_places_say_what_sealed_texts_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    root = tmp_path / "results"
    paths = {
        name: put(
            root, coded(0.4, bits=150.0, seed=number), task=task, submission=submission(name, files=kept)
        )
        for number, (name, kept) in enumerate(
            {"holds": True, "fails": True, "new": True, "mean": False}.items()
        )
    }
    found = Number(value=1.0, low=0.9, high=1.1)
    verdict = AuditVerdict(
        text=fake_hash("text"), use=1, documents=12, quantity="kl_coded", public=found, audited=found,
        unexplained_public=found, unexplained_audited=found, faults=(), verifier="0",
    )  # fmt: skip
    for name, faults in (("holds", ()), ("fails", ("KL doubles.",))):
        made = verdict.model_copy(update={"faults": faults})
        keep_verdict(root, made, read_summary(paths[name]))

    def marks() -> dict[str, list[str]]:
        """Words on sealed texts, by the row of the task page that they stand in."""
        build(root, tmp_path / "site", processes=1)
        page = (tmp_path / "site/tasks/family.task.v1.html").read_text(encoding="utf-8")
        body = page[page.index("<tbody>", page.index('<table class="board')) :]
        rows = [row for row in body.split("<tr")[1:] if "data-words" in row]
        named = {re.findall(r'records/\w+\.html"><bdi>(\w+)</bdi>', row)[0]: row for row in rows}
        return {name: re.findall(r">((?:un)?audited|audit failed)<", row) for name, row in named.items()}

    assert set(map(tuple, marks().values())) == {()}, "a task without places"
    let_give_places(monkeypatch, "family/task")
    assert marks() == {"holds": ["audited"], "fails": ["audit failed"], "new": ["unaudited"], "mean": []}


def test_signed_numbers_sort_by_size(results: Path) -> None:
    assert cell(Number(value=-0.5, low=-0.6, high=-0.4), signed=True).order == "0.5"
    assert cell(Number(value=-0.5, low=-0.6, high=-0.4)).order == "-0.5"
    assert cell(Number.null("why")) == ("–", "", "", "why")


def test_circuits_are_listed_by_their_own_complexity(results: Path) -> None:
    made = small_board(results)
    (entry,), _ = read_entries(results, [made["good"]])
    rung = CircuitRung(
        **{name: Number.bare(0.5, "made up") for name in ("answer", "faithfulness", "gap", "kl")}
    )
    areas = {"counterfactual": Number.bare(0.875, "made up")}
    circuit = CircuitMetrics(
        answer=Number.bare(3, "made up"),
        points={"headline": CircuitPoint(rungs={"counterfactual": rung})},
        cpr=areas,
        cmd=areas,
    )
    record = entry.record
    size = CircuitSize(edges=21, nodes=9, bits=118.5)
    cost = record.complexity.model_copy(
        update={"circuits": {"headline": size}, "bits_per_token": Number.null("once")}
    )
    metrics = record.metrics.model_copy(update={"circuit": circuit})
    entry = BoardRow(
        record.model_copy(update={"complexity": cost, "metrics": metrics}), entry.path, entry.sums
    )
    (board,) = boards([entry])
    (row,) = board.rows
    assert row.places == {}
    assert [row.cells[key].value for key in ("bits_per_token", "kept", "cpr", "faithfulness")] == [
        "118.5",
        "21",
        "0.875",
        "0.500",
    ]
    page = task_html(TaskText("family/task", "1", "", [("1", "x.html")]), [board])
    # What the front weighs: to keep the whole graph takes no bits.
    assert 'data-unit="edges kept"' in page
    assert 'data-cost="21"' in page
    assert [row.size for row in board.rows] == ["21"]
    assert ">CPR<" in page
    assert "what is removed carries its mean" in page


def test_a_record_page_tells_its_hashes_its_history_and_how_to_recompute(results: Path, site: Path) -> None:
    made = small_board(results)
    text = Reader((site / f"records/{made['good'].stem}.html").read_text(encoding="utf-8")).text
    for said in (made["good"].stem, fake_hash("good"), "weights.safetensors", "true_equals_clean"):
        assert said in text
    assert f"remainder verify leaderboard/results/{made['good'].relative_to(results).as_posix()}" in text
    assert "remainder run family/task --with good --tier quick" in text
    assert f"{made['old'].stem[:12]}… replaced" in " ".join(text.split())
    old = Reader((site / f"records/{made['old'].stem}.html").read_text(encoding="utf-8")).text
    assert "replaced by a later record" in old
    for suffix in (".json", ".csv.gz"):
        kept = made["good"].with_name(made["good"].stem + suffix)
        assert (site / "records" / kept.name).read_bytes() == kept.read_bytes()


def test_faults_are_on_the_front_page_and_in_the_exit_code(remainder: Command, tmp_path: Path) -> None:
    made = small_board(tmp_path / "results")
    made["good"].write_text("{}", encoding="utf-8")
    readme = tmp_path / "README.md"
    arguments = ("board", "build", "--results", tmp_path / "results", "--site", tmp_path / "site")
    arguments = (*arguments, "--readme", readme)
    outcome = remainder(*arguments)
    assert outcome.code == RecordError.exit_code
    assert made["good"].name in outcome.err
    left_out = readme.read_text(encoding="utf-8").replace("\\", "").partition("## Left out")[2]
    assert f"{made['good'].name}: " in left_out.partition("\n## ")[0]
    assert "Left out: 1 file" in (tmp_path / "site/index.html").read_text(encoding="utf-8")
    made["good"].unlink()
    made["good"].with_name(made["good"].stem + ".csv.gz").unlink()
    assert remainder(*arguments).code == 0
    assert "Left out" not in readme.read_text(encoding="utf-8")


def test_a_folder_that_is_no_site_is_not_replaced(results: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(RecordError, match="something else"):
        build(results, tmp_path / "thesis")
    build(results, tmp_path / "site")
    with pytest.raises(RecordError, match="holds the records"):
        build(tmp_path / "site/records", tmp_path / "site")
    assert (tmp_path / "thesis/chapter.tex").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"site", "thesis"}


def test_a_site_is_replaced_whole(results: Path, tmp_path: Path) -> None:
    build(results, tmp_path / "site")
    (tmp_path / "site/records/old.html").write_text("gone", encoding="utf-8")
    build(results, tmp_path / "site")
    assert not (tmp_path / "site/records/old.html").exists()


# -------------------------------------------------------------------------------------------------- README


@made_on_main
def test_the_readme_is_that_of_the_committed_records() -> None:
    leaderboard = project_root() / "leaderboard"
    built = build(leaderboard / "results", None)
    assert not built.faults
    assert check(leaderboard / "README.md", built) == "", "run `remainder board build`"


def test_check_tells_where_the_readme_differs(results: Path, tmp_path: Path) -> None:
    built = build(results, None)
    readme = tmp_path / "README.md"
    assert "is missing" in check(readme, built)
    write_readme(readme, built)
    assert check(readme, built) == ""
    lines = readme.read_text(encoding="utf-8").splitlines()
    lines[4] += "!"
    readme.write_text("\n".join(lines), encoding="utf-8")
    assert "from line 5 on" in check(readme, built)


def test_the_command_checks_and_writes(remainder: Command, results: Path, tmp_path: Path) -> None:
    readme, site = tmp_path / "README.md", tmp_path / "site"
    where = ("--results", results, "--readme", readme, "--site", site)
    stale = remainder("board", "build", *where, "--check")
    assert (stale.code, site.exists()) == (RecordError.exit_code, False)
    assert remainder("board", "build", *where).code == 0
    assert remainder("board", "build", *where, "--check").code == 0
    assert "family/task" in readme.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------- hostile names

MARKUP = '<script>alert(1)</script><img src=x onerror="alert(2)">'
HOSTILE = {
    "markup": MARKUP,
    "attribute": '" onmouseover="alert(1)" x="',
    "template": "{{ 7 * 7 }}{% raw %}",
    "homoglyph": "tоpk-sae-32",  # with a Cyrillic о
    "right to left": "good\u202egnp.exe",
    "zero width": "top\u200bk",
    "zalgo": "a" + "\u0301" * 40,
    "traversal": "../../../etc/passwd",
    "long": "a" * 10_000,
    "markdown": "| [x](javascript:alert(1)) | **b** www.example.org <b>",
    "line": "two\nlines\x1b[31m",
}


def renamed(entry: BoardRow, name: str) -> BoardRow:
    """The same record by another name, as a template would get it from a careless reader."""
    record = entry.record
    info = record.submission.model_copy(update={"name": name, "files": {name: fake_hash(name)}})
    check_ = next(iter(record.checks.values())).model_copy(update={"note": name})
    task = record.task.model_copy(update={"id": name})
    changes = {"submission": info, "warnings": (name,), "checks": {name: check_}, "task": task, "tier": name}
    return BoardRow(record.model_copy(update=changes), entry.path, entry.sums)


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_a_record_says_is_shown_escaped_and_short(kind: str, results: Path) -> None:
    made = small_board(results)
    (entry,), _ = read_entries(results, [made["good"]])
    name = HOSTILE[kind]
    bad = renamed(entry, name)
    (board,) = boards([bad])
    task = TaskText(name, "1", name, [("1", page_name(name, "1"))])
    plain = TaskText("family/task", "1", "", [("1", "x.html")])
    (innocent,) = boards([entry])
    for page, reference in (
        (task_html(task, [board]), task_html(plain, [innocent])),
        (record_html(bad, [], [bad]), record_html(entry, [], [entry])),
    ):
        reader, expected = Reader(page), Reader(reference)
        assert not reader.handlers
        assert set(reader.tags) - set(expected.tags) <= {"span", "ul", "li"}  # tag "odd name", warnings
        assert reader.tags.count("script") == expected.tags.count("script")
        assert all(link.startswith(("../", "#", entry.record.record_id)) for link in reader.links)
        assert not any(character in page for character in ("\u202e", "\u200b", "\x1b"))
        assert len(page) < len(reference) + 40_000
        assert "49" not in page or kind != "template" or "49" in reference
    line = section(name, board)
    assert "<script" not in line
    assert not re.search(r"(?<!\\)\]\(", line)
    rows = [row for row in line.splitlines() if row.startswith("|")]
    assert len(rows) == 3
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_names_on_disk_with_markup_go_through_the_whole_build(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    task = TaskInfo(id="<b>family", version="1-A", hash=fake_hash("task"))
    put(tmp_path / "results", synthetic_values(), task=task, submission=submission(name))
    built = build(tmp_path / "results", tmp_path / "site")
    assert (built.records, built.faults) == (1, ())
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<img" not in text
        assert "<b>family" not in text
        shared = "index|history|about|snapshots|overall|circuits|submit|cite|changes|data"
        assert re.fullmatch(rf"[0-9a-f]{{32,64}}|{shared}", page.stem)


def test_texts_that_deceive_are_spelled_out() -> None:
    assert visible("plain name") == "plain name"
    assert visible("x̂ and Δ: −1") == "x̂ and Δ: −1"
    assert visible("good\u202egnp") == "good⟨U+202E⟩gnp"
    assert visible("a\u0301\u0301") == "a\u0301⟨U+0301⟩"
    assert visible("a" * 500, 10) == "a" * 10 + "… (500 characters)"
    assert oddities("topk-sae-32.v1_x") == ""
    assert "U+043E cyrillic small letter o" in oddities("tоpk")
    assert oddities("with space")
    assert markdown("a|b<i>[x](y)") == "a\\|b&lt;i&gt;\\[x\\](y)"


def test_pages_of_different_tasks_have_different_names() -> None:
    tasks = ["a/b", "a.b", "a/b/c", "a", "../a", "A/b", "a//b", "a/b ", "x" * 200, "..", "a\x00b", ""]
    names = [page_name(task, major) for task in tasks for major in ("1", "2", "../1")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.html", name) for name in names)
    assert page_name("suite/task", "1") == "suite.task.v1.html"


# -------------------------------------------------------------------------------------- assets and serving


def test_datatables_is_the_release_that_is_named_and_comes_with_its_licence() -> None:
    """The hash is that of js/dataTables.min.js in the npm package datatables.net."""
    script = (VENDOR / "datatables.js").read_bytes()
    digest = "38017a5586acd9c6eb6bbfe8b6938e1a25bdc717c5acfcb07e0c9d663282c59d"
    assert hashlib.sha256(script).hexdigest() == digest
    assert script.startswith(f"/*! DataTables {DATATABLES}\n".encode())
    licence = (VENDOR / "datatables.txt").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert "SpryMedia" in licence


def test_the_wheel_carries_templates_and_scripts() -> None:
    builder = WheelBuilder(str(project_root()))
    files = {Path(file.relative_path).as_posix() for file in builder.recurse_project_files()}
    board = project_root() / "harness/remainder/board"
    wanted = [*board.glob("templates/*.html"), *board.glob("static/*"), *board.glob("vendor/*")]
    assert len(wanted) > 8
    for path in wanted:
        assert path.relative_to(project_root()).as_posix() in files


@pytest.fixture
def address(site: Path, tmp_path: Path) -> Iterator[tuple[str, int]]:
    with server(site, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_address[0], running.server_address[1]  # type: ignore[misc]
        running.shutdown()
        thread.join()


def ask(address: tuple[str, int], path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_serve_gives_files_of_the_site_only(address: tuple[str, int], site: Path) -> None:
    (site.parent / "secret").write_text("secret", encoding="utf-8")
    (site / "assets/link").symlink_to(site.parent / "secret")
    assert address[0] == "127.0.0.1"
    assert ask(address, "/") == (200, (site / "index.html").read_bytes())
    assert ask(address, "/tasks/family.task.v1.html?x=1")[0] == 200
    for path in ("/../secret", "/%2e%2e/secret", "/..%2fsecret", "/assets/link", "/assets/", "/nothing"):
        status, body = ask(address, path)
        assert (status, b"secret" in body) == (404, False), path
    assert ask(address, "/", "HEAD") == (200, b"")
    for method in ("POST", "PUT", "DELETE"):
        assert ask(address, "/", method)[0] == 501
    (site / "assets/link").unlink()


def test_serve_needs_a_site_and_a_free_port(site: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no site"):
        server(tmp_path, 0)
    with server(site, 0) as running, pytest.raises(RecordError, match="cannot be used"):
        server(site, running.server_address[1])
