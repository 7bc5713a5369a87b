"""Checks wording and layout of the tree, as part of tools/check: each problem with its file, line and fix.

python -m tools.conventions
python -m tools.conventions --write    # first writes the figures of docs/results.json into pages and configs
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tools.conventions import (
    checks,
    docstrings,
    imports,
    notebooks,
    pages,
    project_files,
    recipes,
    references,
    results,
    tables,
    walks,
    words,
)
from tools.conventions.tree import Problem, Tree

PASSES: tuple[Callable[[Tree], Iterable[Problem]], ...] = (
    pages.lines_are_wrapped,
    pages.pages_are_short,
    pages.links_resolve,
    pages.images_are_small,
    pages.code_blocks_have_a_language,
    pages.commands_are_in_blocks_that_run,
    tables.reference_index_lists_the_public_names,
    tables.reference_has_the_public_names,
    tables.reference_has_the_protocols,
    tables.names_on_pages_are_public,
    tables.index_has_the_plugins,
    tables.papers_page_has_the_plugins,
    tables.weights_page_lists_the_layouts,
    tables.config_page_has_the_keys,
    tables.foundation_table_has_the_backbones,
    references.steps_name_a_file,
    walks.rooms_stand_in_their_rows,
    walks.named_places_exist,
    walks.walks_are_in_the_order_of_the_code,
    walks.a_step_is_in_the_order_of_the_code,
    walks.walks_are_short,
    references.faults_have_tests,
    references.quoted_messages_exist,
    results.figures_are_those_of_results_json,
    results.scores_are_not_typed,
    recipes.untrained_recipes_state_the_published_score,
    recipes.headers_have_the_command,
    notebooks.notebooks_are_tested_and_in_the_index,
    notebooks.notebooks_hold_the_outputs_of_one_run,
    docstrings.public_names_have_docstrings,
    docstrings.modules_have_docstrings,
    docstrings.notes_say_what_a_thing_is,
    docstrings.docstrings_are_no_references,
    docstrings.headings_have_contents,
    checks.checks_change_nothing,
    words.words_are_the_standard_ones,
    words.public_names_say_what_they_are,
    words.modules_are_named_by_their_subject,
    imports.densevit_imports_no_plugin,
    imports.imports_point_downwards,
    imports.training_evaluates_and_loads,
    imports.modules_have_no_cycles,
    imports.private_names_are_not_imported,
    imports.plugins_import_what_is_open,
    imports.plugin_packages_are_independent,
    project_files.setup_lists_the_packages,
    project_files.requirements_have_bounds,
    project_files.licence_is_apache_2,
    project_files.citation_names_the_version,
    project_files.issue_forms_follow_the_schema,
)


def all_problems(tree: Tree) -> Iterator[Problem]:
    """The problems of all passes. A file that a pass reads and that is missing is one."""
    for check in PASSES:
        try:
            yield from check(tree)
        except FileNotFoundError as error:
            file = Path(error.filename).relative_to(tree.root).as_posix()
            yield Problem(file, 1, "there is no such file", f"restore it, or correct {check.__name__}")


def main() -> int:
    """Returns 1 if there is a problem."""
    started = time.perf_counter()
    root = Path(__file__).resolve().parents[2]
    if sys.argv[1:] == ["--write"]:
        for file in results.write(Tree(root)):
            print(f"{file} is written.")
    tree = Tree(root)
    problems = sorted(set(all_problems(tree)))
    for problem in problems:
        print(problem)
    seconds = time.perf_counter() - started
    result = f"{len(problems)} to fix" if problems else "all hold"
    print(f"Conventions: {len(PASSES)} passes over {len(tree.texts)} files in {seconds:.1f} s, {result}.")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
