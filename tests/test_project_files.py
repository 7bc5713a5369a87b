"""Issue templates follow GitHub's schema for issue forms, and ask for commands that exist."""

from pathlib import Path

import pytest
import yaml

from densevit.cli import command

TYPES = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_forms_follow_the_schema(name: str, project: Path):
    form = yaml.safe_load((project / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] in TYPES and field["attributes"]["label"]
        assert set(field) <= {"type", "id", "attributes", "validations"}


def test_bug_reports_ask_for_the_environment(project: Path):
    form = yaml.safe_load((project / ".github/ISSUE_TEMPLATE/bug_report.yml").read_text())
    [field] = [field for field in form["body"] if field["id"] == "environment"]
    assert "`densevit doctor --environment`" in field["attributes"]["description"] and field["validations"]["required"]
    assert command("doctor")[1].parse_args(["--environment"]).environment
