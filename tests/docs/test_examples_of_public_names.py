"""The docstring of each public name ends with an example, which runs and gives what it shows.

All examples run in one folder, where the runs, data sets and files that they name are small, as for the pages.
"""

import doctest
import functools
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import densevit
from tests.docs import small_configs
from tests.docs.code_blocks import Block
from tests.docs.world import World
from tests.global_state import changed, disturb, global_state

LONGEST = 6  # lines


def example(name: str) -> str:
    """The lines of a public name's example; "" without one."""
    return (inspect.getdoc(getattr(densevit, name)) or "").partition("Example:\n")[2]


def examples() -> dict[str, str]:
    """The examples of the public names, of other objects on the reference's pages, and of methods of public classes."""
    found = {name: example(name) for name in densevit.__all__}
    for page in (Path(__file__).parents[2] / "docs" / "reference").glob("*.md"):
        for address in re.findall(r"^::: ([\w.]+\.\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            name = address.removeprefix("densevit.")
            if text := (inspect.getdoc(pkgutil.resolve_name(address)) or "").partition("Example:\n")[2]:
                found.setdefault(name, text)
    for name in filter(lambda name: inspect.isclass(getattr(densevit, name)), densevit.__all__):
        for method, function in inspect.getmembers(getattr(densevit, name), inspect.isfunction):
            if text := (inspect.getdoc(function) or "").partition("Example:\n")[2]:
                found[f"{name}.{method}"] = text
    return found


def test_each_public_name_has_a_short_example() -> None:
    """All are classes and functions, whose docstrings are their own."""
    for name in densevit.__all__:
        text = example(name)
        assert "densevit." in text, f"{name}: the docstring has no example that uses densevit"
        assert len(text.splitlines()) <= LONGEST, f"{name}: the example is not short"
        assert "doctest:" not in text, f"{name}: a part of the example is skipped or compared differently"
        result = doctest.DocTestParser().get_examples(text)[-1].want
        assert result.strip(".\n"), f"{name}: the example does not end with a result"


@pytest.mark.integration
def test_examples_of_public_names_run(
    made_once: Callable[..., Path], project: Path, tmp_path: Path, environment, inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_configs.install(monkeypatch)
    world = World(made_once, project)
    for owner, name, stand_in in world.stand_ins():
        monkeypatch.setattr(owner, name, stand_in)
    block = Block("docstrings", 1, "pycon", "\n".join(examples().values()), "")
    page = world.page(tmp_path / "page", [block])
    environment(HOME=page.home)
    world.place(page, block)
    inside(page.folder)
    report: list[str] = []
    changes: list[str] = []
    functions = {name: getattr(densevit, name) for name in densevit.__all__}
    methods = inspect.getmembers(densevit.DenseModel, inspect.isfunction)
    public = [
        *((densevit.DenseModel, name, method) for name, method in methods if not name.startswith("_")),
        *((densevit, name, function) for name, function in functions.items() if inspect.isfunction(function)),
    ]
    for owner, name, function in public:
        if function.__module__.startswith("densevit"):
            monkeypatch.setattr(owner, name, watched(function, changes))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert {"DenseModel.predict", "DenseModel.save", "DenseModel.loss", "model.check_batch"} <= examples().keys()
    for name, text in examples().items():
        test = doctest.DocTestParser().get_doctest(text, {"densevit": densevit}, f"densevit.{name}", None, 0)
        runner.run(test, out=report.append)
    page.close()
    assert not runner.failures, "".join(report)
    assert not changes


def watched(function: Callable[..., Any], changes: list[str]) -> Callable[..., Any]:
    """The function; each call adds to `changes` what it leaves changed in the process. New modules take random numbers
    of torch, as torch's do."""
    allowed = {"torch"} if function.__name__.startswith(("create_", "build_")) else set()

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        disturb()
        before = global_state()
        try:
            return function(*arguments, **options)
        finally:
            changes.extend(f"{function.__qualname__}: {name}" for name in changed(before) if name not in allowed)

    return call
