"""docs/faults.md lists faults and files of others, each with a test that exists and the number of its cases."""

import ast
import re
from collections import Counter

import pytest

Row = tuple[str, str, str, int]  # fault, file, test, cases


@pytest.fixture
def rows(project) -> list[Row]:
    page = (project / "docs" / "faults.md").read_text().partition("## Tested faults")[2]
    lines = re.findall(r"^\| (?!fault |file )(.+) \|$", page, flags=re.MULTILINE)
    rows: list[Row] = []
    for line in lines:
        fault, *_, test, cases = line.split(" | ")
        file, name = test.strip("| `").split("::")
        rows.append((fault, file, name, int(cases)))
    return rows


def test_each_fault_has_a_test(project, rows):
    assert len(rows) > 100
    for fault, file, name, _ in rows:
        functions = {node.name for node in ast.parse((project / file).read_text()).body if hasattr(node, "name")}
        assert name in functions, f"{fault}: {file} has no {name}"
    assert len({fault for fault, *_ in rows}) == len(rows)


def test_sum_of_cases(project, rows):
    stated = re.search(r"; (\d+) in all\.", (project / "docs" / "faults.md").read_text())
    assert stated is not None and int(stated[1]) == sum(cases for *_, cases in rows)


def test_cases_of_each_test(request, rows):
    collected = Counter(item.nodeid.partition("[")[0] for item in request.session.items)
    known = [row for row in rows if f"{row[1]}::{row[2]}" in collected]  # all but slow ones, if the whole suite runs
    if not known:
        pytest.skip("only this file was collected")
    for fault, file, name, cases in known:
        assert collected[f"{file}::{name}"] == cases, fault
