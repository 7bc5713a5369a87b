"""tools/mirrored_tests.py: the test of a core file lies at its path."""

import ast
from pathlib import Path

import pytest

from tools.mirrored_tests import core_files, first_function, path_of_test


def test_each_core_file_has_a_test_at_its_path(project: Path) -> None:
    """Fix: move its tests there, and run `python -m tools.mirrored_tests FILE`, which proves that they are its."""
    assert not [core for core in core_files() if not (project / path_of_test(core)).exists()]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(): return 1\ndef _g(x): return x\ndef h(*values, key): return key", ("h", "values")),
        ("class A:\n  def f(self): return 1\n  def g(self, x): return 2\ndef h(y): return 1", ("h", "y")),
        ("class A:\n  def f(self, x):\n    '''Abstract.'''\nclass B:\n  def f(self, *, y): return 2", ("f", "y")),
        ("class _A:\n  def f(self, x): return 1", None),
    ],
)
def test_the_covered_function_is_the_first_public_one_with_an_argument(
    source: str, expected: tuple[str, str] | None
) -> None:
    first = first_function(ast.parse(source))
    assert (first and (first[0].name, first[1])) == expected
