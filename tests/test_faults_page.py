"""docs/faults.md lists at least 20 faults, each with a test that exists."""

import ast
import re


def test_each_fault_has_a_test(project):
    page = (project / "docs" / "faults.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|([^|]*)\| `([\w/.]+)::(\w+)` \|$", page, flags=re.MULTILINE)
    table = page.partition("| fault |")[2].strip().splitlines()
    assert len(rows) == len(table) - 2 >= 20  # without the header
    for fault, _, _, file, name in rows:
        functions = {node.name for node in ast.parse((project / file).read_text()).body if hasattr(node, "name")}
        assert name in functions, f"{fault}: {file} has no {name}"
    assert len({fault for fault, *_ in rows}) == len(rows)
