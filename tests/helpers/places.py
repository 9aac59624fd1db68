"""Where tests find the checkout, and photos of real faces where a machine has them.

ARCSHARD_PHOTOS names a folder that holds lfw/, orl/ and multiface/ (CONTRIBUTING.md); without it the tests that need
such photos skip.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
MXNET_GOLDEN = GOLDEN / "mxnet"
PHOTOS = Path(os.environ.get("ARCSHARD_PHOTOS") or os.devnull)
LFW = PHOTOS / "lfw"
ORL = PHOTOS / "orl"
MULTIFACE = PHOTOS / "multiface"


def needs_photos(folder: Path) -> pytest.MarkDecorator:
    """Return a mark that skips where `folder`, one of those above, is absent."""
    return pytest.mark.skipif(not folder.is_dir(), reason=f"ARCSHARD_PHOTOS names no folder with {folder.name}/ in it")
