"""A real browser for the review page and the report: Debian's chromium, driven by Playwright (the extra `browser`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = "/usr/bin/chromium"


def missing(what: str) -> None:
    """Skip, or fail where the test must run."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and with CI=true the page must be tested")
    pytest.skip(f"{what} is missing: apt-get install chromium; pip install -e '.[browser]'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        missing(CHROMIUM)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page's folder; no script may fail and nothing may be asked for outside its folder."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    complaints: list[str] = []

    def watch(page: Any, folder: Path) -> None:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
        inside = (folder.as_uri(), "blob:", "data:")
        page.on("request", lambda sent: sent.url.startswith(inside) or complaints.append(f"asked for {sent.url}"))

    def open_folder(folder: Path) -> Any:
        page = context.new_page()
        watch(page, folder)
        page.goto((folder / "index.html").as_uri())
        return page

    yield open_folder
    context.close()
    assert not complaints
