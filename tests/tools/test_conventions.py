"""Every pass of tools/conventions refuses a tree that violates it."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.written_files import write_texts

PROJECT = Path(__file__).resolve().parents[2]
ARCHITECTURE, ZOO = "docs/development/architecture.md", "docs/model-zoo.md"
AS_AUTHORS = "docs/development/as-the-authors.md"
RESULTS: dict[str, Any] = {
    "processors": {"core": {"name": "a core", "kind": "AVX2"}},
    "data": {"scenes": {"title": "scenes", "held_out": "9 scenes"}},
    "trainings": {
        "fcn": {"group": "detection", "data": "scenes", "seeds": [0], "images": 2100}
        | {"scores": {"detection/AP": [0.512]}, "images_per_second": {"core": 5}},
        "fcn, three seeds": {"group": "variants", "recipe": "fcn", "label": "three seeds", "data": "scenes"}
        | {"seeds": [0, 1, 2], "images": 2100, "scores": {"detection/AP": [0.49, 0.5, 0.51]}},
    },
}
PAGE = """# Results

AP 0.512<!-- AP of fcn -->

<!-- results: detection; config, AP, time -->

| config | AP | time |
|---|---|---|
| `fcn` | 0.512 | 7.0 min |

<!-- end of results -->
"""
CONFIG = (
    "# FCN.\n# Measured: AP 0.512 (9 scenes, seed 0) after 2,100 images, 7.0 min on a core (AVX2, 5 images/s).\n"
    "# Train it.\nseed: 0\n"
)
MEASURED = {"docs/results.json": json.dumps(RESULTS), "docs/results.md": PAGE, "configs/fcn.yaml": CONFIG}
RECIPE = "# Published, not run here: box AP 0.4\n#   densevit train configs/coco/fcn.yaml data.root=x\n"
SECTIONS = "backbone: {name: swin}\nheads: {}\ndata: {name: scenes}\ntrainer: {max_steps: 1}\n"
BASES = {
    "configs/a.yaml": f"{SECTIONS}seed: 1\n",
    "configs/b.yaml": f"base: a.yaml\n{SECTIONS}",
    "configs/data/c.yaml": "name: coco\nbatch_size: 2\n",
    "configs/data/d.yaml": "base: c.yaml\nname: coco\n",
}
CONTRACT = (
    '[tool.importlinter]\nroot_package = "densevit"\n[[tool.importlinter.contracts]]\nname = "rows"\n'
    'type = "layers"\ncontainers = ["densevit"]\nlayers = ["training", "data : config"]\n'
)
TABLE = "## Packages\n\n| packages | |\n|---|---|\n| `training` | runs |\n| `data`, `config` | loads |\n\n"
WALK = "## Walks\n\n### In each step\n\n| losses | `Net.step` in `densevit/net.py` |\n"
NET = '"""Nets."""\n\n\nclass Net:\n    """A net."""\n\n    def step(self): ...\n'
MODULES = [f"m{i}" for i in range(35)]
TYPES = f"if TYPE_CHECKING:\n    from densevit import {', '.join(MODULES)}\n"
WALKS = {"pyproject.toml": CONTRACT, ARCHITECTURE: TABLE + WALK, "densevit/net.py": NET}
CHECK = "def check_x(config):\n    {}\n"
BLOCK = NET.replace("class Net", "class Block")
PAPERS = {  # packages of heads and backbones that have a class of one name, which is not the core's
    "setup.cfg": "[options.entry_points]\ndensevit.heads=\n a = densevit_a:A\ndensevit.backbones=\n b = densevit_b:B\n",
    **{"plugins/densevit_a/net.py": BLOCK, "plugins/densevit_b/net.py": BLOCK, "densevit/net.py": NET},
}

SPEED, STEP = "docs/development/speed.md", '"""Step."""\n\nX = 1  # one\n'
SPEEDS = {
    "docs/comparison.md": "## Speed\n",
    "tools/step.py": STEP,
    SPEED: "# Speed\n\n<!-- measured: python tools/step.py; 0123abcd; AMD EPYC; code 06dbfd6d of tools/*.py -->\n\n"
    "| a | ms |\n|---|---|\n| b | 1 |\n",
}

# By pass: files that follow it, a file of them with a part and the text in its place, and what is found.
CASES: dict[str, list[tuple[dict[str, str], str, str, str, str]]] = {
    "pages.pages_are_short": [
        ({"docs/a.md": "# A\n"}, "docs/a.md", "# A", "# A" + "\n" * 250, "docs/a.md:1: the page has 251 lines"),
        ({f"docs/{i}.md": "# A\n" for i in range(49)}, "docs/49.md", "", "# A\n", "docs:1: docs/ has 50 pages"),
    ],
    "pages.commands_are_in_blocks_that_run": [
        ({"docs/a.md": "```bash\ndensevit train x\n```\n"}, "docs/a.md", "bash", "text", "docs/a.md:1: a command in a")
    ],
    "architecture.packages_are_the_layers": [
        (WALKS, ARCHITECTURE, "`data`, ", "", ":6: the table has config, the contract config, data"),
    ],
    "architecture.walks_are_short": [
        (WALKS, ARCHITECTURE, "Net.step", "Net.run", ":10: Net.run is not defined in densevit/net.py"),
        (WALKS, "densevit/net.py", "\n\n\n", "\n" * 500, ":10: the walk leads to densevit/net.py with 504 lines"),
    ],
    "architecture.walks_import_few_files": [
        (
            WALKS | {f"densevit/{name}.py": "" for name in MODULES} | {"densevit/net.py": NET + TYPES},
            "densevit/net.py",
            part,
            text,
            ":10: the walk has 36 files with those that they import: densevit/m0.py, ",
        )
        for part, text in (("if TYPE_CHECKING", "if True"), ("...", f"from densevit import {', '.join(MODULES)}"))
    ],
    "results.figures_are_those_of_results_json": [
        (MEASURED, "docs/results.md", "| 7.0 min", "| 8.0 min", "docs/results.md:9: the figures are not those of"),
        (MEASURED, "configs/fcn.yaml", "0.512", "0.513", "configs/fcn.yaml:2: the figures are not those of"),
        (MEASURED, "docs/results.md", "AP of fcn", "PQ of fcn", "docs/results.md:3: docs/results.json has no 'PQ'"),
    ],
    "results.scores_are_not_typed": [
        (MEASURED, "docs/results.md", "<!-- AP of fcn -->", "", "docs/results.md:3: AP 0.512 is a score of fcn")
    ],
    "speeds.speeds_are_of_the_current_code": [
        (
            SPEEDS,
            "tools/step.py",
            "X = 1",
            "X = 2",
            f"{SPEED}:3: the code of this table has changed since it was measured",
        ),
        (SPEEDS, SPEED, "tools/*.py", "step/*.py", f"{SPEED}:3: no file matches step/*.py"),
        (SPEEDS, SPEED, "<!-- measured", "<!-- as of", f"{SPEED}:3: no line before the table says"),
    ],
    "model_zoo.tables_are_those_of_the_layouts": [
        ({ZOO: (PROJECT / ZOO).read_text()}, ZOO, "|[no](", "|[yes](", f"{ZOO}:1: the tables are not those"),
    ],
    "as_authors.comparisons_are_those_of_the_layouts": [
        ({AS_AUTHORS: (PROJECT / AS_AUTHORS).read_text()}, AS_AUTHORS, "|equal|", "||", f"{AS_AUTHORS}:1: the table is")
    ],
    "recipes.untrained_recipes_state_the_published_score": [
        ({"configs/coco/fcn.yaml": RECIPE}, "configs/coco/fcn.yaml", "Published", "Printed", "no published score")
    ],
    "recipes.headers_have_the_command": [
        ({"configs/coco/fcn.yaml": RECIPE}, "configs/coco/fcn.yaml", "coco/fcn", "coco/fcm", "lines do not have")
    ],
    "recipes.headers_are_short": [
        ({"configs/a.yaml": "# A.\n" * 6 + "seed: 0\n# B.\n"}, "configs/a.yaml", "# A.", "# A.\n#", "1: 7 lines of"),
    ],
    "recipes.bases_share_something": [
        (BASES, "configs/a.yaml", "seed: 1", "seed: 0", "configs/b.yaml:1: a.yaml changes nothing"),
        (
            BASES,
            "configs/data/c.yaml",
            "batch_size: 2",
            "batch_size: 8",
            "configs/data/d.yaml:1: c.yaml changes nothing",
        ),
    ],
    "checks.checks_change_nothing": [
        ({"densevit/a.py": CHECK.format("config = {}")}, "densevit/a.py", "config =", f"{changed} =", "check_x changes")
        for changed in ("config.heads['x']", "config.name")
    ],
    "words.words_are_the_standard_ones": [
        ({"docs/a.md": "an image\n"}, "docs/a.md", "image", "Picture", "docs/a.md:1: the word 'Picture'")
    ],
    "words.docstrings_say_what_a_thing_is": [
        ({"densevit/net.py": NET}, "densevit/net.py", "A net.", "See `fit`.", ":5: the docstring has"),
    ],
    "words.names_say_what_they_are": [
        ({"densevit/net.py": NET}, "densevit/net.py", "...", text, f"densevit/net.py:7: the name {name}")
        for text, name in (
            ("found = 1", "found"),
            ("self._own = 1", "_own"),
            ("x = [1 for one in ()]", "one"),
        )
    ]
    + [
        ({"tools/net.py": NET}, "tools/net.py", "def step", "def _of_step", "tools/net.py:7: the name _of_step"),
        ({"examples/net.py": NET}, "examples/net.py", "class Net", "class Place", "net.py:4: the name Place"),
    ],
    "words.kinds_are_types": [
        ({"plugins/net.py": NET}, "plugins/net.py", "(self)", "(self, kind: str)", ":7: kind is str, not a type"),
    ],
    "words.classes_have_one_name": [
        (
            PAPERS,
            "plugins/densevit_b/net.py",
            "class Block",
            "class Net",
            "densevit_b/net.py:4: a class Net is in dens",
        ),
    ],
    "words.modules_are_named_by_their_subject": [
        ({"densevit/net.py": NET, "densevit/utils.md": ""}, "densevit/utils.py", "", "", "1: a module called utils")
    ],
}


def conventions(name: str) -> Any:
    """A module of tools/conventions."""
    return importlib.import_module(f"tools.conventions.{name}")


@pytest.mark.parametrize("name", CASES)
def test_a_violation_is_found_and_nothing_before_it(tmp_path: Path, name: str) -> None:
    module, function = name.split(".")
    check, tree = getattr(conventions(module), function), conventions("tree").Tree
    for i, (files, file, part, text, expected) in enumerate(CASES[name]):
        root = tmp_path / str(i)
        write_texts(root, files)
        assert [*check(tree(root))] == []
        assert part in files.get(file, "")
        write_texts(root, {file: files.get(file, "").replace(part, text, 1)})
        problems = [str(problem) for problem in check(tree(root))]
        assert any(expected in problem for problem in problems), (expected, problems)


def test_every_pass_has_a_case_and_the_command_prints_problems(tmp_path, monkeypatch, capsys) -> None:
    main = conventions("__main__")
    assert {f"{check.__module__.rpartition('.')[2]}.{check.__name__}" for check in main.PASSES} == {*CASES}
    write_texts(tmp_path, {"docs/a.md": "```text\npip install x\n```\n"})
    tree = conventions("tree").Tree(tmp_path)
    monkeypatch.setattr(main, "Tree", lambda root: tree)
    monkeypatch.setattr(main, "PASSES", (conventions("pages").commands_are_in_blocks_that_run,))
    assert main.main() == 1
    problem, last = capsys.readouterr().out.splitlines()
    assert problem == "docs/a.md:1: a command in a block of text. Fix: make it a block of bash."
    assert last.endswith(" s, 1 to fix.")
