"""Checks that tests/a/test_b.py tests densevit/a/b.py, for each core file: that it fails if a function is wrong.

    python -m tools.mirrored_tests [FILE or FOLDER of densevit ...]

Of the files with at least 40 statements. The function is the first public one of the module with an argument, or else
the first public method with one beside self of its public classes; abstract ones do not count. It returns its first
argument while the test file runs, without slow tests, which must then fail. Prints the files without such a test.
"""

import ast
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDERS = (ast.Pass, ast.Raise, ast.Expr)  # bodies of abstract methods: docstring, `...`, NotImplementedError


def core_files(paths: Iterable[str] = ("densevit",)) -> Iterator[Path]:
    """The files with at least 40 statements among these and in these folders, relative to the root."""
    for path in paths:
        files = [ROOT / path] if path.endswith(".py") else sorted((ROOT / path).rglob("*.py"))
        yield from (file.relative_to(ROOT) for file in files if statements(file) >= 40)


def statements(file: Path) -> int:
    """The number of statements, without imports and docstrings."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.stmt)]
    values = [getattr(node, "value", None) if isinstance(node, ast.Expr) else node for node in nodes]
    return sum(not isinstance(value, ast.Import | ast.ImportFrom | ast.Constant) for value in values)


def path_of_test(core: Path) -> Path:
    """tests/a/test_b.py of densevit/a/b.py, and tests/a/test_init.py of densevit/a/__init__.py."""
    return Path("tests", *core.parts[1:-1], f"test_{core.stem.strip('_')}.py")


def first_function(module: ast.Module) -> tuple[ast.FunctionDef, str] | None:
    """The function or method that the test covers, and its first argument. None if the module has none."""
    classes = [node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    for bodies, bound in (([module.body], 0), (classes, 1)):
        for node in (node for body in bodies for node in body):
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
                every = node.args
                names = [arg.arg for arg in (*every.posonlyargs, *every.args, every.vararg, *every.kwonlyargs) if arg]
                if len(names) > bound and not all(isinstance(statement, PLACEHOLDERS) for statement in node.body):
                    return node, names[bound]
    return None


class Mutant(SourceFileLoader):
    """Imports a core file with its function returning its first argument."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )

    def get_code(self, fullname: str) -> CodeType:
        module = ast.parse(Path(self.path).read_text(encoding="utf-8"))
        if first := first_function(module):
            first[0].body = ast.parse(f"return {first[1]}").body
        return compile(ast.fix_missing_locations(module), self.path, "exec")


def run(core: Path) -> None:
    """Runs the test file with the mutant, in a process without densevit. Exits with pytest's status."""
    import pytest

    name = ".".join(core.with_suffix("").parts).removesuffix(".__init__")
    sys.meta_path.insert(0, Mutant(name, str(ROOT / core)))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    arguments = ["-x", "-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider"]
    os._exit(pytest.main([*arguments, str(ROOT / path_of_test(core))]))


def problem(core: Path) -> str | None:
    """What is wrong with the test of a core file."""
    test = path_of_test(core)
    if not (ROOT / test).exists():
        return f"{core} has no {test}"
    function = first_function(ast.parse((ROOT / core).read_text(encoding="utf-8")))
    if function is None:
        return None
    process = multiprocessing.get_context("fork").Process(target=run, args=(core,))
    process.start()
    process.join()
    return (
        f"{test} passes if {function[0].name} of {core} returns {function[1]}" if process.exitcode in (0, 5) else None
    )


def main() -> None:
    import torch  # noqa: F401  once for all the processes, which are forks

    problems = [text for core in core_files(sys.argv[1:] or ("densevit",)) if (text := problem(core))]
    print("\n".join(problems) or "Each core file has its test.")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
