"""Finds config files and reads their YAML: 1e-4 is a number, keys stand once, only true and false are booleans."""

import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from densevit.errors import ConfigError
from densevit.options import nearest

_LARGEST = 64 * 2**20  # bytes of a config file
_DEEPEST = 100  # levels of nesting
_MOST_NODES = 100_000  # values that aliases may stand for
_TOO_DEEP = f"values are nested in one another more than {_DEEPEST} levels deep"


def find_file(name: str, asked_by: str = "", folder: Path | None = None, section: str = "") -> Path:
    """The file that a name means.

    A path from `folder` (or the working directory), with or without `.yaml`; a run folder, for its `config.yaml`; else
    a shipped config, by its name (`detr_swin`) or its path in the project (`configs/detr_swin.yaml`). section: files of
    that section are found by their bare names as well (`data=coco`). asked_by: the file or override that names it, for
    the message.
    """
    path = Path(os.path.normpath((folder or Path()) / Path(name).expanduser()))
    for candidate in (path, Path(f"{path}.yaml"), path / "config.yaml"):
        if candidate.is_file():
            return candidate
    within = PurePosixPath(name.removesuffix(".yaml"))
    shipped = shipped_configs()
    named = str(within).removeprefix("configs/")
    for candidate_name in (f"{section}/{within}", named) if section else (named,):
        if candidate_name in shipped:
            return shipped[candidate_name]
    source = f"{asked_by}: " if asked_by else ""
    there = ""
    if path.is_dir():
        there = " It is a folder without a config.yaml."
    elif path.exists():
        there = " It is neither a file nor a folder."
    neighbours = [str(path.parent / other.name) for other in sorted(path.parent.glob("*.yaml"))]
    names = [other for other in shipped if other.rpartition("/")[0] == section]
    hint = nearest(str(path), neighbours) or nearest(within.name, [PurePosixPath(other).name for other in names])
    raise ConfigError(
        f"{source}there is no config file {str(path)!r}.{there}{hint} Shipped: {', '.join(names) or 'none'}."
    )


def shipped_configs() -> dict[str, Path]:
    """The configs that come with densevit, by name: `detr_swin`, `data/coco`."""
    spec = importlib.util.find_spec("densevit_configs")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    files = [(file.relative_to(root), file) for root in roots for file in sorted(root.rglob("*.yaml"))]
    return {name.with_suffix("").as_posix(): file for name, file in files}


def read_file(path: Path) -> dict[str, Any]:
    """A file's mapping. Raises ConfigError that names file and line."""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise ConfigError(f"{path}: has {size:,} bytes; a config file is text of at most {_LARGEST:,}.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(f"{path}: the file cannot be read: {reason}.") from None
    value = parse(text, str(path), lines=True)
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: a config file holds keys and values, such as `seed: 0`; this one holds {found}.")
    return value


def parse(text: str, source: str, lines: bool = False) -> Any:
    """The value of a YAML text. source: file or override, for messages; lines: whether they name line and column."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark and lines else ""
        problem = _one_line(error.problem or error.context or "this is no YAML")
        raise ConfigError(f"{source}{where}: {problem}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: {_one_line(str(error))}.") from None
    except RecursionError:
        raise ConfigError(f"{source}: {_TOO_DEEP}.") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # a tag whose value is none: !!int x
        raise ConfigError(f"{source}: a value does not fit its tag ({_one_line(str(error))}).") from None


def write(values: dict[str, Any]) -> str:
    """The YAML of a mapping: sections as blocks, lists in one line, the order kept."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain numbers, words and truth values, in which no key may stand twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # as PyYAML has it

    def construct_document(self, node: yaml.Node) -> Any:
        distinct: dict[int, tuple[int, int]] = {}
        size, _ = _expanded(node, distinct, ())
        if size > _MOST_NODES and size > 10 * len(distinct):
            problem = f"its aliases stand for {size:,} values; {_MOST_NODES:,} are allowed"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                found = f", not {key.value}" if isinstance(key, yaml.ScalarNode) else ""
                raise yaml.constructor.ConstructorError(None, None, f"a key is a word{found}", key.start_mark)
            if key.value in lines:
                problem = f"the key {key.value!r} stands twice; first in line {lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        try:
            return int(node.value)
        except ValueError:  # 1__0, or more digits than Python takes
            found = node.value if len(node.value) <= 40 else f"{node.value[:40]}... of {len(node.value):,} digits"
            raise yaml.constructor.ConstructorError(None, None, f"{found} is no number", node.start_mark) from None


def _expanded(node: yaml.Node, seen: dict[int, tuple[int, int]], above: tuple[int, ...]) -> tuple[int, int]:
    """How many values a node holds with each alias written out, and how many levels deep they are nested.

    seen: the result of each node so far. above: the nodes that lead here. Raises ConstructorError for a value that
    holds itself, and for one nested too deeply.
    """
    if id(node) in above:
        problem = "an alias stands for a value that holds it"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    if id(node) not in seen:
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        here = (*above, id(node))
        inside = [_expanded(part, seen, here) for part in below]
        levels = 1 + max((own for _, own in inside), default=0)
        if levels > _DEEPEST:
            raise yaml.constructor.ConstructorError(None, None, _TOO_DEEP, node.start_mark)
        seen[id(node)] = 1 + sum(size for size, _ in inside), levels
    return seen[id(node)]


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever either reading of YAML would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_short_list(self, data: Iterable[Any]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_path(self, data: Path) -> yaml.Node:
        return self.represent_str(str(data))


_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT})$"), list("-+.0123456789"))
_Dumper.add_representer(list, _Dumper.represent_short_list)
_Dumper.add_representer(tuple, _Dumper.represent_short_list)
_Dumper.add_multi_representer(Path, _Dumper.represent_path)


def _one_line(text: str) -> str:
    return " ".join(text.split())
