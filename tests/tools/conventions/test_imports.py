"""Imports between modules, and cycles."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.tools.conventions.small_tree import ProblemsOf

HEAD = "plugins/densevit_heads/fcn.py"
RUN = "densevit/training/run/__init__.py"


def test_training_evaluates_and_loads(problems_of: ProblemsOf) -> None:
    problems = problems_of("imports.training_evaluates_and_loads")
    assert problems(RUN, "\n\n\nclass", "\nfrom densevit.inference.loading import load\n\n\nclass") == []
    assert problems(RUN, "\n\n\nclass", "\nfrom densevit.inference.loading import create_model\n\n\nclass") == [
        f"{RUN}:4: training imports densevit.inference.loading.create_model"
    ]


def test_plugin_packages_are_independent(problems_of: ProblemsOf, tree_of: Callable[..., Any]) -> None:
    problems = problems_of("imports.plugin_packages_are_independent")
    assert problems(HEAD, "densevit.interfaces import Head", "densevit_papers.cvt import CvT") == [
        f"{HEAD}:4: it imports densevit_papers.cvt.CvT of another plugin"
    ]
    tree_of({"plugins/densevit_workbench/__init__.py": ""})
    inspector = "densevit_workbench.inspection.inspector"
    for text in (f"from {inspector} import Inspector", f"def f():\n    from {inspector} import Inspector"):
        [problem] = problems(HEAD, "from densevit.interfaces import Head", text)
        assert problem.endswith(f"it imports {inspector}.Inspector of another plugin")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a": "from made.b import f", "b": "def f():\n    from made import a"}, [{"made.a", "made.b"}]),
        ({"a": "from .b import B", "b": "if TYPE_CHECKING:\n    from made.a import A"}, [{"made.a", "made.b"}]),
        ({"__init__": "from made.a import A", "a": "from made import b", "b": "import torch"}, []),
    ],
)
def test_cycles_are_detected(sources, expected, conventions, tree_of):
    imports = conventions("imports")
    graph = imports.module_graph(tree_of({f"made/{module}.py": text for module, text in sources.items()}), "made")
    assert imports.cycles({module: set(targets) for module, targets in graph.items()}) == {*map(frozenset, expected)}


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("def f():\n    from densevit.cli import main", "densevit.data", ["densevit.cli.main"]),
        ("from ..cli import main", "densevit.data", ["densevit.cli.main"]),
        ("import densevit.cli as c, torch", "densevit.data", ["densevit.cli", "torch"]),
    ],
)
def test_all_import_forms_are_detected(source, package, expected, conventions, tree_of):
    tree = tree_of({"module.py": source})
    assert [module for module, _ in conventions("imports").imports(tree, "module.py", package)] == expected
