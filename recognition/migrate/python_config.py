"""Read an arcface_torch config file as data: parsed, never executed.

Understood are `config = edict()`, `config.name = value` and `name = value`, where a value is a number, a text, True,
False, None, a tuple or list of these, arithmetic on numbers, or a name set above. Anything else is an error.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recognition.config.yaml_nodes import CONTROL, MAX_BYTES
from recognition.errors import ConfigError
from recognition.work.inputs import require_plain

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_SIGNS: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_LARGEST_EXPONENT = 64  # 9 ** 9 ** 9 would not return
_LARGEST_NUMBER = 2**63
_MOST_VALUES = 10_000  # names of tuples of names double with every line


@dataclass(frozen=True)
class Setting:
    """A value given to a key of the config, and where."""

    value: Any
    place: str


def read_python_config(path: Path) -> dict[str, Setting]:
    """Return the settings of `path` by key, in the order of their first assignment; the last assignment counts.

    Raises ConfigError with file:line for anything that is not data.
    """
    require_plain(path, ConfigError)
    try:
        with open(path, "rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as err:
        raise ConfigError(f"{path}: cannot be read ({err.strerror or err}); expected a config; check the path") from err
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES // 1024} KiB; expected an arcface_torch config")
    try:
        source = content.decode("utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in texts
            tree = ast.parse(source)
    except SyntaxError as err:
        raise ConfigError(f"{path}:{err.lineno or 1}: not valid Python: {err.msg}") from err
    except (ValueError, RecursionError, MemoryError) as err:
        raise ConfigError(f"{path}: not valid Python: {err or 'nested too deeply'}") from err
    reader = _Reader(path, source)
    try:
        for statement in tree.body:
            reader.read(statement)
    except RecursionError as err:
        raise ConfigError(f"{path}: nested too deeply; expected an arcface_torch config") from err
    if not reader.has_config:
        raise ConfigError(f"{path}: found no 'config = edict()'; expected an arcface_torch config")
    return reader.settings


class _Reader:
    """Interprets the few statements a config is made of."""

    def __init__(self, path: Path, source: str) -> None:
        self.settings: dict[str, Setting] = {}
        self.has_config = False
        self._names: dict[str, Any] = {}
        self._sizes: dict[int, int] = {}  # values in a tuple, by its id
        self._kept: list[Any] = []  # the tuples themselves, so that no id is used twice
        self._path = path
        self._source = source

    def read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return  # a docstring
        if isinstance(statement, ast.ImportFrom) and statement.module == "easydict":
            return
        if isinstance(statement, ast.Import) and all(alias.name == "easydict" for alias in statement.names):
            return
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise self._error(statement, "config.name = value")
        (target,) = statement.targets
        if _is_config(target):
            if not _is_empty_dict(statement.value):
                raise self._error(statement, "config = edict()")
            self.has_config = True
            self.settings.clear()
            return
        value = self._evaluate(statement.value)
        if isinstance(target, ast.Name):
            self._names[target.id] = value
        elif isinstance(target, ast.Attribute) and _is_config(target.value):
            self._set(statement, target.attr, value)
        else:
            raise self._error(statement, "config.name = value")

    def _set(self, statement: ast.stmt, key: str, value: Any) -> None:
        if not self.has_config:
            raise self._error(statement, "config = edict() above it")
        self.settings[key] = Setting(value, self._place(statement))

    def _evaluate(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None))):
            if isinstance(node.value, int) and node.value > _LARGEST_NUMBER:
                raise self._error(node, "a number of at most 2^63")
            if isinstance(node.value, str) and CONTROL.search(node.value):
                raise self._error(node, "a text of one line")
            return node.value
        if isinstance(node, (ast.Tuple, ast.List)):
            value = tuple(self._evaluate(item) for item in node.elts)
            self._sizes[id(value)] = 1 + sum(self._sizes.get(id(item), 1) for item in value)
            self._kept.append(value)
            if self._sizes[id(value)] > _MOST_VALUES:
                raise self._error(node, f"at most {_MOST_VALUES:,} values")
            return value
        if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
            return _SIGNS[type(node.op)](self._number(node.operand))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return self._arithmetic(node)
        if isinstance(node, ast.Name) and node.id in self._names:
            return self._names[node.id]
        if isinstance(node, ast.Attribute) and _is_config(node.value):
            if node.attr not in self.settings:
                raise ConfigError(f"{self._place(node)}: config.{node.attr} is used before it is set")
            return self.settings[node.attr].value
        raise self._error(node, "a number, text, tuple, list or arithmetic")

    def _arithmetic(self, node: ast.BinOp) -> int | float:
        left, right = self._number(node.left), self._number(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
            raise self._error(node, f"an exponent of at most {_LARGEST_EXPONENT}")
        try:
            result = _OPERATORS[type(node.op)](left, right)
        except (ArithmeticError, ValueError) as err:
            raise ConfigError(f"{self._place(node)}: {ast.get_source_segment(self._source, node)}: {err}") from err
        if not isinstance(result, (int, float)) or not abs(result) <= _LARGEST_NUMBER:
            raise self._error(node, "a result of at most 2^63")
        return result

    def _number(self, node: ast.expr) -> int | float:
        value = self._evaluate(node)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._error(node, "a number")
        return value

    def _error(self, node: ast.stmt | ast.expr, expected: str) -> ConfigError:
        found = (ast.get_source_segment(self._source, node) or "").split("\n")[0][:60]
        place = self._place(node)
        return ConfigError(f"{place}: found {found!r}, expected {expected}; nothing was executed; fix the line")

    def _place(self, node: ast.stmt | ast.expr) -> str:
        return f"{self._path}:{node.lineno}"


def _is_config(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "config"


def _is_empty_dict(node: ast.expr) -> bool:
    """Whether `node` is edict(), EasyDict() or easydict.EasyDict()."""
    if not isinstance(node, ast.Call) or node.args or node.keywords:
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("edict", "EasyDict")
