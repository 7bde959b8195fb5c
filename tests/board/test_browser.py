"""The site in headless Chromium: sorting, filters, links, colours, keyboard, phones, nothing from outside."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_board import coded, let_give_places, put, small_board, submission
from synthetic_records import fake_hash

from remainder.base.paths import project_root
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
    tab.shows("good", "equal", "even")
    tab.sort("bits")
    tab.shows("even", "equal", "good")
    head = page.locator("table[data-table] thead th", has_text="bits").first
    assert head.get_attribute("aria-sort") == "ascending"
    tab.sort("bits")
    tab.shows("good", "equal", "even")
    assert head.get_attribute("aria-sort") == "descending"


def test_what_is_missing_sorts_last_in_both_directions(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_give_places(monkeypatch, "family/task")
    info = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    for number, name in enumerate(("good", "even", "copy")):
        bits = 4000.0 if name == "copy" else 180.0  # beyond every budget
        put(tmp_path / "results", coded(0.4 + number, bits=bits), task=info, submission=submission(name))
    build(tmp_path / "results", tmp_path / "site", processes=1)
    tab = Tab(browser, tmp_path / "site")
    page = tab.open(TASK)
    for direction in ("ascending", "descending"):
        tab.sort("Place")
        page.wait_for_selector(f"th[aria-sort={direction}]")
        assert tab.names()[-1] == "copy"
    tab.context.close()


def test_all_columns_are_there_on_demand(tab: Tab) -> None:
    page = tab.open(TASK)
    more = page.locator("table[data-table] thead th.more").first
    assert more.is_hidden()
    page.get_by_label("All columns").check()
    assert more.is_visible()


def test_filters_are_folded_and_work(tab: Tab) -> None:
    page = tab.open(TASK)
    assert page.get_by_label("Search").is_hidden()
    page.get_by_text("Search and filter").click()
    page.get_by_label("Search").fill("goo")
    tab.shows("good")
    assert page.locator("[data-count]").inner_text() == "1 of 3 submissions"
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("At most").fill("250")
    tab.shows("even")
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Pareto front only").check()
    assert "good" in tab.names()
    page.get_by_role("button", name="Reset").click()
    tab.shows("good", "equal", "even")


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
        if reached[-1][0].startswith("th Bits"):
            break
    assert all(ring for _, ring in reached)
    assert reached[0][0] == "A"  # the link that skips to the content
    assert {"BUTTON", "INPUT"} <= {name for name, _ in reached}
    assert reached[-1][0].startswith("th Bits")
    page.keyboard.press("Enter")
    tab.shows("even", "equal", "good")


def brightness(page: Any) -> float:
    """Of the page's background, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_colours_follow_the_system_and_the_switch(browser: Any, site: Path) -> None:
    tab = Tab(browser, site, color_scheme="dark")
    page = tab.open(TASK)
    assert brightness(page) < 60
    switch = page.locator("button.theme")
    assert switch.inner_text() == "Colours: automatic"
    switch.click()
    assert (switch.inner_text(), brightness(page) > 200) == ("Colours: light", True)
    page = tab.open("index.html")  # the choice is kept
    assert brightness(page) > 200
    switch.click()
    assert (switch.inner_text(), brightness(page) < 60) == ("Colours: dark", True)
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
    tab.shows("good", "equal", "even")
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


def test_references_are_folded_below_and_have_the_same_columns(tab: Tab) -> None:
    page = tab.open(TASK)
    folded = page.locator("details.folded table")
    assert folded.is_hidden()
    page.get_by_text("References: 2 rows").click()
    assert folded.locator("td.first a").all_inner_texts() == ["copy", "mean"]
    assert folded.locator("th.more").first.is_hidden()
    page.get_by_label("All columns").check()
    assert folded.locator("th.more").first.is_visible()


def test_a_point_says_what_it_is_when_it_is_pointed_at(tab: Tab) -> None:
    page = tab.open(TASK)
    tip = page.locator(".tip")
    assert tip.is_hidden()
    points = page.locator("svg.figure a")
    points.first.hover()
    assert "bits per token, KL" in tip.inner_text()
    page.mouse.move(2, 2)
    assert tip.is_hidden()
    points.last.focus()
    assert "bits per token, KL" in tip.inner_text()
    assert tab.complaints == []


OVERLAPS = """() => {
          const found = [];
          for (const figure of document.querySelectorAll("svg.figure")) {
            const texts = [...figure.querySelectorAll("text")]
              .map((one) => [one.getBoundingClientRect(), one.textContent]).filter(([box]) => box.width);
            texts.forEach(([a, one], at) => texts.slice(at + 1).forEach(([b, other]) => {
              const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
              const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
              if (wide > 1.5 && high > 3) found.push([one, other]);
            }));
          }
          return found;
        }"""
"""Pairs of labels of a figure that lie over each other, by more than the room that a line has anyway."""


@pytest.fixture(scope="module")
def real_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board of two real tasks: a site and circuits."""
    folder = tmp_path_factory.mktemp("real")
    for name in ("resid-15", "ioi"):
        source = project_root() / "leaderboard" / "results" / "smollm2-135m" / name
        shutil.copytree(source, folder / "results" / "smollm2-135m" / name)
    build(folder / "results", folder / "site")
    return folder / "site"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_real_pages_fit_and_their_labels_do_not_overlap(
    browser: Any, real_site: Path, width: int, scheme: str
) -> None:
    tab = Tab(browser, real_site, viewport={"width": width, "height": 812}, color_scheme=scheme)
    record = next((real_site / "records").glob("*.html")).relative_to(real_site).as_posix()
    tasks = [f"tasks/smollm2-135m.{name}.v2.html" for name in ("resid-15", "ioi")]
    shared = [path.name for path in real_site.glob("*.html")]
    for name in (*shared, *tasks, record):
        page = tab.open(name)
        assert page.evaluate("document.documentElement.scrollWidth") == width, name
        assert page.evaluate(OVERLAPS) == [], name
    for name, wanted in ((tasks[0], ("Place", "KL coded", "efficiency")), ("index.html", ("Efficiency",))):
        page = tab.open(name)
        for heading in wanted:
            box = page.locator("table.board").first.locator("th", has_text=heading).first.bounding_box()
            assert box["x"] + box["width"] <= width, (name, heading)
    assert tab.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in tab.asked)
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_axe_finds_no_serious_fault(browser: Any, real_site: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    script = Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    # Its text is no part of the page, which allows none but its own scripts.
    size = {"width": width, "height": 812}
    tab = Tab(browser, real_site, viewport=size, color_scheme=scheme, bypass_csp=True)
    record = next((real_site / "records").glob("*.html")).relative_to(real_site).as_posix()
    tasks = [f"tasks/smollm2-135m.{name}.v2.html" for name in ("resid-15", "ioi")]
    found = {}
    for name in ("index.html", "circuits.html", "submit.html", "cite.html", *tasks, record):
        page = tab.open(name)
        page.evaluate(script)
        faults = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        found[name] = [one["id"] for one in faults if one["impact"] in ("serious", "critical")]
    tab.context.close()
    assert {name: faults for name, faults in found.items() if faults} == {}
