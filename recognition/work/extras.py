"""Packages that only an extra brings, imported when they are first used. Torch-free."""

from __future__ import annotations

import importlib
from typing import Any

from recognition.errors import ConfigError


def import_extra(name: str, *, package: str | None = None) -> Any:
    """Import a module that an extra brings; ConfigError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as err:
        package = package or name.partition(".")[0]
        raise ConfigError(f"{package}: cannot be imported ({err}); run: pip install {package}") from err
