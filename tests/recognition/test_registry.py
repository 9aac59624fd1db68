"""Names that stand for things, some of which are imported only when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recognition.backbones import BACKBONES
from recognition.detection.detectors import DETECTORS
from recognition.errors import ConfigError
from recognition.formats.layouts import LAYOUTS
from recognition.images.augment import AUGMENTATIONS
from recognition.registry import Registry


def test_a_member_is_imported_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rare_member.py").write_text("VALUE = 7\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[int] = Registry("number")
    registry.register_at("rare", "rare_member:VALUE")
    registry.register("plain")(3)
    assert list(registry) == ["rare", "plain"]
    assert "rare" in registry
    assert "rare_member" not in sys.modules
    assert (registry["plain"], registry["rare"], registry["rare"]) == (3, 7, 7)
    assert "rare_member" in sys.modules


def test_an_unknown_name_is_answered_with_the_nearest_or_with_all() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("seven")(7)
    registry.register_at("eight", "nowhere:EIGHT")
    with pytest.raises(ConfigError, match=r"unknown number 'sevn'; did you mean 'seven'\?"):
        registry["sevn"]
    with pytest.raises(ConfigError, match=r"unknown number '\?'; expected one of eight, seven$"):
        registry["?"]
    with pytest.raises(AssertionError, match="number 'seven' is registered twice"):
        registry.register_at("seven", "nowhere:SEVEN")


@pytest.mark.parametrize("registry", [AUGMENTATIONS, BACKBONES, DETECTORS, LAYOUTS], ids=lambda registry: registry.kind)
def test_every_registered_place_is_there(registry: Registry[Any]) -> None:
    for name in registry:
        assert callable(registry[name])


def test_the_names_of_detectors_cost_no_import_of_what_they_need() -> None:
    code = (
        "import sys\nfrom recognition.detection.detectors import DETECTORS\nassert list(DETECTORS)\n"
        "assert not {'torch', 'dlib', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
