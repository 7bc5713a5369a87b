"""Checks wording and layout of the tree, as part of tools/check: each problem with its file, line and fix.

python -m tools.conventions
python -m tools.conventions --write    # first writes generated figures and tables into pages and configs
"""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tools.conventions import architecture, as_authors, checks, model_zoo, pages, recipes, results, speeds, words
from tools.conventions.tree import Problem, Tree

PASSES: tuple[Callable[[Tree], Iterable[Problem]], ...] = (
    pages.pages_are_short,
    pages.commands_are_in_blocks_that_run,
    architecture.packages_are_the_layers,
    architecture.walks_are_short,
    architecture.walks_import_few_files,
    results.figures_are_those_of_results_json,
    results.scores_are_not_typed,
    speeds.speeds_are_of_the_current_code,
    model_zoo.tables_are_those_of_the_layouts,
    as_authors.comparisons_are_those_of_the_layouts,
    recipes.untrained_recipes_state_the_published_score,
    recipes.headers_have_the_command,
    recipes.headers_are_short,
    recipes.bases_share_something,
    checks.checks_change_nothing,
    words.words_are_the_standard_ones,
    words.docstrings_say_what_a_thing_is,
    words.names_say_what_they_are,
    words.kinds_are_types,
    words.classes_have_one_name,
    words.modules_are_named_by_their_subject,
)


def main() -> int:
    """Returns 1 if there is a problem."""
    started = time.perf_counter()
    root = Path(__file__).resolve().parents[2]
    if sys.argv[1:] == ["--write"]:
        for file in (*results.write(Tree(root)), *model_zoo.write(Tree(root)), *as_authors.write(Tree(root))):
            print(f"{file} is written.")
    tree = Tree(root)
    problems = sorted({problem for check in PASSES for problem in check(tree)})
    for problem in problems:
        print(problem)
    seconds = time.perf_counter() - started
    result = f"{len(problems)} to fix" if problems else "all hold"
    print(f"Conventions: {len(PASSES)} passes over {len(tree.texts)} files in {seconds:.1f} s, {result}.")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
