"""Every pass of tools/conventions: a change of a file in the small project, and what the pass says of it."""

from typing import Any

import pytest

from tests.tools.conventions.small_tree import ProblemsOf

API = "docs/reference/index.md"
ARCHITECTURE = "docs/development/architecture.md"
BUG = ".github/ISSUE_TEMPLATE/bug_report.yml"
CONFIG = "configs/fcn.yaml"
FAULTS = "docs/development/faults.md"
HEAD = "plugins/densevit_heads/fcn.py"
RECIPE = "configs/coco/fcn.yaml"
REFERENCE = "docs/reference/all.md"
RESULTS = "docs/results.md"
RUN = "densevit/training/run/__init__.py"
TIMM = "docs/development/timm.md"
TROUBLES = "docs/troubleshooting.md"
WEIGHTS = "docs/weights.md"
NOTEBOOK = "docs/tutorials/one.ipynb"
ERRORS = "densevit/training/run/errors.py"
LONG = "word " * 25
TRAINING, DATA = "| `training` | trains |\n", "| `data` | loads |\n"
LOSSES, UPDATE = (
    f"| {noun} | `DenseModule.{name}` in `densevit/training/loop/dense_module.py` |\n"
    for noun, name in (("losses", "training_step"), ("update", "on_end"))
)
THIRD, FOURTH = (f"| part {i} | `part_{i}` in `densevit/training/run/fit.py` |\n" for i in (3, 4))
ERROR = '"output_type": "error",\n "ename": "E",\n "evalue": "e",\n "traceback": []\n}, {'
CHECK = '"""Errors."""\ndef check_x(config):\n    {}\n'
CHANGED = {
    "config.heads.update(x=1)": "config.heads",
    "config.heads['x'].weight = 1": "config.heads['x'].weight",
    "del config['x']": "config['x']",
    "config.count += 1": "config.count",
    "config.heads['x'].names.append(1)": "config.heads['x'].names",
}

# By pass: a part, the text in its place, and facts of what is found: "line: problem" or "file:line: problem".
CHANGES: dict[str, list[tuple[Any, ...]]] = {
    "docstrings.public_names_have_docstrings": [
        (RUN, '\n    """A net."""', "\n    pass", "6: the public name Net has no docstring")
    ],
    "docstrings.modules_have_docstrings": [(RUN, '"""Runs."""', "", "1: the module has no docstring")],
    "docstrings.notes_say_what_a_thing_is": [
        (
            RUN,
            '"""A net."""',
            '"""A net.\n\n    top: of an image. size: (h, w).\n    """',
            "9: the note 'top: of an image'",
        ),
        (RUN, '"""A net."""', '"""A net. top: the most objects in an image. Of two maps: both."""'),
    ],
    "docstrings.docstrings_are_no_references": [
        (RUN, "Trains.", "See `Net`.", "11: the docstring begins 'See `Net`.'")
    ],
    "docstrings.headings_have_contents": [
        (RUN, '"""A net."""', '"""A net.\n\n    Example:\n    """', "9: nothing below 'Example:'")
    ],
    "imports.densevit_imports_no_plugin": [
        (RUN, "\n\n\nclass", "\nimport densevit_heads.fcn\n\n\nclass", "4: it imports the plugin densevit_heads.fcn")
    ],
    "imports.imports_point_downwards": [
        ("densevit/data/__init__.py", "", "def f():\n    from ..training import run\n", "2: data imports training")
    ],
    "imports.modules_have_no_cycles": [
        ("densevit/training/run/config_checks.py", "TEXT", "from densevit.training.run import errors\n\nTEXT"),
        (RUN, "\n\n\nclass", "\nfrom densevit.training import Plan\n\n\nclass", "3: modules import each other"),
    ],
    "imports.private_names_are_not_imported": [
        (RUN, "import dataloader", "import _loader", "3: it imports the private name densevit.data.loading._loader")
    ],
    "imports.plugins_import_what_is_open": [
        (HEAD, "densevit.interfaces import Head", "densevit.config import schema", "4: it imports densevit.config")
    ],
    "imports.training_evaluates_and_loads": [
        (RUN, "\n\n\nclass", "\nfrom densevit.inference.loading import load\n\n\nclass"),
        (RUN, "\n\n\nclass", "\nfrom densevit.inference.loading import create_model\n\n\nclass", "4: training imports"),
    ],
    "imports.plugin_packages_are_independent": [
        (HEAD, "densevit.interfaces import Head", "densevit_papers.cvt import CvT", "4: it imports densevit_papers.cvt")
    ],
    "pages.pages_are_short": [
        (API, "# Names", "# Names" + "\n" * 250, "1: the page has 268 lines"),
        (API, "# Names", "# Names\n\n" + "A line of words.\n" * 31, "3: a passage of 124 words"),
        (API, "| [All](all.md), a net |", f"| {'word ' * 121} |", "7: a passage of 121 words"),
        (API, "import densevit", "word " * 45_000, "docs/(?!development/) has 45,"),
        ("README.md", "See above.", ("word " * 100 + "\n\n") * 8, "README.md has 80"),
    ],
    "pages.lines_are_wrapped": [(API, "# Names", f"# Names\n\n{LONG}", "3: the line has 125 characters")],
    "pages.links_resolve": [
        ("README.md", "#the-names", "#names-of", "3: docs/reference/index.md has no heading #names-of")
    ],
    "pages.images_are_small": [
        ("docs/plot.svg", "", None, "docs/index.md:10: there is no image plot.svg", "docs:1: there are no images")
    ],
    "pages.code_blocks_have_a_language": [(API, "```bash", "```", "16: the block has no language")],
    "pages.commands_are_in_blocks_that_run": [(API, "```bash", "```text", "16: a command in a block of text")],
    "project_files.setup_lists_the_packages": [
        ("setup.cfg", "    densevit.data.loading\n", "", "2: the package densevit.data.loading is missing")
    ],
    "project_files.requirements_have_bounds": [("setup.cfg", "torch >= 2.6", "torch", "18: torch has no lower bound")],
    "project_files.licence_is_apache_2": [
        ("LICENSE", "Version 2.0,", "Version 2.1,", "1: the text is not that of the Apache License 2.0")
    ],
    "project_files.citation_names_the_version": [("CITATION.cff", "0.1.0", "0.2.0", "5: version is '0.2.0'")],
    "project_files.issue_forms_follow_the_schema": [
        (BUG, "required: true", "required: false", "5: the form does not request the environment")
    ],
    "recipes.untrained_recipes_state_the_published_score": [
        (RECIPE, "Published", "Printed", "1: the first lines have no published score")
    ],
    "recipes.headers_have_the_command": [
        (RECIPE, "train configs/coco/fcn", "train configs/coco/fcm", "1: the first lines do not have")
    ],
    "references.steps_name_a_file": [
        (ARCHITECTURE, "|---|---|\n", "|---|---|\n| z | - |\n", "7: the step names no file")
    ],
    "references.faults_have_tests": [
        (FAULTS, "0 | `tests/test_net.py::test_net`", "1 | `no.py::test_a`", "7: no.py has no", "8: the fault")
    ],
    "references.quoted_messages_exist": [
        (TROUBLES, "The memory is full, ", "", "1: the message 'The memory is full' is missing")
    ],
    "results.figures_are_those_of_results_json": [
        (RESULTS, "| 7.0 min", "| 8.0 min", "9: the figures are not those of docs/results.json: | `fcn` | 0.512 | 7.0"),
        (CONFIG, "0.010", "0.011", "3: the figures are not those of docs/results.json: #  0.010 (seeds 0, 1, 2)."),
    ],
    "results.scores_are_not_typed": [
        (RESULTS, "AP 0.512<!-- AP of fcn -->", "box\nAP 0.512", "4: AP 0.512 is a score of fcn")
    ],
    "tables.reference_index_lists_the_public_names": [
        (API, "`Net`, `fit`", "`Net`, `run`", "8: `fit` of all.md is missing", "8: `run` is not on all.md"),
        (API, "| [All](all.md) |", "| All |", "1: all.md has no row"),
    ],
    "tables.reference_has_the_public_names": [
        (REFERENCE, "densevit.fit", "densevit.Net", "5: densevit.Net", "1: densevit.fit")
    ],
    "tables.reference_has_the_protocols": [("densevit/training/callbacks/waiting.py", "Waiting", "SupportsFit", "4: ")],
    "tables.names_on_pages_are_public": [
        (API, "densevit.fit()", "densevit.fits()", "13: densevit.fits is no public name or module")
    ],
    "tables.index_has_the_plugins": [("docs/index.md", "`fcn`, ", "", "1: 'fcn' of heads is missing")],
    "tables.papers_page_has_the_plugins": [("docs/papers.md", "`cvt` ", "", "1: 'cvt' of heads is missing")],
    "tables.weights_page_lists_the_layouts": [
        (WEIGHTS, "`mae`", "`made`", "3: the layout 'mae' has no row", "7: 'made' is no layout")
    ],
    "tables.config_page_has_the_keys": [("docs/config.md", "`seed`", "seed", "1: the key 'seed' of Config is missing")],
    "tables.foundation_table_has_the_backbones": [
        (TIMM, "DINOv2", "DINO", "3: the rows are not those of FOUNDATION in tools/foundation_table.py")
    ],
    "walks.rooms_stand_in_their_rows": [
        (ARCHITECTURE, TRAINING + DATA, DATA + TRAINING, "the row has data", "the row has training")
    ],
    "walks.named_places_exist": [
        (ARCHITECTURE, "# Arch", "`Gone` in `no.py`\n# Arch", "is named Gone", "Gone is not defined in no.py")
    ],
    "walks.walks_are_in_the_order_of_the_code": [
        (ARCHITECTURE, THIRD + FOURTH, FOURTH + THIRD, "train calls part_3 before part_4"),
        (ARCHITECTURE, THIRD, "", "7 steps follow"),
    ],
    "walks.a_step_is_in_the_order_of_the_code": [
        (ARCHITECTURE, LOSSES + UPDATE, UPDATE + LOSSES, "the hooks are DenseModule.on_end, DenseModule.training_step"),
    ],
    "walks.walks_are_short": [
        ("densevit/training/loop/dense_module.py", "def on_end", "\n" * 300 + "    def on_end", "with 311 lines"),
    ],
    "words.words_are_the_standard_ones": [(API, "a net |", "a net for Pictures |", "7: the word 'Pictures'")],
    "words.modules_are_named_by_their_subject": [
        ("densevit/training/run/utils.py", "", '"""Rest."""\n', "1: a module called utils")
    ],
    "words.public_names_say_what_they_are": [
        (HEAD, "", '"""FCN."""\n\n\nclass Fcn:\n    own: int = 0\n', "5: the name own"),
        (HEAD, "", '"""FCN."""\n\n\nclass _Fcn:\n    own: int = 0\n\n\ndef _draw(found):\n    return found\n'),
    ],
    "notebooks.notebooks_are_tested_and_in_the_index": [
        ("tests/docs/test_tutorials.py", "test_one", "test_two", "no test_one")
    ],
    "notebooks.notebooks_hold_the_outputs_of_one_run": [
        (NOTEBOOK, '"execution_count": 1', '"execution_count": 2', "the cells were not run once, in their order"),
        (
            NOTEBOOK,
            '"output_type": "stream"',
            f'{ERROR}"output_type": "stream"',
            "15: the output of a cell is an error",
        ),
    ],
    "checks.checks_change_nothing": [
        (ERRORS, "", CHECK.format(body), f"3: check_x changes {changed}") for body, changed in CHANGED.items()
    ]
    + [
        (ERRORS, "", CHECK.format(body))
        for body in ("config = {}", "found = dict(config); found.update(x=1)", "assert config.heads.pop is None")
    ],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found(name: str, problems_of: ProblemsOf) -> None:
    problems = problems_of(name)
    for file, part, text, *facts in CHANGES[name]:
        found = problems(file, part, text)
        assert len(found) == len(facts) and all(map(str.__contains__, found, facts)), (file, part, found)
