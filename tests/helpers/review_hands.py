"""What a reviewer does on the review page, by mouse and keys."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def type_identity(page: Any, text: str) -> None:
    """Type into the question where a picture moves to, until something is offered: the names are loaded when first
    asked for."""
    page.keyboard.type(text)
    page.locator("#choices li").first.wait_for(state="visible")


def card(page: Any, position: int) -> Any:
    return page.locator(f".card:not([hidden])[aria-posinset='{position}']")


def click(page: Any, position: int, decision: str) -> None:
    card(page, position).locator(f"button[data-do={decision}]").click()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds. (Playwright's own wait evaluates text as a script, which the page forbids.)"""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def scrolled(page: Any) -> float:
    return page.evaluate("document.getElementById('list').scrollTop")


def message(page: Any) -> str:
    return page.locator("#message").text_content()


def save(page: Any, tmp_path: Path) -> dict[str, Any]:
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "decisions.json"
    path = tmp_path / "decisions.json"
    download.value.save_as(path)
    return json.loads(path.read_text(encoding="utf-8"))


def counts(page: Any) -> str:
    return page.locator("#count").text_content()


def keep() -> dict[str, Any]:
    return {"decision": "keep", "to": None}


def drop() -> dict[str, Any]:
    return {"decision": "drop", "to": None}


def move(to: str) -> dict[str, Any]:
    return {"decision": "move", "to": to}
