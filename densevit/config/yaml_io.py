"""Finds, reads and writes YAML config files: 1e-4 is a number, only true and false are booleans, keys are unique."""

import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from densevit.config.frozen_mapping import FrozenMapping
from densevit.constructor_call import Unwritten, plain
from densevit.errors import ConfigError, check_format, nearest, one_line
from densevit.paths import check_unpacked, nearest_neighbour, user_path

FORMAT = 1  # `format_version` of configs, in the first line of those that densevit writes
_LARGEST = 64 * 2**20  # bytes of a config file
# VOC and CVAT; COCO, labelme and Label Studio
_ANNOTATIONS = re.compile(r'<annotation|"(file_name|shapes|completed_by)"\s*:')


def find_file(name: str, source: str = "", folder: Path | None = None, section: str = "") -> Path:
    """Resolves a name to a config file.

    The name is a path relative to `folder` (or the working directory), with or without `.yaml`; or a run folder, for
    its `config.yaml`; or a shipped config's name (`detr_swin`) or path in the project (`configs/detr_swin.yaml`).
    section: the key of a section, whose files are also found by bare name (`data=coco`). source: the file or override
    that names the file, for messages.
    """
    path = Path(os.path.normpath((folder or Path()) / user_path(name)))
    for candidate in (path, Path(f"{path}.yaml"), path / "config.yaml"):
        if candidate.is_file():
            return candidate
    within = PurePosixPath(name.removesuffix(".yaml"))
    shipped, top = shipped_configs(), f"{section}/" if section else ""
    named = str(within).removeprefix("configs/")
    if file := shipped.get(f"{top}{within}") or shipped.get(named):
        return file
    noun = "config file or data folder" if section == "data" else "config file"
    reason = (
        " It is a folder without a config.yaml." if path.is_dir() else " Overrides follow a config." * ("=" in name)
    )
    plugin = f" A plugin is set with `{section}.name`, not `{section}`." if section not in ("", "backbone") else ""
    inside = {name.removeprefix(top): name for name in shipped if name.startswith(top)}
    folders = (f"{named}/", f"{PurePosixPath(named).parent}/", "")
    names = next(filter(None, (_entries(inside, folder) for folder in folders)), [])
    hint = nearest_neighbour(path, lambda entry: _is_config(entry, section == "data")) or nearest(named, inside)
    raise ConfigError(
        f"{f'{source}: ' if source else ''}there is no {noun} {str(path)!r}.{reason}{hint} Shipped: "
        f"{', '.join(top + name for name in names) or 'none'}.{plugin}"
    )


def _is_config(entry: "os.DirEntry[str]", any_folder: bool) -> bool:
    """Whether an entry is a config file or a run, or, if `any_folder`, any folder."""
    is_run = os.path.isfile(os.path.join(entry.path, "config.yaml"))
    return entry.name.endswith(".yaml") or is_run or (any_folder and entry.is_dir())


def _entries(names: Iterable[str], folder: str) -> list[str]:
    """The names in a folder, `start/detector`, and its subfolders, `start/`."""
    below = (name.removeprefix(folder).partition("/") for name in names if name.startswith(folder))
    return list(dict.fromkeys(f"{folder}{name}{slash}" for name, slash, _ in below))


def shipped_configs() -> dict[str, Path]:
    """The shipped configs by name: `detr_swin`, `data/coco`."""
    spec = importlib.util.find_spec("densevit_configs")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    files = [(file.relative_to(root), file) for root in roots for file in sorted(root.rglob("*.yaml"))]
    return {name.with_suffix("").as_posix(): file for name, file in files}


def run_name(source: str | Path) -> str:
    """The default name of a run: `start-detector` for the shipped config `start/detector`, else the file's stem."""
    file = find_file(str(source)).resolve()
    names = (name.replace("/", "-") for name, shipped in shipped_configs().items() if shipped.resolve() == file)
    return next(names, Path(source).stem)


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError with file and line."""
    check_unpacked(path)
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise ConfigError(f"{path}: has {size:,} bytes; a config file is text of at most {_LARGEST:,}.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the file cannot be read as UTF-8 text ({one_line(error)}).") from None
    if _ANNOTATIONS.search(text):
        raise ConfigError(f"{path}: holds annotations. Fix: name the folder of the data set, with its images, instead.")
    value = parse(text, str(path), lines=True)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: contains no keys and values, such as `seed: 0`.")
    return value


def parse(text: str, source: str, lines: bool = False) -> Any:
    """Parses YAML. source: file or override, for messages. lines: whether messages contain line and column."""
    if version := re.match(r"# format_version: (\d+)\n", text):
        check_format(version[1], FORMAT, source, ConfigError)
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark and lines else ""
        problem = error.problem or error.context or "invalid YAML"
        raise ConfigError(f"{source}{where}: {' '.join(problem.split())}.") from None
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ConfigError(f"{source}: this is not valid YAML ({one_line(error)}).") from None


def write(values: dict[str, Any]) -> str:
    """A mapping as YAML: sections as blocks, lists on one line, keys in order."""
    return yaml.dump(
        plain(values), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120, allow_unicode=True
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's numbers and booleans; a duplicate key is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # as PyYAML has it

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # makes recursive aliases raise
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in lines:
                problem = f"the key {key.value!r} is duplicated; first in line {lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes strings that YAML 1.1 or 1.2 would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("!object", lambda loader, node: Unwritten(node.value))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT})$"), list("-+.0123456789"))
yaml.SafeDumper.add_representer(FrozenMapping, yaml.SafeDumper.represent_dict)  # also for yaml.safe_dump
_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)
_Dumper.add_multi_representer(dict, _Dumper.represent_dict)
_Dumper.add_multi_representer(str, _Dumper.represent_str)  # a subclass
_Dumper.add_multi_representer(Path, lambda dumper, data: dumper.represent_str(str(data)))
_Dumper.add_multi_representer(Unwritten, lambda dumper, data: dumper.represent_scalar("!object", str(data)))
