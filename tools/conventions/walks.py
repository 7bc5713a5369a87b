"""docs/development/architecture.md says what the code does: rooms, rows of imports, order of walks and of callbacks."""

import ast
import itertools
import re
from collections.abc import Iterator

from tools.conventions.calls import Place, calls, definitions, place_of
from tools.conventions.imports import ROWS
from tools.conventions.references import STEP
from tools.conventions.tree import Problem, Row, Tree, rows

PAGE = "docs/development/architecture.md"
WALKS, IN_A_STEP = "Four walks", "In each step"
FIT, MODULE = "densevit/training/run/fit.py", "densevit/training/loop/dense_module.py"
CALLBACKS = "densevit/training/callbacks/"
AFTER_VALIDATION = {"BestModel"}  # of the callbacks
MASKS = "The polygons of a COCO file to Mask2Former's loss"
MOST_FILES, LONGEST = {"A config through `fit`": 9, IN_A_STEP: 6, MASKS: 8}, 300
WORDS = {"True"}  # no names of densevit


def rooms_stand_in_their_rows(tree: Tree) -> Iterator[Problem]:
    """The table of the packages of densevit has the rows of `imports.ROWS`, with all of densevit/*."""
    rooms = {file.split("/")[1].removesuffix(".py") for file in tree.files("densevit/*.py", "densevit/*/__init__.py")}
    expected = [parts for row in ROWS if (parts := [part for part in row if part in rooms])]
    listed = [row for row in rows(tree.section(PAGE, "Packages")) if re.fullmatch(r"(?:`\w+`(?:, )?)+", row.cells[0])]
    for row, parts in zip(listed, expected, strict=False):
        names = re.findall(r"\w+", row.cells[0])
        if sorted(names) != sorted(parts):
            yield Problem(PAGE, row.line, f"the row has {', '.join(names)}", f"write {', '.join(parts)}")
    if len(listed) != len(expected):
        yield Problem(PAGE, 1, f"{len(listed)} rows of packages", f"write the {len(expected)} of imports.ROWS")


def named_places_exist(tree: Tree) -> Iterator[Problem]:
    """Each folder, file, module, class and method that the page names exists, and `function` in `file.py`."""
    files = tree.files("densevit/**/*.py", "plugins/**/*.py")
    known = {*WORDS, *(name for file in files for name in definitions(tree, file))}
    for number, line in tree.prose(PAGE):
        for path in re.findall(r"`((?:densevit|plugins|tools|configs|tests|examples|docs)/[\w/.-]*)`", line):
            if not (tree.root / path).exists():
                yield Problem(PAGE, number, f"there is no {path}", "correct its name")
        for module in re.findall(r"`(densevit(?:\.\w+){2,})`", line):
            if place_of(tree, module) is None and not (tree.root / module.replace(".", "/")).is_dir():
                yield Problem(PAGE, number, f"there is no {module}", "correct its name")
        for name in re.findall(r"`([A-Z]\w*[a-z]\w*(?:\.\w+)?)`", line):
            if name not in known:
                yield Problem(PAGE, number, f"no class or method is named {name}", "correct its name")
    for names, file in STEP.findall(" ".join(tree.text(PAGE).split())):
        for name in re.findall(r"`([\w.]+)`", names):
            if name != "__all__" and not (tree.exists(file) and name in definitions(tree, file)):
                number = tree.line_of(PAGE, f"`{re.escape(name)}`")
                yield Problem(PAGE, number, f"{name} is not defined in {file}", "correct the name or its file")


def walks_are_in_the_order_of_the_code(tree: Tree) -> Iterator[Problem]:
    """If a step calls two others of its walk, directly or not, they stand in the order of their first calls; or one
    above the other that it calls itself."""
    held = 0
    for heading, steps in _walks(tree).items():
        for start in {place for _, place in steps} if heading != IN_A_STEP else ():
            called = {place: i for i, place in enumerate(calls(tree, start))}
            reached = [(line, place) for line, place in steps if place in called and place != start]
            held = max(held, len(reached))
            for (_, first), (line, second) in itertools.combinations(reached, 2):
                if called[first] > called[second] and second not in calls(tree, first):
                    found = f"{start.name} calls {second.name} before {first.name}"
                    yield Problem(PAGE, line, found, "write the steps in this order")
    if held < 8:
        yield Problem(PAGE, tree.line_of(PAGE, f"## {WALKS}"), f"{held} steps follow from one", "name what calls them")


def a_step_is_in_the_order_of_the_code(tree: Tree) -> Iterator[Problem]:
    """The hooks of the module are in the order of its file, and the callbacks in that of `run_callbacks`."""
    steps = _walks(tree).get(IN_A_STEP, [])
    line = steps[0][0] if steps else 1
    hooks = [p.name for _, p in steps if p.file == MODULE]
    callbacks = [p.name for _, p in steps if p.file.startswith(CALLBACKS)]
    for noun, place, listed, expected in (
        ("hooks", MODULE, hooks, sorted(hooks, key=list(definitions(tree, MODULE)).index)),
        ("callbacks", FIT, callbacks, [name for name in _callbacks(tree) if name not in AFTER_VALIDATION]),
    ):
        if not listed or listed != expected:
            yield Problem(PAGE, line, f"the {noun} are {', '.join(listed)}", f"write {', '.join(expected)}, as {place}")


def walks_are_short(tree: Tree) -> Iterator[Problem]:
    """A walk names few files, and none of those with a limit is long."""
    for heading, most in MOST_FILES.items():
        places = _walks(tree).get(heading, [])
        files = sorted({place.file for _, place in places})
        line = places[0][0] if places else 1
        if len(files) > most:
            yield Problem(PAGE, line, f"{heading!r} has {len(files)} files", f"let a reader open {most}")
        for file in files:
            if (length := len(tree.text(file).splitlines())) > LONGEST:
                yield Problem(PAGE, line, f"{heading!r} leads to {file} with {length} lines", f"at most {LONGEST}")


def _walks(tree: Tree) -> dict[str, list[tuple[int, Place]]]:
    """The steps of each walk by its heading: their lines, and the functions and classes that they name."""
    walks: dict[str, list[tuple[int, Place]]] = {}
    steps: list[tuple[int, Place]] = []
    for number, line in tree.section(PAGE, WALKS):
        if line.startswith("### "):
            steps = walks.setdefault(line.removeprefix("### "), [])
        for row in rows(iter([(number, line)])):
            steps += [(number, place) for place in _places(tree, row)]
    return walks


def _places(tree: Tree, row: Row) -> Iterator[Place]:
    """The places in a row that exist; those that do not are problems of `named_places_exist`."""
    for names, file in STEP.findall(" | ".join(row.cells)):
        for name in re.findall(r"`([\w.]+)`", names) if tree.exists(file) else []:
            if name in definitions(tree, file):
                yield Place(file, name)


def _callbacks(tree: Tree) -> list[str]:
    """The classes in the list that `run_callbacks` returns, without those of the caller."""
    function = definitions(tree, FIT)["run_callbacks"]
    assert isinstance(function, ast.FunctionDef)
    types = {argument.arg: ast.unparse(argument.annotation) for argument in function.args.args if argument.annotation}
    returned = next(node.value for node in function.body if isinstance(node, ast.Return))
    names = [ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in getattr(returned, "elts", [])]
    return [types.get(name, name) for name in names if not name.startswith("*")]
