"""What pages say of code, tests, messages and recipes is there: names in files, tests of faults, configs."""

import re
from collections.abc import Iterator

from tools.conventions.calls import definitions
from tools.conventions.tree import Problem, Tree, rows

STEP = re.compile(r"((?:`[\w.]+`(?: and |, ))*`[\w.]+`) in `([\w/]+\.py)`")
# Messages that pages quote without a command: the file of the message, and its text.
QUOTED = {
    "docs/troubleshooting.md": (
        ("training/run/errors.py", "The memory is full"),
        ("data/loading/worker_processes.py", "found no space in /dev/shm"),
        ("training/loop/finite_check.py", "the loss or a gradient is not finite"),
    ),
    "docs/development/faults.md": (
        ("training/loop/finite_check.py", "the loss or a gradient is not finite"),
        ("training/loop/finite_check.py", "the first value that is not finite"),
    ),
}


def steps_name_a_file(tree: Tree) -> Iterator[Problem]:
    """The walks of docs/development/architecture.md: each step names a function or class and its file."""
    page, heading = "docs/development/architecture.md", "Four walks"
    count = 0
    for row in rows(tree.section(page, heading)):
        steps = STEP.findall(" | ".join(row.cells))
        if not steps:
            yield Problem(page, row.line, "the step names no file", "write `function` in `folder/file.py`")
        count += sum(len(re.findall(r"`[\w.]+`", names)) for names, _ in steps)
    if count <= 35:
        yield Problem(page, tree.line_of(page, f"## {heading}"), f"{count} steps have a file", "list more than 35")


def faults_have_tests(tree: Tree) -> Iterator[Problem]:
    """docs/development/faults.md: more than 80 faults, each listed once, with a test that exists."""
    page, heading = "docs/development/faults.md", "Tested faults"
    found = rows((number, line) for number, line in tree.lines(page) if number > tree.line_of(page, f"## {heading}"))
    faults: set[str] = set()
    for row in found:
        fault, test = row.cells[0], row.cells[-1]
        if fault in faults:
            yield Problem(page, row.line, f"the fault '{fault}' is listed twice", "keep one of the rows")
        faults.add(fault)
        match = re.fullmatch(r"`([\w/]+\.py)::(\w+)`", test)
        if match is None:
            yield Problem(page, row.line, f"the last cell is {test}", "write `tests/file.py::test`")
        elif not tree.exists(match[1]) or match[2] not in definitions(tree, match[1]):
            yield Problem(page, row.line, f"{match[1]} has no {match[2]}", "name the test of the fault")
    if len(found) <= 80:
        yield Problem(page, tree.line_of(page, f"## {heading}"), f"{len(found)} faults", "list more than 80")


def quoted_messages_exist(tree: Tree) -> Iterator[Problem]:
    """docs/troubleshooting.md and docs/development/faults.md have the messages as in the code."""
    for page, messages in QUOTED.items():
        text = " ".join(tree.text(page).split())
        for file, quoted in messages:
            if quoted not in tree.text(f"densevit/{file}"):
                yield Problem(f"densevit/{file}", 1, f"the message '{quoted}' is missing", f"correct {page} and QUOTED")
            if quoted.removesuffix(" (") not in text:
                yield Problem(page, 1, f"the message '{quoted}' is missing", "quote it as the code writes it")
