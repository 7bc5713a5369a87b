"""Words and names that the project does not use."""

import ast
import re
from collections.abc import Iterator
from configparser import ConfigParser

from tools.conventions.tree import Problem, Tree, line_at

WORDS = {
    "pictures?": "image",
    "mend(?:s|ed|ing)?": "fix",
    "(?:un)?learnt": "learned",
    "spoilt": "noised or damaged",
    "stands? twice": "occurs twice",
    "doubled ids?": "duplicate id",
    "(?:is|are) told": "is reported",
    "asked for": "requested",
    "anew": "again",
    "unrecorded": "unsaved",
    "usage options?": "runtime option",
    "(?:file|json) an image|line an object": "one ... per ...",
}
WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
FRAGMENT = r"(?:of|for|in|on|at|by|to|from|with|without|before|after|below|per|as|see|theirs)\b"
# A docstring's first sentence, and a note of a parameter, "top: the most objects in an image", not "top: of an image".
REFERENCE = re.compile(rf'"""(?:See|As|Of|By) .*|(?:^ *|[.;] )(?:\w+, )*[a-z]\w*: {FRAGMENT}.*', re.MULTILINE)
UTILITIES = ("utils", "util", "misc", "common", "helpers")
UNCLEAR = (
    *("quiet", "views", "strips", "likeliest", "kept", "whole", "unused", "averaging", "arrival", "initial", "fitting"),
    *("inert", "writing", "reading", "draws", "pictures", "pipeline", "processes", "patterns", "assignment"),
)
MODULES = {
    **dict.fromkeys(UTILITIES, "put its functions where they are used"),
    **dict.fromkeys(UNCLEAR, "name it by the noun that one would search for"),
}
NAMES = (
    *("found", "one", "own", "known", "mine", "whole", "fresh", "unrecorded", "usage_options", "spoilt", "located"),
    *("confer", "attend", "think", "pick", "prepared", "picture", "pictures", "given", "ours", "theirs", "others"),
    *("place", r"of_\w+"),
)
NAME = re.compile(rf"_*(?:{'|'.join(NAMES)})_*", re.IGNORECASE)
FOLDERS = ("densevit", "plugins", "configs", "docs", "tools", "examples", "tests")
CODE = ("densevit/**/*.py", "plugins/**/*.py", "tools/**/*.py", "examples/**/*.py")
EXCEPT = ("tools/conventions/words.py", "tests/tools/test_conventions.py")  # which name the words


def words_are_the_standard_ones(tree: Tree) -> Iterator[Problem]:
    """In docstrings, comments, messages, pages and configs."""
    patterns = [f"{folder}/**/*.{suffix}" for folder in FOLDERS for suffix in ("py", "md", "yaml", "html")]
    for file in tree.files("*.md", *patterns):
        for match in WORD.finditer(tree.text(file)) if file not in EXCEPT else ():
            word = next(word for pattern, word in WORDS.items() if re.fullmatch(pattern, match[0], re.IGNORECASE))
            yield Problem(file, line_at(match), f"the word '{match[0]}'", f"write {word}")


def docstrings_say_what_a_thing_is(tree: Tree) -> Iterator[Problem]:
    for file in tree.files(*CODE):
        for match in REFERENCE.finditer(tree.text(file)) if file not in EXCEPT else ():
            yield Problem(file, line_at(match), f"the docstring has '{match[0].strip()}'", "say what the thing is")


def names_say_what_they_are(tree: Tree) -> Iterator[Problem]:
    """Names of classes, functions, arguments, and targets of assignments, loops and comprehensions."""
    for file in tree.files(*CODE):
        for name, line in defined_names(tree.module(file)):
            if NAME.fullmatch(name):
                yield Problem(file, line, f"the name {name}", "name what it is: boxes, row, head_options")


def defined_names(module: ast.Module) -> Iterator[tuple[str, int]]:
    """The names that a module defines at any depth, with their lines."""
    for node in ast.walk(module):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
                | ast.arg(arg=name)
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.ExceptHandler(name=str(name))
                | ast.alias(asname=str(name))
            ):
                yield name, node.lineno


def kinds_are_types(tree: Tree) -> Iterator[Problem]:
    """A variable `kind` holds a class, as far as annotations and literals show it."""
    for file in tree.files(*CODE):
        for node in ast.walk(tree.module(file)):
            match node:
                case (
                    ast.arg(arg="kind", annotation=ast.expr() as held)
                    | ast.AnnAssign(target=ast.Name(id="kind"), annotation=held)
                    | ast.Assign(
                        targets=[ast.Name(id="kind")], value=(ast.Constant(value=str()) | ast.JoinedStr()) as held
                    )
                ) if not re.search(r"\btype\b", text := ast.unparse(held)):
                    yield Problem(file, node.lineno, f"kind is {text}, not a type", "name what it is: task, suffix")


def classes_have_one_name(tree: Tree) -> Iterator[Problem]:
    """No class has the name of another. Packages that register backbones, necks or heads repeat layers' names of papers
    among themselves."""
    setup = ConfigParser(interpolation=None)
    setup.read_string(tree.text("setup.cfg") if tree.exists("setup.cfg") else "")
    groups = (f"densevit.{group}" for group in ("backbones", "necks", "heads"))
    registered = "\n".join(setup.get("options.entry_points", group, fallback="") for group in groups)
    paper_packages = set(re.findall(r"= (\w+)", registered))
    defined: dict[str, list[tuple[str, bool]]] = {}
    for file in tree.files("densevit/**/*.py", "plugins/**/*.py"):
        is_paper = file.removeprefix("plugins/").partition("/")[0] in paper_packages
        for node in tree.module(file).body:
            if isinstance(node, ast.ClassDef):
                for other, is_other_paper in defined.setdefault(node.name, []):
                    if not (is_paper and is_other_paper):
                        message = f"a class {node.name} is in {other}, too"
                        yield Problem(file, node.lineno, message, "name it by the field's word for what it is")
                defined[node.name].append((file, is_paper))


def modules_are_named_by_their_subject(tree: Tree) -> Iterator[Problem]:
    for file in tree.files(*(f"{folder}/**/*.py" for folder in FOLDERS)):
        module = file.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]
        if module in MODULES:
            yield Problem(file, 1, f"a module called {module}", MODULES[module])
