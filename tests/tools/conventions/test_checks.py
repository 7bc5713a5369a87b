"""Functions named check."""

import pytest

from tests.tools.conventions.small_tree import ProblemsOf

FILE = "densevit/training/run/errors.py"


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ("config.heads.update(x=1)", "config.heads"),
        ("config.heads['x'].weight = 1", "config.heads['x'].weight"),
        ("del config['x']", "config['x']"),
        ("config.count += 1", "config.count"),
        ("config.heads['x'].names.append(1)", "config.heads['x'].names"),
        ("config = {}", None),
        ("found = dict(config); found.update(x=1)", None),
        ("assert config.heads.pop is None", None),
    ],
)
def test_checks_change_nothing(body: str, changed: str | None, problems_of: ProblemsOf) -> None:
    problems = problems_of("checks.checks_change_nothing")
    expected = [] if changed is None else [f"{FILE}:3: check_x changes {changed}"]
    assert problems(FILE, "", f'"""Errors."""\ndef check_x(config):\n    {body}\n') == expected
    assert problems(FILE, "", f'"""Errors."""\ndef checkpoint_of(config):\n    {body}\n') == []
