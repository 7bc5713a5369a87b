"""Runs the code blocks of a page.

A page is a session in one working directory, which is also on sys.path: its blocks run in order, and use the names,
files and runs of those before them. A block whose preceding line names a file and ends with a colon, or whose first
line is a comment with a file name, is written to that file. Shell blocks are read by bash, with functions in place of
the programs, and their commands run in this process.
"""

import configparser
import importlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from densevit import config as configs
from densevit import registry
from densevit.cli import main
from densevit.errors import ConfigError
from densevit_probes.protocols import Protocol
from tests.distributions import write_distribution
from tests.docs.built import build
from tests.docs.code_blocks import Block
from tests.written_files import write_text

PROGRAMS = ("densevit", "python", "pip", "pytest", "torchrun")
DEVELOPMENT = ("git", "mkdocs", "mypy", "ruff", "tools/check")  # accepted, and not run
RECORDED = r"""
record() { printf '%s\0' "$@" >> "$CALLS"; printf '\n\0' >> "$CALLS"; }
srun() { "$@"; }
sbatch() { SLURM_ARRAY_JOB_ID=1 SLURM_ARRAY_TASK_ID=0; while [ "${1#--}" != "$1" ]; do
    case "$1" in *=*) shift;; *) shift 2;; esac; done; source "$@"; }
cd() { record cd "$@"; }
"""
ONCE = ("doctor", "check", "evaluate")  # no later block needs what they write: one page runs equal commands
SHORTER: Mapping[str, Sequence[str]] = {  # arguments that win over those of the page
    "benchmark": ("--images", "4", "--rates", "1e-3", "--rounds", "1", "--batches", "1"),
    "probe": ("data.train_length=16", "data.val_length=8", "trainer.max_images=16"),
    "scenes": ("--count", "4", "--size", "64"),
}


@dataclass
class Page:
    """Runs the blocks of one page, which share a working directory and the names of Python.

    place: `place(page, block)` puts what the block names, such as data sets and runs, into the folders. train: runs
    `densevit train` with these arguments. repeats: whether an earlier page runs a command of ONCE. words: placeholders
    in commands, such as CONFIG, and what they stand for. edits: regular expressions in Python code and what replaces
    them.
    """

    folder: Path
    home: Path
    project: Path
    blocks: Sequence[Block]
    place: Callable[["Page", Block], None]
    train: Callable[[Sequence[str]], None] = lambda arguments: run_command(arguments)
    repeats: Callable[[str, Sequence[str]], bool] = lambda page, arguments: False
    words: Mapping[str, str] = field(default_factory=dict)
    edits: Mapping[str, str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    cwd: Path = field(init=False)

    def __post_init__(self) -> None:
        self.cwd = self.folder
        self.path = list(sys.path)
        sys.path.insert(0, str(self.folder))

    def close(self) -> None:
        """Removes its folder, and its modules from this process."""
        sys.path[:] = self.path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{self.folder}{os.sep}"):
                del sys.modules[name]
        importlib.invalidate_caches()
        shutil.rmtree(self.folder)

    def run(self, block: Block) -> None:
        """Runs a block, after those above it. Raises AssertionError with its line for any error."""
        try:
            self._run(block)
        except (Exception, pytest.fail.Exception) as error:
            raise AssertionError(f"{block.id}: {type(error).__name__}: {error}") from error

    def _run(self, block: Block) -> None:
        self.place(self, block)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.cwd)
            if block.file is not None and (self.cwd / block.file).is_file():
                (self.cwd / block.file).unlink()  # it may be a link
            getattr(self, f"_{block.language}")(block)

    # ---- Python ----

    def _python(self, block: Block) -> None:
        if block.file is not None:
            return self._import(self._written(block))
        code = "\n" * block.line + block.text  # lines of errors are those of the page
        for pattern, replacement in self.edits.items():
            code = re.sub(pattern, replacement, code)
        exec(compile(code, self.project / block.page, "exec"), self.names)

    def _written(self, block: Block) -> Path:
        return write_text(self.cwd / (block.file or f"block_{block.line}.yaml"), block.text)

    def _import(self, file: Path) -> None:
        """Imports a file again, as the module that it is. The functions of a test file run."""
        name = ".".join(file.relative_to(self.cwd).with_suffix("").parts).removesuffix(".__init__")
        for other in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
            del sys.modules[other]
        importlib.invalidate_caches()
        if file.name.startswith("test_"):
            self._pytest(file)
        else:
            importlib.import_module(name)

    def _pytest(self, *files: Path) -> None:
        for file in files or sorted((self.cwd / "tests").glob("test_*.py")):
            functions = {name: one for name, one in runpy.run_path(str(file)).items() if name.startswith("test_")}
            assert functions, f"{file.name} has no tests"
            for function in functions.values():
                function()

    # ---- configs ----

    def _yaml(self, block: Block) -> None:
        """A config, a part of one over a recipe, a section `data` or a protocol is valid, with the options of its
        plugins, and its model is built."""
        file, values = self._written(block), yaml.safe_load(block.text)
        assert isinstance(values, dict)
        if "name" in values:
            config = configs.load("detr_swin", [f"data={file}"])
        elif "probes" in values:
            config = Protocol.read(str(file)).config({"name": "pixels"})
        else:
            if "base" not in values and not {"backbone", "heads", "data", "trainer"} <= values.keys():
                file = self.cwd / f"block_{block.line}.yaml"
                base = "setr_vit" if values.keys() == {"inference"} else "detr_swin"  # flips are of dense heads
                file.write_text(f"base: {base}\n{block.text}")
            config = configs.load(file)
        try:
            configs.check_plugins(config)
            build(config)
        except ConfigError as error:
            if "is not installed" not in str(error):
                raise

    def _ini(self, block: Block) -> None:
        """Entry points of groups that exist; they are installed, unless an installed package has them."""
        text = block.text if block.text.startswith("[") else f"[options.entry_points]\n{block.text}"
        groups = entry_points(text)
        assert groups
        for group, points in groups.items():
            assert group.removeprefix("densevit.") in registry.PLUGIN_GROUPS, group
            known = registry.find(group.removeprefix("densevit."))
            for name, value in points.items():
                if name not in known and importlib.util.find_spec(value.partition(":")[0].partition(".")[0]):
                    self.install(f"page-{name}", {group: {name: value}})

    # ---- shell ----

    def _bash(self, block: Block) -> None:
        submissions = 2 if block.text.startswith("sbatch ") else 1  # and a requeued one
        for argv in (one for _ in range(submissions) for one in self.commands(block.text)):
            self._command([re.sub(r"\b[A-Z]{3,}\b", lambda m: self.words.get(m[0], m[0]), part) for part in argv])

    def commands(self, script: str) -> list[list[str]]:
        """The commands of a script, as bash reads it."""
        calls = self.folder / "calls"
        calls.write_text("")
        functions = "".join(f'{name}() {{ record {name} "$@"; }}\n' for name in PROGRAMS + DEVELOPMENT)
        script = re.sub(r"(?<=[\s=])/(shared|tmp)/", rf"{self.folder}/\1/", script)
        environment = {**os.environ, "CALLS": str(calls)}
        done = subprocess.run(
            ["bash", "-euc", f"{RECORDED}{functions}{script}"],
            cwd=self.cwd, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert calls.read_text(), "the block runs no command"
        return [call.split("\0")[:-1] for call in calls.read_text().split("\n\0")[:-1]]

    def _command(self, argv: Sequence[str]) -> None:
        program, *rest = argv
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.cwd)
            match program, rest:
                case "cd", [folder]:
                    self.cwd = (self.cwd / folder).resolve(strict=True)
                    sys.path.insert(0, str(self.cwd))
                case "densevit", [_, *_]:
                    self._densevit(rest)
                case "python", ["-m", "pip" | "pytest" as module, *arguments]:
                    self._command([module, *arguments])
                case "python", [file, *arguments]:
                    patch.setattr(sys, "argv", [file, *arguments])
                    self._script(file, arguments)
                case "pip", ["install", *arguments]:
                    self._pip(arguments)
                case "pytest", []:
                    if self.cwd == self.folder:  # the project's own
                        assert configparser_of(self.project / "setup.cfg")["tool:pytest"]["testpaths"] == "tests"
                    else:
                        self._pytest()
                case "torchrun", _:
                    self._torchrun(rest)
                case _ if program not in DEVELOPMENT:
                    raise AssertionError(f"cannot run {' '.join(argv)}")

    def _densevit(self, arguments: Sequence[str]) -> None:
        self._place_weights(arguments)
        if arguments[0] == "train":
            self.train(arguments)
        elif arguments[0] not in ONCE or not self.repeats(self.blocks[0].page, arguments):
            run_command(arguments)

    def _script(self, file: str, arguments: Sequence[str]) -> None:
        """Runs a script of the project; `sys.argv` is set."""
        self._place_weights([Path(file).stem, *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(file, run_name="__main__")
        assert not stop.value.code, f"python {file} {' '.join(arguments)}"

    def _place_weights(self, arguments: Sequence[str]) -> None:
        """Writes the FILE of `backbone.weights=FILE`: random weights of the config's backbone."""
        if "backbone.weights=FILE" not in arguments:
            return
        import densevit

        _, config, *others = [one for one in arguments if one != "backbone.weights=FILE"]
        file, weights = self.cwd / "FILE", self.cwd / "weights.safetensors"
        file.unlink(missing_ok=True)
        densevit.save(densevit.create_model(configs.load(config, others), pretrained=False), weights)
        weights.rename(file)

    def _pip(self, arguments: Sequence[str]) -> None:
        """`pip install -e '.[extra]'` has extras that exist; `pip install -e FOLDER` installs entry points.

        densevit is in no index: `pip install densevit` would install another package of that name.
        """
        target, _, extras = arguments[-1].rstrip("]").partition("[")
        if target == "." and self.cwd == self.folder:
            known = configparser_of(self.project / "setup.cfg")["options.extras_require"]
            wrong = set(filter(None, extras.split(","))) - set(known)
            assert not wrong, f"setup.cfg has no extra {wrong}"
        elif arguments[0] == "-e":
            folder = (self.cwd / target).resolve(strict=True)
            file = folder / "setup.cfg"
            sys.path.insert(0, str(folder))
            self.install(configparser_of(file)["metadata"]["name"], entry_points(file.read_text()))
        else:
            assert target != "densevit", "densevit is in no package index: pip install -e '.[extra]'"
            assert all(re.fullmatch(r"[\w.:/-]+", one) for one in (*arguments[:-1], target)), f"cannot install {target}"

    def install(self, name: str, groups: Mapping[str, Mapping[str, str]]) -> None:
        """Puts the metadata of a distribution on sys.path, as installed by pip."""
        lines = [[f"[{group}]", *(f"{k} = {v}" for k, v in points.items())] for group, points in groups.items()]
        write_distribution(self.folder / f"site-{name}", name, "\n".join(line for part in lines for line in part))
        sys.path.insert(0, str(self.folder / f"site-{name}"))
        importlib.invalidate_caches()

    def _torchrun(self, arguments: Sequence[str]) -> None:
        """torchrun's own options are valid; its program runs in this process."""
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(list(arguments))
        assert given.module and given.training_script == "densevit"
        self._command(["densevit", *given.training_script_args])


def run_command(arguments: Sequence[str]) -> None:
    assert main([*arguments, *SHORTER.get(arguments[0], ())]) == 0, f"densevit {' '.join(arguments)}"


def configparser_of(file: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(file)
    return parser


def entry_points(text: str) -> dict[str, dict[str, str]]:
    """The entry points of a setup.cfg, by group and name."""
    parser = configparser.ConfigParser()
    parser.read_string(text)
    pairs = {group: re.findall(r"^\s*(\S+) *= *(\S+)", x, re.M) for group, x in parser["options.entry_points"].items()}
    return {group: dict(points) for group, points in pairs.items()}
