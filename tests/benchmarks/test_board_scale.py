"""The board at 5,000 records of 20 tasks: built in a minute, small pages, and sorted at once.

make bench
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from synthetic_board import large_board

from remainder.board.build import build

TASKS, RECORDS = 20, 250
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    large_board(folder, tasks=TASKS, records=RECORDS)
    return folder


@pytest.mark.benchmark(group="board: 5,000 records of 20 tasks")
def test_the_board_is_built_within_a_minute(benchmark: Any, results: Path, tmp_path: Path) -> None:
    built = benchmark.pedantic(build, args=(results, tmp_path / "site"), rounds=1)
    assert (built.records, built.tasks, built.faults) == (TASKS * RECORDS, TASKS, ())
    assert benchmark.stats.stats.max < 60
    assets = tmp_path / "site/assets"
    # What a task's page loads when it is opened; plotly only when somebody asks for it.
    loaded = sum((assets / name).stat().st_size for name in ("board.css", "theme.js", "datatables.js"))
    loaded += sum((assets / name).stat().st_size for name in ("table.js", "explore.js", "icon.svg"))
    largest = max(path.stat().st_size for path in (tmp_path / "site/tasks").iterdir())
    benchmark.extra_info["page, MB"] = (largest + loaded) / 1e6
    assert largest + loaded <= 5e6


@pytest.mark.benchmark(group="board: sorting a table of 250 rows")
def test_a_table_of_250_rows_is_sorted_within_200_ms(benchmark: Any, results: Path, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    shutil.copytree(results / "suite-0/task-8", tmp_path / "few/suite-0/task-8")
    build(tmp_path / "few", tmp_path / "site")
    (page_file,) = (tmp_path / "site/tasks").iterdir()
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with sync_api.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        page = browser.new_page()
        page.goto(page_file.as_uri())
        assert page.locator("table[data-table] tbody tr").count() == RECORDS

        def sort() -> float:
            """Milliseconds from the click until the browser has laid the sorted table out."""
            milliseconds: float = page.evaluate(
                """() => new Promise((resolve) => {
                  const heads = [...document.querySelectorAll("table[data-table] thead th")];
                  const head = heads.find((th) => th.textContent.includes("bits"));
                  const start = performance.now();
                  new DataTable.Api("table[data-table]").one("draw", () => setTimeout(() => {
                    document.body.getBoundingClientRect();
                    resolve(performance.now() - start);
                  }));
                  head.click();
                })"""
            )
            return milliseconds

        times = [sort() for _ in range(9)]
        benchmark.pedantic(sort, rounds=5)
        browser.close()
    benchmark.extra_info["sorting, ms"] = sorted(times)[4]
    assert sorted(times)[4] <= 200, times
