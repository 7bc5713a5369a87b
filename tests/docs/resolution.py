"""A page's blocks without running them: commands are parsed, configs are resolved, and names of Python exist.

A training leaves its config.yaml in its run folder, so that later commands resolve overrides of the run. A package is
written from its template, and its classes are imported.
"""

import argparse
import ast
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from densevit import cli
from densevit import config as configs
from densevit.config import Config
from densevit.config.yaml_io import run_name
from tests.docs.code_blocks import Block, Page


@dataclass
class ResolvedPage(Page):
    """The runner of a page whose blocks are parsed and resolved. models: the config and the overrides of checkpoints
    and published models that the page names. written: files and folders that its commands would have written."""

    models: dict[str, Sequence[str]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    imported: dict[str, Any] = field(default_factory=dict)

    # ---- Python ----

    def _python(self, block: Block) -> None:
        tree = ast.parse(block.text, block.id)
        if block.file is not None:
            self._import(self._written(block))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imported |= imported_names(node)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute | ast.Name):
                self._object(node)
            elif isinstance(node, ast.Call):
                self._call(node)

    def _object(self, node: ast.expr) -> Any:
        """The module, class or function that a dotted name means; None for others. Raises AttributeError."""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id)
        owner = self._object(node.value) if isinstance(node, ast.Attribute) else None
        if not isinstance(node, ast.Attribute) or not isinstance(owner, ModuleType | type):
            return None
        return attribute(owner, node.attr)

    def _call(self, node: ast.Call) -> None:
        """A call of a function of densevit has arguments that it takes; the config that it names resolves."""
        function = self._object(node.func)
        starred = any(isinstance(one, ast.Starred) for one in node.args) or any(
            one.arg is None for one in node.keywords
        )
        if not str(getattr(function, "__module__", "")).startswith("densevit") or starred:
            return
        if isinstance(function, type) and issubclass(function, Exception):  # of C, without a signature
            return
        signature = inspect.signature(function)
        given = signature.bind(*node.args, **{one.arg: one.value for one in node.keywords if one.arg}).arguments
        if function not in (configs.load, attribute(importlib.import_module("densevit"), "fit")):
            return
        source = given.get("config", given.get("source"))
        if isinstance(source, ast.Constant):
            overrides = given.get("overrides", ast.List([]))
            literal = all(isinstance(one, ast.Constant) for one in overrides.elts)
            self.config(source.value, [one.value for one in overrides.elts] if literal else [])

    def _pytest(self, *files: Path) -> None:
        for file in files or sorted((self.cwd / "tests").glob("test_*.py")):
            functions = [one.name for one in ast.walk(ast.parse(file.read_text())) if isinstance(one, ast.FunctionDef)]
            assert any(name.startswith("test_") for name in functions), f"{file.name} has no tests"

    # ---- commands ----

    def _script(self, file: str, arguments: Sequence[str]) -> None:
        assert (self.cwd / file).is_file(), file
        self._densevit([Path(file).stem, *arguments])

    def _processes(self, arguments: Sequence[str], command: Sequence[str]) -> None:
        self._densevit(command)

    def _densevit(self, arguments: Sequence[str]) -> None:
        words = 2 if arguments[0] == "data" else 1
        name = " ".join(arguments[:words])
        _, parser = cli.command(name)
        try:
            given = parser.parse_intermixed_args(arguments[words:])
        except SystemExit:
            raise AssertionError(f"the arguments of densevit {' '.join(arguments)} are wrong") from None
        resolve = getattr(self, f"resolve_{name}", None)
        if name == "new":
            assert cli.main([*arguments, "--quiet"]) == 0
        elif resolve is not None:
            resolve(given)
        if isinstance(out := getattr(given, "out", None), Path) and name != "new":
            self.written.add(str(out))

    def resolve_train(self, given: argparse.Namespace) -> None:
        if given.resume is not None:
            overrides = [one for one in (given.config, *given.overrides) if one is not None]
            self.config(str(given.resume), overrides)
            return
        config = self.config(given.config, given.overrides)
        self.leave_run(given.run_dir or Path("runs") / run_name(given.config), config)

    def leave_run(self, folder: Path, config: Config) -> None:
        folder = self.cwd / folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(configs.dump(config))

    def config(self, source: str, overrides: Sequence[str] = ()) -> Config:
        """The config of a file, a run or a shipped name; without sections from files that only a command writes."""
        known = [one for one in overrides if str(Path(one.partition("=")[2]).parent) not in self.written]
        config = configs.load(source, known)
        configs.check_plugins(config)
        return config

    def resolve_evaluate(self, given: argparse.Namespace) -> None:
        model = given.model.removesuffix("/model.onnx")
        config, *overrides = self.models.get(model, (model,))
        self.config(config, [*overrides, *given.overrides])

    def resolve_convert(self, given: argparse.Namespace) -> None:
        if given.to is None and given.source in self.models:
            config, *overrides = self.models[given.source]
            self.leave_run(given.out, self.config(config, [*overrides, *given.overrides]))

    def resolve_config(self, given: argparse.Namespace) -> None:
        self.config(given.config, given.overrides)

    def resolve_doctor(self, given: argparse.Namespace) -> None:
        if given.source is not None and not Path(given.source).expanduser().is_absolute():  # else a data set's folder
            found = configs.load_or_section(given.source, "data", "doctor", given.overrides)
            if isinstance(found, Config):
                configs.check_plugins(found)

    def resolve_benchmark(self, given: argparse.Namespace) -> None:
        from densevit_workbench.benchmarking.cases import cases_of_protocol

        if given.backbones:
            for case in cases_of_protocol(given.protocol, given.backbones, given.heads, given.configs):
                case.config()
        for source in given.configs:
            if "=" not in source and not source.endswith(".onnx"):
                self.config(source)

    def resolve_check(self, given: argparse.Namespace) -> None:
        from densevit import registry
        from densevit.cli.check import read_options

        registry.check_options(f"{given.kind}s", given.name, read_options(given.options), given.kind)


def imported_names(node: ast.Import | ast.ImportFrom) -> dict[str, Any]:
    """The names that an import statement defines. Raises ImportError or AttributeError."""
    if isinstance(node, ast.Import):
        found = {}
        for one in node.names:
            module = importlib.import_module(one.name)
            top = one.name.partition(".")[0]
            found[one.asname or top] = module if one.asname else importlib.import_module(top)
        return found
    assert node.module is not None and not node.level
    module = importlib.import_module(node.module)
    return {one.asname or one.name: attribute(module, one.name) for one in node.names}


def attribute(owner: ModuleType | type, name: str) -> Any:
    """An attribute, or a module of a package."""
    if isinstance(owner, ModuleType) and not hasattr(owner, name) and hasattr(owner, "__path__"):
        return importlib.import_module(f"{owner.__name__}.{name}")
    return getattr(owner, name)
