"""Pages of the docs: links lead somewhere, commands are those that there are, public names are documented.

The site that is built of them is looked at in `test_docs_site.py`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from docs.mkdocs import address, links, reference
from typer.main import get_command

import remainder
from remainder.base.paths import project_root
from remainder.cli.main import app
from remainder.report.quantities import quantity
from remainder.task.spec import list_tasks, load_task

ROOT = project_root()
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *NOTEBOOKS,
    *sorted((ROOT / "tasks").glob("*/README.md")),
    *sorted((ROOT / "leaderboard").glob("*/README.md")),
]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELLS = ("", "bash", "console", "sh", "text")
COMMAND = re.compile(r"^ *(?:\$ )?(?:\w+=\S+ +|srun )*remainder +(?P<rest>.*)$")


def text_of(page: Path) -> str:
    """Markdown; of a notebook its prose, and its code as blocks."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(part if kind == "markdown" else f"```python\n{part}\n```" for kind, part in cells)


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text_of(page)), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def dead(page: Path, text: str) -> Iterator[str]:
    """Links of a page that lead to no file of a plain checkout, or to no heading of a page."""
    for match in links.CODE_OR_LINK.finditer(text):
        target = match["target"]
        if target is None or re.match(r"[a-z]+:", target):
            continue
        if page == ROOT / "README.md" and target.startswith("../../actions/"):
            continue  # beside the files, where the repository is browsed
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if (
            not file.exists()
            or not file.is_relative_to(ROOT)
            or (anchor and file.suffix == ".md" and anchor not in anchors(file))
        ):
            yield target


def test_links_lead_somewhere_in_a_checkout() -> None:
    found = {page: list(dead(page, text_of(page))) for page in PAGES}
    assert {page: links for page, links in found.items() if links} == {}


def test_what_is_said_of_tasks_holds() -> None:
    """Which suites there are and which need the hub; how many sites and circuits the first one has."""
    tasks = [load_task(name) for name in list_tasks()]
    of_hub = {task.id.split("/")[0] for task in tasks if task.model.hub is not None}
    text = text_of(ROOT / "README.md")
    rows = dict(re.findall(r"^\| (`.+`) \| .* \| (.+) \|$", text.partition("## Tasks")[2], re.MULTILINE))
    needs = {suite: need for names, need in rows.items() for suite in re.findall(r"`([^`]+)`", names)}
    assert needs.keys() == {task.id.split("/")[0] for task in tasks}
    assert {suite for suite, need in needs.items() if "hub" in need} == of_hub
    numbers = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    of_first = [task for task in tasks if task.id.startswith("smollm2-135m/")]
    for is_site, words in ((True, "sites"), (False, "circuits")):
        names = {task.id.split("/")[1] for task in of_first if task.kind.has_residual == is_site}
        (listed,) = re.findall(rf"{numbers[len(names)]} {words} \(([^)]+)\)", text)
        assert set(re.findall(r"`([^`]+)`", listed)) == names
    page = " ".join(text_of(ROOT / "docs" / "commands.md").split())
    (listed,) = re.findall(r"Tasks of the suites (.+?) are of models on the Hugging Face hub, and only", page)
    assert set(re.findall(r"`([^`]+)`", listed)) == of_hub


def test_the_readme_cites_as_the_citation_file_does() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (entry,) = re.findall(r"```bibtex\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL)
    assert f"title = {{{{{cited['title']}}}}}" in entry
    assert f"version = {{{cited['version']}}}" in entry
    assert all(author["name"] in entry for author in cited["authors"])


def test_commands_of_the_makefile_are_ones() -> None:
    recipes = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"\$\(BIN\)/remainder (.+)", recipes)
    plain = [
        re.split(r" --check|; |\"", line.replace('"$$(basename "$$file" .json)"', "X"))[0] for line in lines
    ]
    assert len(plain) >= 6
    assert [(line, fault) for line in plain if (fault := wrong(line.strip()))] == []


def test_every_figure_stands_on_a_page_or_is_made_by_a_script() -> None:
    """Any other is made again by nobody, and is wrong before long."""
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "examples").glob("*.py")]
    texts = "\n".join([*map(text_of, PAGES), *scripts])
    figures = [path.name for path in sorted((ROOT / "docs" / "figures").iterdir())]
    assert [name for name in figures if name not in texts] == []


def test_a_dead_link_would_be_found() -> None:
    text = "[a](gone.md) `[b](code.md)` [c](ci.md#pytest) [d](ci.md#gone) [e](https://example.org)\n```\n[f](x)\n```"
    assert list(dead(ROOT / "docs" / "results.md", text)) == ["gone.md", "ci.md#gone"]


# ------------------------------------------------------------------------------------------------- commands


def commands(text: str) -> Iterator[str]:
    """What stands after `remainder` in blocks and in code within a line."""
    blocks = [block for _, language, block in FENCE.findall(text) if language in SHELLS]
    spans = re.findall(r"`(remainder\s[^`]+)`", FENCE.sub("", text))
    for part in (*blocks, *(" ".join(span.split()) for span in spans)):
        for line in part.replace("\\\n", " ").splitlines():
            if match := COMMAND.match(re.sub(r"\$\([^)]*\)", "X", line)):
                yield re.split(r" +#| [|>;&]", match["rest"])[0].strip()


@cache
def known() -> tuple[Any, frozenset[str], frozenset[str]]:
    """The command line, all tasks, and their suites."""
    tasks = frozenset(list_tasks())
    return get_command(app), tasks, frozenset(task.split("/")[0] for task in tasks)


def takes_value(command: Any, word: str) -> bool:
    """Whether a word is an option that a value follows."""
    return any(word in param.opts and not getattr(param, "is_flag", False) for param in command.params)


def wrong(line: str) -> str | None:
    """What the command line would complain of; None if it would not. A line may end with a bare option."""
    command, tasks, suites = known()
    words = shlex.split(line)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command = command.commands[words.pop(0)]
    context = command.context_class(command, info_name=command.name)
    try:
        last = ["X"] if words and takes_value(command, words[-1]) else []
        given, rest, _ = command.make_parser(context).parse_args([*words, *last])
    except Exception as problem:  # whatever the parser has against it
        return str(problem)
    for word in words:
        if re.fullmatch(r"[\w.-]+/[\w.-]+", word) and word.split("/")[0] in suites and word not in tasks:
            return f"no task {word}"
    for key in (given.get("columns") or "").split(","):
        if key and key != "all" and quantity(key) is None:
            return f"no column {key}"
    return f"too many arguments: {rest}" if rest else None


def test_every_command_is_one() -> None:
    lines = {
        (page, line) for page in PAGES if page.name != "CHANGELOG.md" for line in commands(text_of(page))
    }
    assert len(lines) > 100
    assert [(page, line, fault) for page, line in lines if (fault := wrong(line))] == []


def test_a_command_that_is_none_would_be_found() -> None:
    text = "```sh run\nremainder run \\\n  tiny/wiki --wiht x\nA=b remainder show  # a\n```\n`remainder\ngo`."
    assert list(commands(text)) == ["run    tiny/wiki --wiht x", "show", "go"]
    assert "--wiht" in str(wrong("run tiny/wiki --wiht x"))
    assert wrong("show mine.json --columns kl_raw,kl_cooked") == "no column kl_cooked"
    assert wrong("run tiny/wikki") == "no task tiny/wikki"
    assert wrong("cache go") == "no command go"
    assert "extra" in str(wrong("doctor extra"))
    assert wrong("run --with") is None
    assert wrong("compare OLD NEW --fail-on-regression …") is None


# ------------------------------------------------------------------------------------------------- reference


def test_every_public_name_has_one_place_in_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is new stands on a last page, until somebody gives it a place."""

    def shown() -> list[str]:
        return re.findall(r"^::: remainder\.(\w+)$", "\n".join(dict(reference.python_pages()).values()), re.M)

    assert sorted([*shown(), "__version__"]) == sorted(remainder.__all__)
    monkeypatch.setattr(remainder, "__all__", [*remainder.__all__, "new"])
    assert "::: remainder.new\n" in dict(reference.python_pages())["more"]
    assert "new" in shown()


def test_names_that_the_recipes_use_are_documented() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^from (remainder\.[\w.]+) import (.+)$", text, re.MULTILINE)
    used = {name.strip() for _, names in lines for name in names.split(",")}
    assert len(used) > 10
    documented = {name.split(".")[-1] for names in reference.PLUGINS.values() for name in names}
    assert used - documented - set(remainder.__all__) == set()


def test_the_table_of_contents_names_pages_that_are_there() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r": ([\w/.-]+\.(?:md))$", text, re.MULTILINE)
    made = {*reference.pages(), "index.md", "contributing.md", "changelog.md"}
    made |= {f"notebooks/{path.stem}.md" for path in NOTEBOOKS}
    assert len(set(named)) == len(named) > 40
    assert [name for name in named if name not in made and not (ROOT / "docs" / name).is_file()] == []


def test_tables_of_the_reference_hold_what_the_package_has() -> None:
    pages = reference.pages()
    for page, words in {
        "commands": [
            "## remainder board build",
            "| `--with SUBMISSION` |",
            "remainder run [OPTIONS] [TASK]...",
        ],
        "quantities": ["| `kl_coded` | KL coded |", "| `noise-fitted` |"],
        "tasks": ["## tracr", "### smollm2-135m/resid-15", "from the Hugging Face hub"],
        "formats": ["| `saelens` | reconstruction |"],
    }.items():
        assert [word for word in words if word not in pages[f"reference/{page}.md"]] == []


# ------------------------------------------------------------------------------------------ links of the site


def test_links_of_a_page_are_those_of_the_site() -> None:
    pages = {"docs/ci.md": "ci.md", "CONTRIBUTING.md": "contributing.md", "docs/a/b.ipynb": "a/b.md"}

    def site(text: str, source: str, page: str) -> str:
        return links.rewritten(text, source, page, pages, ROOT, "https://example.org/x")

    assert site("[a](docs/ci.md#pytest)", "README.md", "index.md") == "[a](ci.md#pytest)"
    assert site("[a](../CONTRIBUTING.md)", "docs/ci.md", "ci.md") == "[a](contributing.md)"
    assert site("[a](../ci.md) [b](b.ipynb)", "docs/a/c.md", "a/c.md") == "[a](../ci.md) [b](b.md)"
    far = "[a](https://example.org/x/blob/main/LICENSE) [b](https://example.org/x/tree/main/tasks/tiny#c)"
    assert site("[a](../LICENSE) [b](../tasks/tiny#c)", "docs/ci.md", "ci.md") == far
    for same in (
        "`[a](../LICENSE)`",
        "```\n[a](../LICENSE)\n```",
        "[a](gone.md)",
        "[a](#b)",
        "[a](../../etc)",
    ):
        assert site(same, "docs/ci.md", "ci.md") == same
    assert links.OUTSIDE.sub("", "[![b](https://x.org/b.svg)](ci.md) ![c](c.png)") == "![c](c.png)"


def test_faults_of_a_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="a">A</h1><a href="#a"></a><a href="b.html#b"></a><a href="b.html#c"></a>'
        '<a href="gone.html"></a><a href="https://example.org"></a>'
        '<img src="https://example.org/x.png"><link href="//x.org/y.css">'
    )
    (tmp_path / "b.html").write_text('<p id="b">')
    (tmp_path / "c.css").write_text("@import url(https://x.org/z.css)")
    assert list(links.faults(tmp_path)) == [
        "a.html: https://example.org/x.png is fetched from elsewhere",
        "a.html: //x.org/y.css is fetched from elsewhere",
        "a.html: b.html#c: no such anchor",
        "a.html: gone.html is not there",
        "c.css: https://x.org/z.css is fetched from elsewhere",
    ]


def test_the_address_is_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADDRESS", "https://example.org/x/")
    assert (address.address(), address.fault()) == ("https://example.org/x", None)
    monkeypatch.setenv("ADDRESS", f"https://somewhere{address.PLACEHOLDER}x")
    done = subprocess.run([sys.executable, address.__file__], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is a placeholder, https://somewhere.invalid/x" in done.stderr
    assert "fix: set `Repository` below [project.urls]" in done.stderr
    monkeypatch.delenv("ADDRESS")
    assert address.address().startswith("https://")
