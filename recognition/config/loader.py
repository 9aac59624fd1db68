"""A config file and overrides -> a checked Config, and back to YAML.

Order: the schema's defaults, then the chain of `base:` files from the farthest to the nearest, then the file, then
overrides such as `optim.lr=0.2`, of which the last one counts. Mappings merge, lists replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recognition.config.checks import check_config
from recognition.config.fields import all_keys, build, field_types, flatten, suggest
from recognition.config.old_keys import old_keys, renew
from recognition.config.schema import Config
from recognition.config.yaml_nodes import MAX_BYTES, MappingValue, ScalarValue, Value, merge, parse_yaml
from recognition.errors import ConfigError
from recognition.registry import nearest
from recognition.work.inputs import require_plain

__all__ = ["dump_config", "find_config", "flatten", "load_config"]

_PACKAGE = Path(__file__).resolve().parent.parent
ROOT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""The folder that holds the configs/ that come along: recognition/ when installed, else the root of the checkout."""
_LONGEST_CHAIN = 20


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Return the checked config of `path` (see `find_config`) with `key=value` overrides laid over it.

    Raises ConfigError with file:line, or the override, and the nearest valid name or value.
    """
    tree = _load_chain(find_config(path), ())
    for override in _split_overrides(overrides):
        tree = merge(tree, override)
    places: dict[str, str] = {}
    config = build(Config, tree, places)
    check_config(config, places)
    return config


def find_config(path: str) -> Path:
    """Return the file that `path` means, with or without `.yaml`.

    Looked for here and in configs/ below, then beside and inside the configs/ that come along: `configs/demo` and
    `demo` are the same file in a checkout and where the library is installed. ConfigError when there is none, and for a
    config of arcface_torch, which is a Python file.
    """
    folders = (Path(), Path("configs"), ROOT, ROOT / "configs")
    for folder in folders:
        for candidate in (folder / path, folder / f"{path}.yaml"):
            if _is_file(candidate) and candidate.suffix != ".py":
                return candidate
    for folder in folders:
        for candidate in (folder / path, folder / f"{path}.py"):
            if _is_file(candidate):
                raise _python_config(candidate)
    neighbors = {file.stem for folder in folders for file in (folder / path).parent.glob("*.yaml")}
    hint = nearest(Path(path).stem, neighbors) if neighbors else "; expected a YAML file"
    raise ConfigError(f"{path}: no such config; expected it here or in {ROOT / 'configs'}, with or without .yaml{hint}")


def _python_config(path: Path) -> ConfigError:
    """Return the error for a config of arcface_torch: how to convert it, or that this was done."""
    converted = path.with_suffix(".yaml")
    if _is_file(converted):
        todo = f"give {converted}, which lies beside it"
    else:
        todo = f"convert it: python -m recognition from_arcface_torch {path} {converted}"
    return ConfigError(f"{path}: is a Python file, as arcface_torch has them; expected a YAML config; {todo}")


def dump_config(config: Config) -> str:
    """Return YAML that `load_config` turns back into an equal Config."""
    nested: dict[str, Any] = {}
    for key, value in flatten(config).items():
        section, _, name = key.rpartition(".")
        target = nested.setdefault(section, {}) if section else nested
        target[name] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _load_chain(path: Path, followers: tuple[Path, ...]) -> MappingValue:
    """Return the tree of `path` over its bases; `followers` are the files that led here."""
    tree = _load_file(path)
    if "base" not in tree.entries:
        return tree
    place = tree.places["base"]
    base = _base_path(tree.entries["base"], path, place)
    chain = (*followers, path)
    if len(chain) > _LONGEST_CHAIN:
        raise ConfigError(f"{place}: base: a chain of over {_LONGEST_CHAIN} files; expected a few; merge some")
    if any(base.resolve() == visited.resolve() for visited in chain):
        spelled = " -> ".join(file.name for file in (*chain, base))
        raise ConfigError(f"{place}: base: the chain returns to itself ({spelled}); remove one of them")
    entries = {key: value for key, value in tree.entries.items() if key != "base"}
    return merge(_load_chain(base, chain), MappingValue(entries, tree.places, tree.place))


def _base_path(value: Value, path: Path, place: str) -> Path:
    if not isinstance(value, ScalarValue) or value.is_null:
        raise ConfigError(f"{place}: base: expected one file name, relative to this file")
    for candidate in (path.parent / value.text, path.parent / f"{value.text}.yaml"):
        if _is_file(candidate):
            return candidate
    names = [file.name for file in path.parent.glob("*.yaml")]
    text = value.text[:80]
    raise ConfigError(f"{place}: base: no file {text!r} beside this one{nearest(text, names)}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name no file can have
        return False


def _load_file(path: Path) -> MappingValue:
    name = _shown(path)
    require_plain(path, ConfigError)
    try:
        with open(path, "rb") as handle:
            content = handle.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as err:
        raise ConfigError(f"{name}: cannot be read ({err.strerror or err})") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{name}: byte {err.start} is not UTF-8; expected a YAML text file") from err
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES // 1024} KiB; expected a YAML config")
    tree = parse_yaml(text, name)
    if isinstance(tree, ScalarValue) and tree.is_null:
        return MappingValue({}, {}, tree.place)
    if not isinstance(tree, MappingValue):
        raise ConfigError(f"{tree.place}: found no keys, expected lines such as 'seed: 1'")
    return renew(tree)


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _split_overrides(overrides: Sequence[str]) -> list[MappingValue]:
    trees = []
    for override in overrides:
        place = f"override {override!r}"
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(f"{place}: expected key=value, such as optim.lr=0.2")
        if key == "base":
            raise ConfigError(f"{place}: base belongs in a file; name that file as the config instead")
        trees.append(_override_tree(key, text.strip(), place))
    return trees


def _override_tree(key: str, text: str, place: str) -> MappingValue:
    value: Value
    if text[:1] in ("[", "{", '"', "'"):
        value = _at(parse_yaml(text, place), place)
    else:
        # Not YAML: a path with "#" or ": " in it is meant as it stands.
        value = ScalarValue(text, plain=True, place=place)
    *sections, name = key.split(".")
    _refuse_unknown(key, place)
    tree = MappingValue({name: value}, {name: place}, place)
    for section in reversed(sections):
        tree = MappingValue({section: tree}, {section: place}, place)
    return renew(tree)


def _refuse_unknown(key: str, place: str) -> None:
    """Catch `optim.lr.x=1`, whose merge would replace optim.lr by a section."""
    if key not in all_keys() and key not in old_keys() and key not in field_types(Config):
        raise ConfigError(f"{place}: {key}: unknown key{suggest(key)}")


def _at(value: Value, place: str) -> Value:
    """Return `value` with every place replaced: lines mean nothing in an override."""
    if isinstance(value, MappingValue):
        entries = {key: _at(entry, place) for key, entry in value.entries.items()}
        return MappingValue(entries, dict.fromkeys(entries, place), place)
    if isinstance(value, ScalarValue):
        return ScalarValue(value.text, value.plain, place)
    return type(value)(tuple(_at(item, place) for item in value.items), place)
