"""Docstrings that exist."""

from tests.tools.conventions.small_tree import ProblemsOf

STUB = "densevit/__init__.pyi"
RUN = "densevit/training/run/__init__.py"


def test_public_names_have_docstrings(problems_of: ProblemsOf) -> None:
    problems = problems_of("docstrings.public_names_have_docstrings")
    assert problems(RUN, '\n    """A net."""', "\n    pass") == [f"{RUN}:6: the public name Net has no docstring"]
    assert problems(RUN, "def fit", "def run") == [f"{STUB}:3: densevit.training defines no class or function fit"]


def test_modules_have_docstrings(problems_of: ProblemsOf) -> None:
    problems = problems_of("docstrings.modules_have_docstrings")
    assert problems(RUN, '"""Runs."""', "") == [f"{RUN}:1: the module has no docstring"]
