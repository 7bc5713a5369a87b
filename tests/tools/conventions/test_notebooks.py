"""Saved notebooks."""

from tests.tools.conventions.small_tree import ProblemsOf

NOTEBOOK = "docs/tutorials/one.ipynb"
INDEX = "docs/tutorials/index.md"


def test_notebooks_are_tested_and_in_the_index(problems_of: ProblemsOf) -> None:
    problems = problems_of("notebooks.notebooks_are_tested_and_in_the_index")
    assert problems("tests/docs/test_tutorials.py", "test_one", "test_two") == [
        f"{NOTEBOOK}:1: tests/docs/test_tutorials.py has no test_one"
    ]
    assert problems(INDEX, "(one.ipynb)", "(two.ipynb)") == [
        f"{INDEX}:1: one.ipynb is not linked once",
        f"{INDEX}:3: there is no two.ipynb",
    ]
    assert problems("docs/tutorials/plot.svg", "", "x" * 1_500_000) == [
        f"{INDEX}:1: the files of the folder have 1,500,328 bytes"
    ]


def test_notebooks_hold_the_outputs_of_one_run(problems_of: ProblemsOf) -> None:
    problems = problems_of("notebooks.notebooks_hold_the_outputs_of_one_run")
    assert problems(NOTEBOOK, '"execution_count": 1', '"execution_count": 2') == [
        f"{NOTEBOOK}:1: the cells were not run once, in their order"
    ]
    assert problems(NOTEBOOK, '"metadata": {},\n "cells"', '"metadata": [],\n "cells"') == [
        f"{NOTEBOOK}:1: the file is no valid notebook: [] is not of type 'object'"
    ]
    error = '"output_type": "error",\n "ename": "E",\n "evalue": "e",\n "traceback": []\n}, {"output_type": "stream"'
    assert problems(NOTEBOOK, '"output_type": "stream"', error) == [f"{NOTEBOOK}:15: the output of a cell is an error"]
    assert problems(
        NOTEBOOK, '"metadata": {},\n   "source"', '"metadata": {\n    "execution": {}\n   },\n   "source"'
    ) == [f"{NOTEBOOK}:9: a cell has timestamps"]
    assert problems(NOTEBOOK, '"1\\n"', '"see /home/me/x"') == [f"{NOTEBOOK}:18: an output has '/home/'"]
    assert problems(NOTEBOOK, '"1\\n"', f'"{"x" * 600_000}"') == [f"{NOTEBOOK}:1: the file has 600,295 bytes"]
