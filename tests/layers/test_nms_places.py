"""Boxes are suppressed by class at one place: a walk over the source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchvision

ROOT = Path(__file__).parents[2]


def _calls(function: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {str(getattr(call, "attr", None) or getattr(call, "id", "")) for call in calls}


def suppressing() -> set[str]:
    """The names of torchvision's functions that suppress boxes by class, from its source."""
    sources = [path.read_text(encoding="utf-8") for path in Path(torchvision.__file__).parent.rglob("*.py")]
    functions = [f for source in sources for f in ast.walk(ast.parse(source)) if isinstance(f, ast.FunctionDef)]
    return {"batched_nms"} | {f.name for f in functions if _calls(f) & {"batched_nms"}}


def modules() -> Iterator[tuple[str, ast.AST]]:
    """The source of densevit, its plugins, examples and tools, and of the modules that templates of `new` write."""
    for top in ("densevit", "plugins", "examples", "tools"):
        for path in sorted((ROOT / top).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield str(path.relative_to(ROOT)), tree
            for node in ast.walk(tree) if path.stem.endswith("_template") else ():
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nimport " in node.value:
                    yield (
                        f"{path.relative_to(ROOT)}:{node.lineno}",
                        ast.parse(re.sub(r"\$\{?(\w+)\}?", "X", node.value)),
                    )


def suppressions(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """Uses of functions of these names, of `nms` of torchvision, and shifts by a multiple of a maximum and a number."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchvision"):
            yield from (alias.name for alias in node.names if alias.name in {*names, "nms"})
        elif isinstance(node, ast.Attribute):
            of_torchvision = node.attr == "nms" and ast.unparse(node.value).endswith(("ops", "boxes", "torchvision"))
            yield from [ast.unparse(node)] * (of_torchvision or node.attr in names)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            sums = [x for x in (node.left, node.right) if isinstance(x, ast.BinOp) and isinstance(x.op, ast.Add)]
            yield from (ast.unparse(x) for x in sums if re.search(r"\.a?max\(", ast.unparse(x)))


@pytest.mark.integration
def test_no_other_place_suppresses_or_shifts_boxes_by_class() -> None:
    names = suppressing()
    assert {"filter_proposals", "postprocess_detections"} < names
    found = {place: [*suppressions(tree, names)] for place, tree in modules()}
    assert any("detr_template.py:" in place for place in found)
    assert {place for place, uses in found.items() if uses} == {"densevit/layers/nms.py"}, found
