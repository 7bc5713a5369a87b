"""All passes: the small project follows them, each has a test, and the command prints what they find."""

import json
from collections.abc import Callable
from typing import Any

from tests.tools.conventions.small_tree import FILES, RESULTS
from tests.tools.conventions.test_passes import CHANGES


def test_every_pass_accepts_the_small_project(conventions: Callable[[str], Any], tree_of: Callable[..., Any]) -> None:
    assert list(conventions("__main__").all_problems(tree_of(FILES))) == []


def test_every_pass_has_a_test_and_a_file_that_is_missing_is_a_problem(conventions, tree_of):
    for check in conventions("__main__").PASSES:
        assert f"{check.__module__.rpartition('.')[2]}.{check.__name__}" in CHANGES
    tree = tree_of(FILES)
    (tree.root / "docs/papers.md").unlink()
    problem = next(
        problem for problem in conventions("__main__").all_problems(tree) if problem.file == "docs/papers.md"
    )
    assert str(problem) == (
        "docs/papers.md:1: there is no such file. Fix: restore it, or correct papers_page_has_the_plugins."
    )


def test_writing_corrects_the_figures_and_nothing_else(conventions, tree_of):
    write, page, config = conventions("results").write, "docs/results.md", "configs/fcn.yaml"
    wrong = {
        page: FILES[page].replace("0.512", "0.6").replace("7.0 min", "9.0 min"),
        config: "# FCN.\n# Measured:\n# Train it.\nseed: 0\n",
    }
    tree = tree_of({**FILES, **wrong})
    assert set(write(tree)) == {page, config}
    assert all((tree.root / file).read_text() == FILES[file] for file in wrong)
    assert write(tree_of({})) == [], "the second time changes nothing"


def test_an_entry_without_scores_is_not_measured_on_pages_and_in_its_config(conventions, tree_of):
    trainings = RESULTS["trainings"]
    unmeasured = {key: value for key, value in trainings["fcn"].items() if key != "images_per_second"} | {"scores": {}}
    changed = {"fcn": unmeasured, "fcn, three seeds": {**trainings["fcn, three seeds"], "headers": []}}
    tree = tree_of({**FILES, "docs/results.json": json.dumps({**RESULTS, "trainings": {**trainings, **changed}})})
    conventions("results").write(tree)
    page, config = ((tree.root / file).read_text() for file in ("docs/results.md", "configs/fcn.yaml"))
    assert "AP not measured<!-- AP of fcn -->" in page
    assert "| `fcn` | not measured | not measured |" in page
    assert config == "# FCN.\n# Not measured.\n# Train it.\nseed: 0\n"
    tree.texts.clear()
    assert conventions("results").write(tree) == [], "the markers stay"


def test_the_command_prints_the_problems(conventions, tree_of, monkeypatch, capsys):
    main = conventions("__main__")
    tree = tree_of({"README.md": "[a](docs/a.md)\n", "docs/a.md": "```\n```\n"})
    monkeypatch.setattr(main, "Tree", lambda root: tree)
    monkeypatch.setattr(main, "PASSES", (conventions("pages").code_blocks_have_a_language,))
    assert main.main() == 1
    problem, last = capsys.readouterr().out.splitlines()
    assert problem == "docs/a.md:1: the block has no language. Fix: write it behind the fence: bash, text."
    assert last.endswith(" s, 1 to fix.")
    (tree.root / "docs/a.md").write_text("```text\n```\n")
    tree.texts.clear()
    assert main.main() == 0
