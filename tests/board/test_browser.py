"""The site in headless Chromium: sorting, filters, links, colours, keyboard, phones, nothing from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_board import coded, let_give_places, put, small_board, submission
from synthetic_records import fake_hash

from remainder.board.build import build
from remainder.board.serve import server
from remainder.board.snapshot import make_snapshot
from remainder.board.verify import record_files
from remainder.record.schema import TaskInfo

pytestmark = pytest.mark.slow

TASK = "tasks/family.task.v1.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    small_board(folder / "results")
    (folder / "snapshots").mkdir()
    snapshot = make_snapshot("2026.12", folder / "results", record_files(folder / "results")[0])
    (folder / "snapshots/2026.12.json").write_bytes(snapshot.content)
    build(folder / "results", folder / "site")
    return folder / "site"


class Tab:
    """A page, and what it complained of or asked for."""

    def __init__(self, browser: Any, site: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.site = site
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", self._failed)

    def open(self, name: str) -> Any:
        self.page.goto((self.site / name).as_uri())
        return self.page

    def _failed(self, request: Any) -> None:
        # What is still under way when the next page is opened is broken off.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.complaints.append(f"not there: {request.url}")

    def names(self) -> list[str]:
        """Submissions in the order that the table shows them in."""
        cells = self.page.locator("table[data-table] tbody td.first a")
        return [text.strip() for text in cells.all_inner_texts()]

    def shows(self, *names: str) -> None:
        """Wait until the table shows these, in this order: a click sorts a moment later."""
        self.page.wait_for_function(
            """(wanted) => {
              const links = document.querySelectorAll("table[data-table] tbody td.first a");
              return [...links].map((link) => link.innerText.trim()).join() === wanted;
            }""",
            arg=",".join(names),
            timeout=10_000,
        )

    def sort(self, heading: str) -> None:
        self.page.locator("table[data-table] thead th", has_text=heading).first.click()


@pytest.fixture
def tab(browser: Any, site: Path) -> Iterator[Tab]:
    opened = Tab(browser, site)
    yield opened
    opened.context.close()


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_every_page_opens_without_a_complaint_and_asks_nobody_else(
    browser: Any, site: Path, scheme: str
) -> None:
    tab = Tab(browser, site)
    with server(site, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{running.server_address[1]}"
        base = site.as_uri() if scheme == "file" else address
        try:
            for path in sorted(site.rglob("*.html")):
                tab.page.goto(f"{base}/{path.relative_to(site).as_posix()}")
                assert tab.page.locator("h1").count() == 1
            tab.page.goto(f"{base}/{TASK}")
            tab.page.locator("[data-explore]").click()
            tab.page.wait_for_selector(".plotly .point")
        finally:
            tab.context.close()
            running.shutdown()
            thread.join()
    assert tab.complaints == []
    assert tab.asked
    assert all(url.startswith((base, "data:", "blob:")) for url in tab.asked)


def test_links_lead_from_the_front_page_to_a_record_and_back(tab: Tab) -> None:
    page = tab.open("index.html")
    page.get_by_role("link", name="family/task").click()
    page.get_by_role("link", name="good", exact=True).click()
    assert page.locator("h1").inner_text() == "good"
    page.get_by_role("link", name="family/task").first.click()
    assert page.locator("h1").inner_text().startswith("family/task")
    page.get_by_role("link", name="All records").click()
    assert page.locator("h1").inner_text() == "All records"
    page.get_by_role("link", name="Snapshots").click()
    page.get_by_role("link", name="2026.12", exact=True).click()
    assert page.locator("h1").inner_text() == "2026.12"
    page.locator("table[data-table] a", has_text="family/task").first.click()
    assert page.locator("h1").inner_text().startswith("family/task")


def test_the_skip_link_is_seen_and_leads_to_the_content(tab: Tab) -> None:
    page = tab.open(TASK)
    page.keyboard.press("Tab")
    skip = page.locator("a.skip")
    assert skip.bounding_box()["width"] > 50
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_a_citation_is_copied(browser: Any, site: Path) -> None:
    """Over HTTP by the clipboard; where it is closed the text is marked."""
    tab = Tab(browser, site)
    with server(site, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{running.server_address[1]}"
        try:
            tab.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
            page = tab.page
            page.goto(f"{address}/snapshots/2026.12.html")
            button = page.locator("[data-copy]").first
            button.focus()
            page.keyboard.press("Enter")
            page.wait_for_function("document.querySelector('[data-copied]').textContent === 'Copied'")
            assert page.evaluate("navigator.clipboard.readText()") == page.locator("#cite-1").inner_text()
            page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(Error('closed')); }")
            page.locator("[data-copy]").nth(2).click()
            page.wait_for_function("getSelection().toString().includes('[Data set]')")
        finally:
            tab.context.close()
            running.shutdown()
            thread.join()
    assert tab.complaints == []


def test_columns_sort_by_number_and_say_so(tab: Tab) -> None:
    page = tab.open(TASK)
    tab.shows("copy", "good", "equal", "even", "mean")
    tab.sort("bits")
    tab.shows("mean", "even", "equal", "good", "copy")
    head = page.locator("table[data-table] thead th", has_text="bits").first
    assert head.get_attribute("aria-sort") == "ascending"
    tab.sort("bits")
    tab.shows("copy", "good", "equal", "even", "mean")
    assert head.get_attribute("aria-sort") == "descending"


def test_what_is_missing_sorts_last_in_both_directions(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_give_places(monkeypatch, "family/task")
    info = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    for number, name in enumerate(("good", "even", "copy")):
        mine = submission(name, files=name != "copy")
        put(tmp_path / "results", coded(0.4 + number), task=info, submission=mine)
    build(tmp_path / "results", tmp_path / "site", processes=1)
    tab = Tab(browser, tmp_path / "site")
    page = tab.open(TASK)
    for direction in ("ascending", "descending"):
        tab.sort("1/2")
        page.wait_for_selector(f"th[aria-sort={direction}]")
        assert tab.names()[-1] == "copy"
    tab.context.close()


def test_all_columns_are_there_on_demand(tab: Tab) -> None:
    page = tab.open(TASK)
    more = page.locator("table[data-table] thead th.more").first
    assert more.is_hidden()
    page.get_by_label("All columns").check()
    assert more.is_visible()


def test_filters_keep_references_in_view(tab: Tab) -> None:
    page = tab.open(TASK)
    page.get_by_label("Search").fill("goo")
    tab.shows("copy", "good", "mean")
    assert page.locator("[data-count]").inner_text() == "1 of 3 submissions, 2 references"
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("At most").fill("250")
    tab.shows("copy", "even", "mean")
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Pareto front only").check()
    assert "good" in tab.names()
    assert {"copy", "mean"} <= set(tab.names())
    page.get_by_role("button", name="Reset").click()
    tab.shows("copy", "good", "equal", "even", "mean")


def test_everything_is_reached_and_sorted_by_keyboard(tab: Tab) -> None:
    page = tab.open(TASK)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => {
                  const at = document.activeElement, style = getComputedStyle(at);
                  const ring = style.outlineStyle !== "none" || at.matches("svg a, svg a *");
                  return [at.closest("th") ? "th " + at.closest("th").innerText.trim() : at.tagName, ring];
                }"""
            )
        )
        if reached[-1][0].startswith("th bits"):
            break
    assert all(ring for _, ring in reached)
    assert reached[0][0] == "A"  # the link that skips to the content
    assert {"BUTTON", "INPUT"} <= {name for name, _ in reached}
    assert reached[-1][0].startswith("th bits")
    page.keyboard.press("Enter")
    tab.shows("mean", "even", "equal", "good", "copy")


def brightness(page: Any) -> float:
    """Of the page's background, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_colours_follow_the_system_and_the_switch(browser: Any, site: Path) -> None:
    tab = Tab(browser, site, color_scheme="dark")
    page = tab.open(TASK)
    assert brightness(page) < 60
    switch = page.locator("button.theme")
    assert switch.inner_text() == "Auto"
    switch.click()
    assert (switch.inner_text(), brightness(page) > 200) == ("Light", True)
    page = tab.open("index.html")  # the choice is kept
    assert brightness(page) > 200
    switch.click()
    assert (switch.inner_text(), brightness(page) < 60) == ("Dark", True)
    tab.context.close()


CONTRAST = """() => {
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          const paint = (text) => { // any CSS colour as sRGB bytes
            const canvas = document.createElement("canvas").getContext("2d");
            canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
          };
          const light = (rgb) => {
            const [r, g, b] = rgb.slice(0, 3).map((v) => v / 255)
              .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (at) => {
            for (; at; at = at.parentElement) {
              const colour = getComputedStyle(at).backgroundColor;
              if (!/rgba\\(0, 0, 0, 0\\)|transparent/.test(colour)) return paint(colour);
            }
            return paint("white");
          };
          let worst = [99, ""];
          for (const at of document.querySelectorAll("main *, header *, footer *")) {
            const speaks = [...at.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!speaks || at.closest("svg, .sr")) continue;
            const ink = light(paint(getComputedStyle(at).color));
            const [a, b] = [ink, light(ground(at))].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            if (ratio < worst[0]) worst = [ratio, at.outerHTML.slice(0, 120)];
          }
          return worst;
        }"""
"""The least contrast of a text on the page, and where it is."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, site: Path, scheme: str) -> None:
    """Contrast of WCAG 2, level AA: 4.5 for text."""
    tab = Tab(browser, site, color_scheme=scheme)
    record = next((site / "records").glob("*.html")).relative_to(site).as_posix()
    found = {}
    for name in (TASK, record, "index.html", "snapshots.html", "snapshots/2026.12.html"):
        found[name] = tab.open(name).evaluate(CONTRAST)
    tab.context.close()
    assert {name: worst for name, worst in found.items() if worst[0] < 4.5} == {}


def test_a_phone_scrolls_tables_not_pages(browser: Any, site: Path) -> None:
    tab = Tab(browser, site, viewport={"width": 360, "height": 740})
    for path in sorted(site.rglob("*.html")):
        page = tab.open(path.relative_to(site).as_posix())
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path.name
    page = tab.open(TASK)
    page.get_by_label("All columns").check()
    assert page.evaluate("document.querySelector('.tall').scrollWidth > 700")
    page.locator("[data-explore]").click()
    page.wait_for_selector(".plotly .point")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    tab.context.close()


def test_without_scripts_the_tables_are_there(browser: Any, site: Path) -> None:
    tab = Tab(browser, site, java_script_enabled=False)
    page = tab.open(TASK)
    tab.shows("copy", "good", "equal", "even", "mean")
    assert page.locator(".tools").is_hidden()
    assert page.locator("svg.pareto").count() == 2
    tab.context.close()


def test_the_figures_to_explore_can_be_closed_again(tab: Tab) -> None:
    page = tab.open(TASK)
    button = page.locator("[data-explore]")
    button.click()
    page.wait_for_selector(".plotly .point")
    assert page.locator("[data-still]").is_hidden()
    page.get_by_role("combobox", name="Loss").select_option("gap")
    page.get_by_role("combobox", name="Axes").select_option("linear")
    page.wait_for_function("document.querySelector('.ytitle').textContent.includes('|Δ|')")
    button.click()
    assert page.locator("[data-still]").is_visible()
    assert page.locator("[data-plot]").is_hidden()
    assert tab.complaints == []
