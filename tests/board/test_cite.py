"""Citations: valid in every style, whatever a name is made of."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

import remainder
from remainder.base.address import PLACEHOLDER, repository
from remainder.base.paths import project_root
from remainder.board import cite as module
from remainder.board import snapshot
from remainder.board.cite import Citation, cite
from remainder.errors import RecordError
from remainder.record.schema import TaskInfo
from remainder.record.store import write_record

HOSTILE = r"A{b}c & $100% _#_ \input ~^ Gödel 李 and O'Hara"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results with two records of one submission, and a snapshot of them."""
    root, values = tmp_path / "leaderboard" / "results", synthetic_values()
    for tier in ("quick", "standard"):
        record = synthetic_record(values, tier=tier)
        write_record(record, values, root / "family" / "task" / "1" / "pca-32" / f"{record.record_id}.json")
    monkeypatch.setattr(module, "results_folder", lambda: root)
    for where in (module, snapshot):
        monkeypatch.setattr(where, "snapshots_folder", lambda: tmp_path / "snapshots")
    frozen = snapshot.make_snapshot("2026.12", root, sorted(root.rglob("*.json")))
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "2026.12.json").write_bytes(frozen.content)
    return root


@pytest.fixture(autouse=True)
def _later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day on which all dates of these tests are past, wherever they run."""
    monkeypatch.setattr(module, "_today", lambda: "2027-06-01")


def hostile() -> Citation:
    return Citation("remainder-1", f"On {HOSTILE}", (HOSTILE, "Ada"), "1.0", "2026-12-01", "f" * 64, "root")


def entry_of(text: str) -> dict[str, str]:
    """The fields of one BibTeX entry, read as BibTeX does: braces are counted, backslashes mean nothing."""
    head = re.match(r"@misc\{([A-Za-z0-9-]+),\n", text)
    assert head is not None
    fields, depth, field, value = {"key": head[1]}, 0, "", ""
    for letter in text[head.end() : text.rindex("}")]:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
        if letter == "=" and depth == 0 and not field:
            field, value = value.strip(), ""
        elif letter == "," and depth == 0:
            fields[field], field, value = value.strip(), "", ""
        else:
            value += letter
    assert (depth, value.strip()) == (0, "")
    return fields


def set_by_tex(text: str) -> str:
    """What TeX would print of escaped text: commands for single letters, no comment, no group left open."""
    names = {"textbackslash": "\\", "textbraceleft": "{", "textbraceright": "}"}
    names |= {"textasciitilde": "~", "textasciicircum": "^"}
    found = re.sub(r"\{\\([a-z]+)\}|\\([&%$#_])", lambda m: "\0" + (names[m[1]] if m[1] else m[2]), text)
    assert not re.search(r"(?<!\0)[\\{}$&%#_~^]", found)
    return found.replace("\0", "")


def test_bibtex_gives_back_what_was_put_in() -> None:
    fields = entry_of(module._bibtex(hostile()))
    assert fields["key"] == "remainder-1"
    assert (fields["year"], fields["month"], fields["version"]) == ("{2026}", "dec", "{1.0}")
    assert set_by_tex(fields["title"][2:-2]) == f"On {HOSTILE}"
    first, second = re.fullmatch(r"\{\{(.*)\} and \{(Ada)\}\}", fields["author"]).groups()  # type: ignore[union-attr]
    assert set_by_tex(first) == HOSTILE
    assert second == "Ada"
    assert "f" * 64 in fields["note"]


def check_cff(text: str) -> dict[str, Any]:
    """The rules of the Citation File Format 1.2.0 for the fields that are used here."""
    content = yaml.safe_load(text)
    assert {"cff-version", "message", "title", "authors"} <= content.keys()
    assert content.keys() <= {
        *("cff-version", "message", "type", "title", "authors", "version", "date-released", "identifiers"),
        *("license", "keywords", "url", "doi"),
    }
    assert content["cff-version"] == "1.2.0"
    assert content["type"] in ("dataset", "software")
    assert content["authors"]
    for author in content["authors"]:
        assert author.keys() == {"name"}  # an entity
        assert author["name"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(content.get("date-released", "2000-01-01")))
    for identifier in content.get("identifiers", []):
        assert identifier.keys() == {"type", "value", "description"}
        assert identifier["type"] in ("doi", "url", "swh", "other")
    return dict(content)


def test_cff_gives_back_what_was_put_in() -> None:
    content = check_cff(module._cff(hostile()))
    assert content["title"] == f"On {HOSTILE}"
    assert [author["name"] for author in content["authors"]] == [HOSTILE, "Ada"]
    assert content["identifiers"][0]["value"] == "sha256:" + "f" * 64


def test_apa_is_one_line_that_says_who_when_what_and_the_hash() -> None:
    assert module._apa(hostile()) == (
        f"{HOSTILE}, & Ada (2026). On {HOSTILE} (Version 1.0; root {'f' * 64}) [Data set]."
    )


def test_authors_and_title_are_those_of_the_citation_file() -> None:
    content = check_cff((project_root() / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["title"] == module._TITLE
    assert tuple(author["name"] for author in content["authors"]) == module._contributors()
    zenodo = json.loads((project_root() / ".zenodo.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in zenodo["creators"]] == [*module._contributors()]
    keys = {"title": "title", "license": "license", "keywords": "keywords", "version": "version"}
    assert {key: zenodo[key] for key in keys} == {key: content[name] for key, name in keys.items()}
    assert content["version"] == remainder.__version__


def test_people_are_named_as_the_citation_file_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    authors = [{"given-names": "Ada", "name-particle": "of", "family-names": "Lovelace"}, {"name": "A group"}]
    monkeypatch.setattr(module, "_project", lambda: {"authors": authors, "doi": "10.5281/zenodo.1"})
    assert module._contributors() == ("Ada of Lovelace", "A group")


def test_a_citation_has_an_address_and_a_doi_once_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    full = hostile()._replace(url="https://example.org/x", doi="10.5281/zenodo.1")
    fields = entry_of(module._bibtex(full))
    assert (fields["url"], fields["doi"]) == ("{https://example.org/x}", "{10.5281/zenodo.1}")
    content = check_cff(module._cff(full))
    assert (content["url"], content["doi"]) == (full.url, full.doi)
    assert module._apa(full).endswith("[Data set]. https://doi.org/10.5281/zenodo.1 https://example.org/x")
    assert not {"url", "doi"} & entry_of(module._bibtex(hostile())).keys()
    monkeypatch.setenv("ADDRESS", "https://example.org/x/")
    assert repository() == "https://example.org/x"
    monkeypatch.setenv("ADDRESS", f"https://somewhere{PLACEHOLDER}x")
    assert repository() is None


def test_no_date_is_in_the_future(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sorted(results.rglob("*.json"))[0]
    assert "n.d." not in cite(str(path))
    monkeypatch.setattr(module, "_today", lambda: "2020-01-01")
    assert "n.d." in cite(str(path))


@pytest.mark.parametrize("style", ["bibtex", "cff", "apa"])
def test_a_snapshot_is_cited_with_its_root(results: Path, style: str) -> None:
    root = snapshot.read_snapshot("2026.12").root
    text = cite("2026.12", style)
    assert root in text
    assert "2026" in text
    assert "2 records of 1 task)" in text


def test_a_snapshot_has_the_date_of_its_commit_and_none_without_a_history(results: Path) -> None:
    """The name is a label: 2026.12 was frozen in November."""
    folder = results.parent.parent / "snapshots"

    def git(*words: str, day: str = "2026-11-29") -> None:
        when = {"GIT_COMMITTER_DATE": f"{day}T12:00:00+00:00", "GIT_AUTHOR_DATE": "2001-01-01T00:00:00+00:00"}
        names = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {**os.environ, **names, **when}
        subprocess.run(["git", "-C", str(folder), *words], env=environment, check=True, capture_output=True)

    def dates() -> tuple[str, ...]:
        bibtex = entry_of(cite("2026.12", "bibtex"))
        cff = check_cff(cite("2026.12", "cff"))
        apa = re.findall(r"\((.*?)\)\.", cite("2026.12", "apa"))[0]
        return bibtex["year"], bibtex.get("month", ""), str(cff.get("date-released", "")), apa

    assert dates() == ("{n.d.}", "", "", "n.d.")
    git("init")
    assert dates() == ("{n.d.}", "", "", "n.d.")  # not committed yet
    git("add", ".")
    git("commit", "--message", "Freeze")
    (folder / "2026.12.json").touch()
    git("commit", "--message", "Later", "--allow-empty", day="2027-01-01")
    assert dates() == ("{2026}", "nov", "2026-11-29", "2026")
    (folder / ".git" / "shallow").write_text("")
    head = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True)
    (folder / ".git" / "shallow").write_bytes(head.stdout)
    assert dates() == ("{n.d.}", "", "", "n.d.")


def test_a_record_is_cited_by_file_or_by_the_start_of_its_id(results: Path) -> None:
    paths = sorted(results.rglob("*.json"))
    for path in paths:
        by_path = cite(str(path))
        assert cite(path.stem) == cite(path.stem[:12]) == by_path
        assert by_path.startswith("@misc{")
        assert cite(str(path), "all").count(path.stem) == 3
        check_cff(cite(path.stem, "cff"))
        entry_of(cite(path.stem, "bibtex"))
    assert "pca-32 on family/task 1-0, quick" in "".join(cite(path.stem, "apa") for path in paths)


def test_authors_of_a_known_submission_are_named() -> None:
    known = next((project_root() / "baselines").glob("*/submission.toml")).parent.name
    assert module._authors(known)
    assert module._authors("nobody-knows-this") == ()


@pytest.mark.parametrize("name", ["..", "../tasks", "/etc", "a/../../b", ""])
def test_a_name_that_is_a_path_leads_nowhere(name: str) -> None:
    assert module._authors(name) == ()


def test_what_is_unknown_is_told_with_near_ones(results: Path) -> None:
    path = sorted(results.rglob("*.json"))[0]
    digit = "0" if path.stem[3] != "0" else "1"
    mistyped = path.stem[:3] + digit + path.stem[4:12]
    for what, near in (("2026.11", "2026.12"), (mistyped, path.stem[:12]), ("pca-32", path.stem[:12])):
        with pytest.raises(RecordError, match="there is no snapshot or record") as raised:
            cite(what)
        assert near in str(raised.value.fix)
    with pytest.raises(RecordError) as raised:
        cite("something else")
    assert "or a snapshot (2026.12)" in str(raised.value.fix)


def test_several_records_are_told_apart(results: Path, tmp_path: Path) -> None:
    values = synthetic_values()
    record = synthetic_record(values, task=TaskInfo(id="family/other", version="1-A", hash="0" * 64))
    folder = results / "family" / "other" / "1" / "pca-32"
    first = sorted(results.rglob("*.json"))[0]
    write_record(record, values, folder / f"{first.stem[:8]}{record.record_id[8:]}.json")
    with pytest.raises(RecordError, match=r"2 records begin with .*family/other") as raised:
        cite(first.stem[:8])
    assert raised.value.fix == "give more digits"


def test_the_command_cites(results: Path, remainder: Command) -> None:
    done = remainder("cite", "2026.12", "--format", "apa")
    assert done.code == 0
    assert done.out.startswith("Remainder contributors (n.d.). ")
    assert "It has no date here" in done.err
    assert remainder("cite", "2026.12", "--format", "mla").code == 7
