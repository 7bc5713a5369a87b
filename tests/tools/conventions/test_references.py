"""What pages say of code, tests, messages and recipes."""

from tests.tools.conventions.small_tree import ProblemsOf

ARCHITECTURE = "docs/architecture.md"
FAULTS = "docs/faults.md"
TROUBLES = "docs/troubleshooting.md"


def test_steps_name_a_file(problems_of: ProblemsOf) -> None:
    problems = problems_of("references.steps_name_a_file")
    row = "walks\n\n| step | where |\n|---|---|\n"
    assert problems(ARCHITECTURE, row, f"{row}| z | - |\n") == [f"{ARCHITECTURE}:7: the step names no file"]
    assert problems(ARCHITECTURE, "## Four", "## Five") == [f"{ARCHITECTURE}:1: 0 steps have a file"]


def test_faults_have_tests(problems_of: ProblemsOf) -> None:
    problems = problems_of("references.faults_have_tests")
    assert problems(
        FAULTS, "| fault 0 | `tests/test_net.py::test_net` |", "| fault 1 | `tests/test_net.py::test_fault` |"
    ) == [f"{FAULTS}:7: tests/test_net.py has no test_fault", f"{FAULTS}:8: the fault 'fault 1' is listed twice"]
    assert problems(
        FAULTS,
        "| fault 0 | `tests/test_net.py::test_net` |\n| fault 1 | `tests/test_net.py::test_net` |",
        "| fault 0 | none |",
    ) == [f"{FAULTS}:7: the last cell is none", f"{FAULTS}:3: 100 faults"]


def test_quoted_messages_exist(problems_of: ProblemsOf) -> None:
    problems = problems_of("references.quoted_messages_exist")
    assert problems(TROUBLES, "# Errors\n\n### Error", "# Errors") == [f"{TROUBLES}:1: 19 errors, 20 with a command"]
    assert problems(TROUBLES, "is full, ", "") == [f"{TROUBLES}:1: the message 'is full (' is missing"]
    assert problems("densevit/training/run/errors.py", "is full (", "is full") == [
        "densevit/training/run/errors.py:1: the message 'is full (' is missing"
    ]
    assert problems(FAULTS, "no step has finished for", "a step has not finished for") == [
        f"{FAULTS}:1: the message 'no step has finished for ' is missing"
    ]
