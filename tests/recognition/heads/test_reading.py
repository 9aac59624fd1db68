"""What keeps the head readable: few frames between the training loop and a product, and no long function."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import recognition
from tests.helpers.heads import ALONE
from tests.helpers.runs import make_trainer

ROOM = Path(recognition.__file__).parent


def own_frames() -> list[str]:
    """Return the names of this project's functions that are running, the innermost first."""
    frames = [info for info in inspect.stack(0) if Path(info.filename).is_relative_to(ROOM)]
    return [info.function for info in frames]


def test_at_most_nine_frames_lie_between_fit_and_a_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: set[tuple[str, ...]] = set()
    multiply = torch.mm

    def watched(*args: Any, **kwargs: Any) -> Any:
        frames = own_frames()
        if "fit" in frames:
            stacks.add(tuple(frames[: frames.index("fit") + 1]))
        return multiply(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", watched)
    make_trainer(ALONE, str(tmp_path), ["train.batch_size=12", "train.num_epoch=1"]).fit()
    passes = {name for stack in stacks for name in stack if name.endswith("_pass")}
    assert passes == {"first_pass", "second_pass"}, "both products of the logits are seen"
    longest = max(stacks, key=len)
    assert len(longest) <= 9, " < ".join(longest)


@pytest.mark.parametrize("folder", ["heads", "optim"])
def test_no_function_is_longer_than_a_screen(folder: str) -> None:
    files = list((ROOM / folder).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                # A kernel's dozens of parameters are counted apart: they have a line each.
                first = node.body[0].lineno if "jit" in ast.dump(ast.Tuple(node.decorator_list)) else node.lineno
                assert (node.end_lineno or 0) - first < 60, f"{file.name}: {node.name}"


@pytest.mark.parametrize("file", sorted((ROOM / "heads/margins").glob("*.py")), ids=lambda file: file.stem)
def test_a_margin_is_a_short_file(file: Path) -> None:
    limit = 80 if file.stem not in ("__init__", "protocol") else 120
    assert len(file.read_text(encoding="utf-8").splitlines()) < limit
