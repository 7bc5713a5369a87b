"""Docstrings that exist and say what a thing is, and headings with something below."""

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


def test_notes_say_what_a_thing_is(problems_of: ProblemsOf) -> None:
    problems = problems_of("docstrings.notes_say_what_a_thing_is")
    text = (
        '"""A net.\n\n    top: of an image. wide, high: in pixels, at\n    least 8. size: (h, w) of an image.\n    """'
    )
    assert problems(RUN, '"""A net."""', text) == [
        f"{RUN}:9: the note 'top: of an image'",
        f"{RUN}:9: the note 'wide, high: in pixels, at'",
    ]
    assert not problems(RUN, '"""A net."""', '"""A net. top: the most objects in an image. Of two maps: both."""')
    schema = "densevit/config/schema.py"
    assert problems(schema, '"""A name."""', '"""A name. kind: of it."""') == [f"{schema}:8: the note 'kind: of it'"]


def test_docstrings_are_no_references(problems_of: ProblemsOf) -> None:
    problems = problems_of("docstrings.docstrings_are_no_references")
    assert problems(RUN, "Trains.", "See `Net`.") == [f"{RUN}:11: the docstring begins 'See `Net`.'"]
    assert problems(RUN, "Trains.", "As in the paper.") == [f"{RUN}:11: the docstring begins 'As in the paper.'"]
    assert not problems(RUN, "Trains.", "Trains a net, see `Net`.")


def test_headings_have_contents(problems_of: ProblemsOf) -> None:
    problems = problems_of("docstrings.headings_have_contents")
    heading = "# ---- nets ----"
    found = f"nothing below '{heading}'"
    assert problems(RUN, '    """Trains."""\n', f'    """Trains."""\n\n\n{heading}\n') == [f"{RUN}:14: {found}"]
    assert problems(RUN, "class Net", f"{heading}\n\n\n# ---- more ----\n\n\nclass Net") == [f"{RUN}:6: {found}"]
    method = f'"""A net."""\n\n    {heading}'
    assert problems(RUN, '"""A net."""', method) == [f"{RUN}:9: {found}"]
    assert not problems(RUN, '"""A net."""', f"{method}\n\n    size = 1")
    assert not problems(RUN, "class Net", f"{heading}\n\n\nclass Net")


def test_headings_of_docstrings_and_pages_have_contents(problems_of: ProblemsOf) -> None:
    problems = problems_of("docstrings.headings_have_contents")
    text = '"""A net.\n\n    Example:\n    """'
    assert problems(RUN, '"""A net."""', text) == [f"{RUN}:9: nothing below 'Example:'"]
    page = "docs/weights.md"
    assert problems(page, "## Safety\n", "## Safety\n\n## Licences\n") == [f"{page}:9: nothing below '## Safety'"]
    assert not problems(page, "## Safety\n", "## Safety\n\n### Files\n")
    assert not problems(page, "## Safety\n", "## Safety\n\n```python\n# a comment\n```\n\n## Licences\n")
