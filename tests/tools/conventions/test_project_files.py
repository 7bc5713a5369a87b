"""setup.cfg, citation, licence and issue forms."""

from tests.tools.conventions.small_tree import ProblemsOf

BUG = ".github/ISSUE_TEMPLATE/bug_report.yml"


def test_setup_lists_the_packages(problems_of: ProblemsOf) -> None:
    problems = problems_of("project_files.setup_lists_the_packages")
    assert problems("setup.cfg", "    densevit.data.loading\n", "") == [
        "setup.cfg:2: the package densevit.data.loading is missing"
    ]
    assert problems("setup.cfg", "    densevit.data.loading\n", "    densevit.data.loading\n    densevit.gone\n") == [
        "setup.cfg:7: there is no package densevit.gone"
    ]
    assert problems("densevit/data/__init__.py", "", None) == ["setup.cfg:5: there is no package densevit.data"]
    assert problems("densevit/data/loading/__init__.py", "", None) == [
        "densevit/data/loading:1: the folder has no __init__.py"
    ]


def test_requirements_have_bounds(problems_of: ProblemsOf) -> None:
    problems = problems_of("project_files.requirements_have_bounds")
    assert problems("setup.cfg", "torch >= 2.6", "torch") == ["setup.cfg:18: torch has no lower bound"]
    assert problems("setup.cfg", "torch >= 2.6", "torch >= 2.6, < 3") == ["setup.cfg:18: torch has an upper bound"]
    assert problems("setup.cfg", ", < 2.1", "") == ["setup.cfg:19: albumentations has no upper bound"]


def test_licence_is_apache_2(problems_of: ProblemsOf) -> None:
    problems = problems_of("project_files.licence_is_apache_2")
    assert problems("LICENSE", "Version 2.0,", "Version 2.1,") == [
        "LICENSE:1: the text is not that of the Apache License 2.0"
    ]


def test_citation_names_the_version(problems_of: ProblemsOf) -> None:
    problems = problems_of("project_files.citation_names_the_version")
    assert problems("CITATION.cff", "0.1.0", "0.2.0") == ["CITATION.cff:5: version is '0.2.0'"]
    assert problems("CHANGELOG.md", "## 0.1.0", "## 0.2.0") == ["CHANGELOG.md:1: version 0.1.0 has no section"]


def test_issue_forms_follow_the_schema(problems_of: ProblemsOf) -> None:
    problems = problems_of("project_files.issue_forms_follow_the_schema")
    assert problems(BUG, "id: problem", "id: environment") == [
        f"{BUG}:5: the id environment is missing or not unique",
        f"{BUG}:5: the form does not request the environment",
    ]
    assert problems(BUG, "type: input", "type: line") == [f"{BUG}:12: the type of problem is line"]
    assert problems(BUG, "    attributes:\n      label: Problem\n", "    label: Problem\n") == [
        f"{BUG}:12: problem has no label",
        f"{BUG}:12: problem has the key label",
    ]
    assert problems(BUG, "required: true", "required: false") == [f"{BUG}:5: the form does not request the environment"]
    assert problems(BUG, "--environment", "") == [f"{BUG}:5: the form does not request the environment"]
    assert problems(BUG, "description: A bug\n", "") == [f"{BUG}:1: the form has no description"]
