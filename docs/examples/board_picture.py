"""The picture of the board in the README, docs/figures/board.png: a task's page as Chromium shows it.

remainder board build
python docs/examples/board_picture.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "figures" / "board.png"
PAGE = "tasks/smollm2-135m.resid-15.v2.html"
SIZE = {"width": 1180, "height": 720}


def main(site: Path) -> None:
    """Take the picture of a built site, in light colours."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto((site / PAGE).absolute().as_uri())
        page.wait_for_selector("[data-count]")
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
