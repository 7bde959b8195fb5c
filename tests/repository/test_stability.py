"""The page on what is stable says what the code has."""

from __future__ import annotations

import re

from remainder import __version__
from remainder.base import plugins
from remainder.base.paths import project_root
from remainder.record import old
from remainder.record.schema import SCHEMA_VERSION
from remainder.record.withdrawn import WITHDRAWN
from remainder.task.spec import PROTOCOL

PAGE = (project_root() / "docs" / "stability.md").read_text(encoding="utf-8")


def test_versions_are_those_of_the_code() -> None:
    assert f"Remainder is at version {__version__.rpartition('.')[0]}." in PAGE
    assert f"`schema_version` ({SCHEMA_VERSION})" in PAGE
    assert f"back to {min(map(int, old.VERSIONS))}, and writes" in PAGE
    assert f"[protocol {PROTOCOL} is the present one]" in PAGE


def test_groups_of_entry_points_are_all_named() -> None:
    groups = {plugins.FORMATS, plugins.METHODS, plugins.SUBMISSIONS, plugins.TASKS}
    (row,) = (line for line in PAGE.splitlines() if line.startswith("| entry points |"))
    assert set(re.findall(r"`(remainder\.\w+)`", row)) == groups
    pyproject = (project_root() / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(group in pyproject for group in groups)


def test_links_lead_somewhere() -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]+\.md)(#[\w-]+)?\)", PAGE):
        path = (project_root() / "docs" / target).resolve()
        assert path.is_file(), target
        titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in {"", *anchors}, anchor
    submitting = (project_root() / "docs" / "submitting.md").read_text(encoding="utf-8")
    assert f"leaderboard/results/{WITHDRAWN}" in submitting
