"""Files at the root: setup.cfg, CITATION.cff, LICENSE, and the forms of issues."""

import re
from collections.abc import Iterator

import yaml

from tools.conventions.docstrings import version
from tools.conventions.tree import Problem, Tree

SETUP, CITATION, FORMS = "setup.cfg", "CITATION.cff", ".github/ISSUE_TEMPLATE"
UPPER_BOUNDS = {"albumentations"}  # requirements that have one, for the reason in setup.cfg
FIELD_TYPES = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
FIELD_KEYS = {"type", "id", "attributes", "validations"}


def setup_lists_the_packages(tree: Tree) -> Iterator[Problem]:
    """`packages` in setup.cfg has each folder with Python files below those of `package_dir`, and each is a package."""
    options = tree.setup()["options"]
    listed = set(options["packages"].split())
    folders = dict(line.split(" = ") for line in options["package_dir"].split("\n") if line)
    packages: dict[str, str] = {}
    for name, folder in folders.items():
        for file in tree.files(f"{folder}/**/*.py"):
            below = file.removeprefix(f"{folder}/").split("/")[:-1]
            packages[".".join([name, *below])] = file.rpartition("/")[0]
    for package, folder in packages.items():
        if package not in listed:
            yield Problem(SETUP, tree.line_of(SETUP, "^packages ="), f"the package {package} is missing", "add it")
        if not tree.exists(f"{folder}/__init__.py"):
            yield Problem(folder, 1, "the folder has no __init__.py", "add one")
    for package in sorted(listed - set(packages)):
        line = tree.line_of(SETUP, rf"^    {re.escape(package)}$")
        yield Problem(SETUP, line, f"there is no package {package}", "remove it")


def requirements_have_bounds(tree: Tree) -> Iterator[Problem]:
    """Each requirement has a lower bound, and an upper one only for a known reason."""
    for line in tree.setup()["options"]["install_requires"].split("\n"):
        if not line or line.startswith("#"):
            continue
        number, name = tree.line_of(SETUP, rf"^ +{re.escape(line)}$"), line.split()[0]
        if not re.match(r"[\w-]+ >= \d", line):
            yield Problem(SETUP, number, f"{name} has no lower bound", "write NAME >= VERSION")
        if ("<" in line) != (name in UPPER_BOUNDS):
            found = f"{name} has {'an' if '<' in line else 'no'} upper bound"
            yield Problem(
                SETUP, number, found, f"correct it, or UPPER_BOUNDS in {__name__} with the reason in setup.cfg"
            )


def licence_is_apache_2(tree: Tree) -> Iterator[Problem]:
    text = tree.text("LICENSE")
    is_complete = "Version 2.0, January 2004" in text and text.rstrip().endswith("limitations under the License.")
    if not is_complete or len(text) != 11358:
        yield Problem("LICENSE", 1, "the text is not that of the Apache License 2.0", "restore it")


def citation_names_the_version(tree: Tree) -> Iterator[Problem]:
    """CITATION.cff has the package's version, which has a section in CHANGELOG.md, and its constant fields."""
    released = version(tree)
    expected = {
        "version": released,
        "title": "densevit",
        "type": "software",
        "license": "Apache-2.0",
        "authors": [{"name": "densevit contributors"}],
    }
    citation = yaml.safe_load(tree.text(CITATION))
    for key, value in expected.items():
        if citation.get(key) != value:
            found = f"{key} is {citation.get(key)!r}"
            yield Problem(CITATION, tree.line_of(CITATION, f"^{key}:"), found, f"write {value!r}")
    if f"## {released}" not in tree.text("CHANGELOG.md"):
        yield Problem("CHANGELOG.md", 1, f"version {released} has no section", f"add ## {released}")


def issue_forms_follow_the_schema(tree: Tree) -> Iterator[Problem]:
    """GitHub's schema of issue forms; a bug report asks for the output of a command."""
    for name in ("bug_report", "feature_request"):
        file = f"{FORMS}/{name}.yml"
        form = yaml.safe_load(tree.text(file))
        for key in ("name", "description", "body"):
            if not form.get(key):
                yield Problem(file, 1, f"the form has no {key}", "add it")
        ids = [field.get("id") for field in form.get("body", [])]
        for i, field in enumerate(form.get("body", [])):
            identifier = field.get("id")
            line = tree.line_of(file, rf"\bid: {identifier}$")
            if identifier is None or identifier in ids[:i]:
                yield Problem(file, line, f"the id {identifier} is missing or not unique", "give each field its id")
            if field.get("type") not in FIELD_TYPES:
                yield Problem(
                    file, line, f"the type of {identifier} is {field.get('type')}", "use one of GitHub's types"
                )
            if not field.get("attributes", {}).get("label"):
                yield Problem(file, line, f"{identifier} has no label", "add attributes.label")
            for key in field.keys() - FIELD_KEYS:
                yield Problem(file, line, f"{identifier} has the key {key}", "remove it")
            is_required = field.get("validations", {}).get("required")
            description = field.get("attributes", {}).get("description", "")
            if identifier == "environment" and not (is_required and "`densevit doctor --environment`" in description):
                fix = "require the output of `densevit doctor --environment`"
                yield Problem(file, line, "the form does not request the environment", fix)
        if name == "bug_report" and "environment" not in ids:
            yield Problem(file, 1, "the form does not request the environment", "add the field `environment`")
