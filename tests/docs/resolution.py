"""A page's blocks and inline code without running them: commands are parsed, configs are resolved, keys, paths
and modules of Python exist.

A training leaves its config.yaml in its run folder, so that later commands resolve overrides of the run. A package is
written from its template, and its classes are imported.
"""

import argparse
import ast
import dataclasses
import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from densevit import cli, registry
from densevit import config as configs
from densevit.config import Config, yaml_io
from densevit.errors import ConfigError, DensevitError
from densevit_workbench.doctor.source import config_or_data
from tests.docs import known_keys, meta_weights
from tests.docs.code_blocks import PROGRAMS, Block, Page
from tests.docs.inline_code import KEY, OVERRIDE, PATH, SOURCE, Inline

PLACEHOLDER = re.compile(r"(?:my_?\w+(?::\w+)?|[A-Z][A-Z_]*)(?:/\S*)?")  # RUN, FILE, RUN/checkpoints, my_net
SYNOPSIS = re.compile(r"\[-|\[[^=\]]*=|\.\.\.|\|| \[")  # CONFIG [section.key=value ...]
FILES = (".csv", ".json", ".npz", ".yaml")  # `data.yaml` is no key
MODEL_FILES = (".bin", ".onnx", ".pkl", ".pt", ".pt2", ".pth", ".safetensors")
OWN_CLASS = re.compile(r"(?:my_\w+|own_dataset)[\w.]*:\w+")  # of the reader's, and of an example
# Flags, paths and keys of other programs, projects and plugins.
OTHERS = (
    "backbone.layers",
    "backbone.layers.width=128",
    "densevit data count",
    "--ignore-scripts",
    "--no-deps",
    "--requeue",
    "--shm-size",
    "--signal",
    "--stronglyTyped",
    "tools/dataset_converters/pascal_context.py",
)
# Attributes in Python that are no keys.
ATTRIBUTES = (
    "backbone.input_size",
    "heads.NAME.channels",
    "heads.NAME.classes",
    "heads.NAME.strides",
    "trainer.save_checkpoint",
)
SECTION_FOLDERS = ("backbone", "benchmark", "data")


@dataclass
class ResolvedPage(Page):
    """The runner of a page whose blocks are parsed and resolved. models: the config and the overrides of checkpoints
    and published models that the page names. written: files and folders that its commands would have written."""

    models: dict[str, Sequence[str]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    recipe: str = ""  # whose comments are resolved
    contexts: list[Sequence[str]] = field(default_factory=list)  # recipes with overrides, to which further ones belong
    paragraph: int = 0
    named: list[Sequence[str]] = field(default_factory=list)  # recipes in the paragraph
    is_inline: bool = False
    compares_weights: bool = False
    compared: set[str] = field(default_factory=set)  # weights whose names and shapes were compared

    def _run(self, block: Block | Inline) -> None:
        self.is_inline = isinstance(block, Inline)
        if not isinstance(block, Inline):
            super()._run(block)
            return
        self.place(self, block)  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.cwd)
            self._inline(block)

    # ---- inline code ----

    def _inline(self, code: Inline) -> None:
        if code.paragraph != self.paragraph:
            self.paragraph, self.named = code.paragraph, []
        try:
            words = shlex.split(code.text, comments=True)
        except ValueError:  # an apostrophe
            return
        text, name = " ".join(words), words[0] if words else ""
        if "&&" in words:
            for part in re.split(r"\s*&&\s*", code.text):
                self._inline(dataclasses.replace(code, text=part))
        elif text in OTHERS + ATTRIBUTES or ("*" in text and re.fullmatch(KEY, text)):
            return
        elif name in PROGRAMS or (words[1:] and self._is_command(words)):
            self._inline_command(words if name in PROGRAMS else ["densevit", *words], code.text)
        elif name.startswith("--"):
            self._flags([word.partition("=")[0] for word in words if word.startswith("--")])
        elif words and all(re.fullmatch(OVERRIDE, word) for word in words):
            self._overrides(words)
        elif re.fullmatch(KEY, text) and (self.cwd / text).suffix not in FILES:
            known_keys.check(text)
        elif re.fullmatch(SOURCE, text):
            if self.recipe and self.contexts:
                self._overrides([f"backbone.weights={text}"])
        elif re.fullmatch(rf"{PATH}(?:::\w+)?", text):
            self._path(text)
        elif code.page == "docs/versions.md":  # which has recipes' old names
            return
        elif re.fullmatch(r"[\w.]*/?\w+(?:\.yaml)?", name) and all("=" in word for word in words[1:]):
            self._recipe(name, words[1:])

    def _is_command(self, words: Sequence[str]) -> bool:
        commands = registry.find("commands")
        return words[0] in commands or " ".join(words[:2]) in commands

    def _inline_command(self, words: Sequence[str], text: str) -> None:
        if list(words[:3]) == ["python", "-m", "densevit"]:
            words = words[2:]
        elif list(words[:2]) == ["python", "-m"] and words[2].startswith("tools."):
            words = ["python", f"{words[2].replace('.', '/')}.py", *words[3:]]
        program, *rest = [word for word in words if word not in ("--help", "--version")]
        flags = re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(rest))
        is_synopsis = bool(SYNOPSIS.search(text)) or (rest[-1:] == flags[-1:] and not is_switch(flags[-1:]))
        match program, rest:
            case "densevit" | "python" | "pip" | "pytest" | "torchrun", []:
                return
            case "densevit", [name, *_] if PLACEHOLDER.fullmatch(name):
                return
            case "densevit", [*_] if is_synopsis:
                name = " ".join(rest[:2]) if " ".join(rest[:2]) in registry.find("commands") else rest[0]
                assert name in registry.find("commands"), f"there is no command {name!r}"
                self._flags(flags, cli.command(name)[1])
            case "python", ["-c", code]:
                self._python(Block("", 0, "python", code, ""))
            case "python", [file, *_] if file.endswith(".py"):
                file = file.removeprefix(".../")
                file = file if (self.cwd / file).is_file() else f"examples/{file}"
                self._script(file, flags if is_synopsis else rest[1:])
            case "pytest", [*_]:
                for path in rest:
                    if path.startswith("tests"):
                        self._path(path)
            case "pip", ["install", *_] if not any(".[" in word for word in rest):
                return
            case _:
                self._command([program, *rest])

    def _flags(self, flags: Sequence[str], *parsers: argparse.ArgumentParser) -> None:
        """Flags are of one of the parsers; without, of any command, or of a program of tools/."""
        known = {flag for one in parsers or all_parsers() for flag in one._option_string_actions}
        for flag in flags:
            if flag not in known and flag not in OTHERS and not (not parsers and flag in flags_of_tools(self.project)):
                raise AssertionError(f"no command has the flag {flag}")

    def _overrides(self, words: Sequence[str]) -> None:
        """Overrides that follow one another, of a recipe that the paragraph or the comments name; else of any."""
        words = self._known([part for word in words for part in of_folder(word)])
        errors: list[Exception] = []
        names_weights = any(re.search(r"\bweights[=:]", word) for word in words)
        for recipe, *others in (self.named if names_weights else []) or self.contexts:
            try:
                self.trained(recipe, [*others, *words])
            except (DensevitError, AssertionError) as error:
                errors.append(error)
            else:
                return
        if errors:
            raise errors[0]
        for word in words:
            known_keys.check(word)

    def _known(self, overrides: Sequence[str]) -> list[str]:
        """The overrides without those of a placeholder, whose key is checked alone."""
        for word in overrides:
            if without_placeholder(word) != word:
                known_keys.check(without_placeholder(word))
        return [word for word in overrides if without_placeholder(word) == word]

    def _path(self, text: str) -> None:
        file, _, function = text.partition("::")
        found = [*self.project.glob(file.rstrip("/"))]
        if not found and not (self.cwd / file).exists():
            raise AssertionError(f"there is no {file}")
        if function and f"def {function}(" not in found[0].read_text():
            raise AssertionError(f"{file} has no {function}")

    def _recipe(self, name: str, overrides: Sequence[str]) -> None:
        """A recipe, or a file of the configs: by its name, or in comments relative to their file."""
        shipped, plain = yaml_io.shipped_configs(), name.removeprefix("../").removesuffix(".yaml")
        folder = Path(self.recipe).parent
        if name.endswith(".yaml") and self.recipe:
            if not (self.project / folder / name).exists() and not (self.project / "configs" / name).exists():
                raise AssertionError(f"there is no {name} beside {self.recipe}")
        elif plain in shipped and plain.partition("/")[0] not in SECTION_FOLDERS:
            self.named.append((plain, *overrides))
            if overrides:
                self.trained(plain, overrides)
        elif (
            plain not in shipped
            and "/" in plain
            and not re.search("[A-Z]{2}", plain)
            and plain.partition("/")[0] in {one.partition("/")[0] for one in shipped}
        ):
            raise AssertionError(f"there is no recipe {plain}")

    # ---- Python ----

    def _python(self, block: Block) -> None:
        """Written files are imported; `test_blocks_of_the_page_run` runs the others."""
        tree = ast.parse(block.text, block.id)
        if block.file is not None:
            self._import(self._written(block))
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            for name in [node.module or ""] if isinstance(node, ast.ImportFrom) else names:
                importlib.import_module(name)

    def _pytest(self, *files: Path) -> None:
        for file in files or sorted((self.cwd / "tests").glob("test_*.py")):
            functions = [one.name for one in ast.walk(ast.parse(file.read_text())) if isinstance(one, ast.FunctionDef)]
            assert any(name.startswith("test_") for name in functions), f"{file.name} has no tests"

    # ---- commands ----

    def _script(self, file: str, arguments: Sequence[str]) -> None:
        assert (self.cwd / file).is_file(), file
        if Path(file).parent == Path("tools") and Path(file).stem in registry.find("commands"):
            self._densevit([Path(file).stem, *arguments])
            return
        flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        wrong = flags - flags_of_program(self.cwd / file)
        assert not wrong, f"{file} has no {', '.join(sorted(wrong))}"
        overrides = [word for word in arguments if re.fullmatch(OVERRIDE, word)]
        if overrides and (fitted := fitted_config(self.cwd / file)):
            self.trained(fitted[0], [*fitted[1:], *overrides])

    def _processes(self, arguments: Sequence[str], command: Sequence[str]) -> None:
        self._densevit(command)

    def _densevit(self, arguments: Sequence[str]) -> None:
        words = 2 if arguments[0] == "data" else 1
        name = " ".join(arguments[:words])
        assert name in registry.find("commands"), f"there is no command {name!r}"
        _, parser = cli.command(name)
        if any(PLACEHOLDER.fullmatch(word) for word in arguments):
            for action in parser._actions:
                action.type = action.choices = None
        if self.is_inline:
            for action in parser._actions:
                if not action.option_strings:
                    action.nargs = {None: "?", "+": "*"}.get(action.nargs, action.nargs)  # type: ignore[call-overload]
        try:
            given = parser.parse_intermixed_args(arguments[words:])
        except SystemExit:
            raise AssertionError(f"the arguments of densevit {' '.join(arguments)} are wrong") from None
        resolve = getattr(self, f"resolve_{name}", None)
        if name == "new" and not self.is_inline:
            assert cli.main([*arguments, "--quiet"]) == 0
        elif resolve is not None and not (self.is_inline and is_incomplete(given)):
            resolve(given)
        if isinstance(out := getattr(given, "out", None), Path) and name != "new":
            self.written.add(str(out))

    def resolve_train(self, given: argparse.Namespace) -> None:
        if given.resume is not None:
            overrides = [one for one in (given.config, *given.overrides) if one is not None]
            self.config(str(given.resume), overrides)
            return
        overrides = [part for word in given.overrides for part in of_folder(word)]
        if self.is_inline:
            overrides = self._known(overrides)
        config = self.trained(given.config, overrides)
        name = "CONFIG" if PLACEHOLDER.fullmatch(given.config) else yaml_io.run_name(given.config)
        self.leave_run(given.run_dir or Path("runs") / name, config)

    def trained(self, source: str, overrides: Sequence[str]) -> Config:
        """The config of a training, whose weights fit its model as far as they are known."""
        key, _, file = next((one for one in overrides if one.endswith("weights=FILE")), "").partition("=")
        if not file:
            config = self.config(source, overrides)
            if self.compares_weights:
                self.compared |= {*meta_weights.compare(config, self.model_of)}
            return config
        named = weights_in_comments(source)
        keys = {name for name, _ in named}
        assert not keys or key in keys, f"{source} starts from {' or '.join(keys)}= by its comments, not {key}=FILE"
        for name, weights in named:
            if name == key:
                self.trained(source, [weights if one == f"{key}=FILE" else one for one in overrides])
        return self.config(source, overrides)

    def model_of(self, source: str) -> Config | None:
        """The config of the model in a run folder or a published file."""
        if source in self.models:
            return configs.load(self.models[source][0], self.models[source][1:])
        return configs.load(source) if (self.cwd / source / "config.yaml").is_file() else None

    def leave_run(self, folder: Path, config: Config) -> None:
        folder = self.cwd / folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(configs.dump(config))

    def config(self, source: str, overrides: Sequence[str] = ()) -> Config:
        """The config of a file, a run or a shipped name; without sections from files that only a command writes."""
        known = [one for one in overrides if str(Path(one.partition("=")[2]).parent) not in self.written]
        if not self.is_inline or not self._is_placeholder(source):
            return self._checked(source, known)
        errors = []
        for recipe in known_keys.RECIPES:
            try:
                config = self._checked(recipe, known)
            except ConfigError as error:
                errors.append(error)
            else:
                if self.recipe:
                    self.contexts += [(one, *known) for one in known_keys.RECIPES]
                return config
        raise errors[0]

    def _checked(self, source: str, overrides: Sequence[str]) -> Config:
        if any(".NAME." in one for one in overrides):
            name = known_keys.head_names(source)[0]
            overrides = [one.replace(".NAME.", f".{name}.") for one in overrides]
        config = configs.load(source, overrides)
        configs.check_plugins(config)
        return config

    def _is_placeholder(self, source: str) -> bool:
        """Whether any recipe stands for it: CONFIG, RUN, or a run or a model that the page does not make."""
        is_model = source.startswith(("runs/", "hf:", "timm:")) or Path(source).suffix in MODEL_FILES
        return bool(PLACEHOLDER.fullmatch(source)) or (is_model and not (self.cwd / source).exists())

    def resolve_evaluate(self, given: argparse.Namespace) -> None:
        model = given.model.removesuffix("/model.onnx")
        configs.check_evaluation_overrides(given.overrides)
        config, *overrides = self.models.get(model, (model,))
        self.config(config, [*overrides, *given.overrides])

    def resolve_export(self, given: argparse.Namespace) -> None:
        if given.overrides:
            self.resolve_evaluate(given)

    def resolve_convert(self, given: argparse.Namespace) -> None:
        """A published model that a recipe's comments convert is the recipe's."""
        if given.to is None and self.recipe and self.contexts:
            self.models.setdefault(given.source, self.contexts[0])
        if given.to is None and given.source in self.models:
            config, *overrides = self.models[given.source]
            self.leave_run(given.out, self.config(config, [*overrides, *given.overrides]))

    def resolve_config(self, given: argparse.Namespace) -> None:
        self.config(given.config, given.overrides)

    def resolve_doctor(self, given: argparse.Namespace) -> None:
        if given.source is None or PLACEHOLDER.fullmatch(given.source):
            return
        if not Path(given.source).expanduser().is_absolute():  # else a data set's folder
            found = config_or_data(given.source, "doctor", given.overrides)
            if isinstance(found, Config):
                configs.check_plugins(found)

    def resolve_benchmark(self, given: argparse.Namespace) -> None:
        from densevit_workbench.benchmarking.cases import cases_of_protocol

        names = [name for name in given.backbones or () if not (self.is_inline and PLACEHOLDER.match(name))]
        if names:
            for case in cases_of_protocol(given.protocol, names, given.heads, given.configs):
                case.config()
        for source in given.configs:
            if "=" not in source and not source.endswith(".onnx"):
                self.config(source)

    def resolve_check(self, given: argparse.Namespace) -> None:
        from densevit_workbench.commands.check import read_options

        if not PLACEHOLDER.fullmatch(given.name):
            registry.check_options(f"{given.kind}s", given.name, read_options(given.options), given.kind)


# ---- flags, and the configs that programs and comments name ----


def all_parsers() -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands."""
    return (cli.command(name)[1] for name in registry.find("commands"))


def is_switch(flags: Sequence[str]) -> bool:
    """Whether a command has such a flag without a value."""
    options = [parser._option_string_actions.get(flag) for parser in all_parsers() for flag in flags]
    return any(action is not None and action.nargs == 0 for action in options)


@cache
def flags_of_tools(project: Path) -> set[str]:
    return {flag for file in (project / "tools").rglob("*.py") for flag in flags_of_program(file)}


@cache
def flags_of_program(file: Path) -> set[str]:
    """The flags that a program, or the modules beside it that it imports, add to a parser."""
    text = file.read_text()
    beside = (file.parent / f"{name}.py" for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    texts = [text, *(one.read_text() for one in beside if one.is_file() and one != file)]
    return {flag for one in texts for flag in re.findall(r'"(--[\w-]+)"', one)}


def fitted_config(file: Path) -> list[str]:
    """The config and the overrides that a program passes to `densevit.fit`, as far as they are constants."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "densevit.fit":
            lists = [one.value.elts for one in node.keywords if isinstance(one.value, ast.List)]
            given = [*node.args, *(item for elements in lists for item in elements)]
            return [one.value for one in given if isinstance(one, ast.Constant)]
    return []


def is_incomplete(given: argparse.Namespace) -> bool:
    """Whether a command in a text lacks its model, its config or its plugin, as `densevit evaluate --out DIR`."""
    return all(
        getattr(given, name, None) is None for name in ("config", "resume", "model", "source", "name", "configs")
    )


def without_placeholder(override: str) -> str:
    """The key alone of `seed=N`, and of a class of the reader's own."""
    key, _, value = override.partition("=")
    is_placeholder = re.fullmatch(r"[A-Z]+|\.\.\.|\$\w+", value) and not key.endswith(("weights", "root"))
    is_own = OWN_CLASS.fullmatch(value) or value in ("data.yaml", "mine.yaml", "mynet")
    return key if is_placeholder or is_own else override


def of_folder(override: str) -> list[str]:
    """`data=~/FOLDER` and `data=~/FOLDER/data.yaml`, which are short for `data=folder data.root=~/FOLDER`."""
    key, _, value = override.partition("=")
    return ["data=folder", f"data.root={value}"] if key == "data" and value.startswith("~/") else [override]


def weights_in_comments(source: str) -> list[tuple[str, str]]:
    """The key and the override of weights that the comments of a recipe, or of its bases, start it from.

    For FILE they are the published weights that the comments name.
    """
    try:
        file = yaml_io.find_file(source)
    except ConfigError:
        return []
    found: list[tuple[str, str]] = []
    text = file.read_text()
    comments = " ".join(line[1:].strip() for line in text.split("\n") if line.startswith("#"))
    for key, value in re.findall(r"(?:^|\s)((?:backbone\.)?weights)=(\S*\w)", comments):
        named = re.findall(SOURCE, re.sub(r"densevit convert.*", "", comments)) if value == "FILE" else [value]
        found += [(key, f"{key}={one}") for one in named] or [(key, f"{key}=FILE.unknown")]
    base = re.search(r"^base: (\S+)", text, re.MULTILINE)
    return found or (weights_in_comments(str(file.parent / base[1])) if base else [])
