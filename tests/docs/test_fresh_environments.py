"""Each page runs in a fresh environment, with exactly the packages that the page installs."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_code_blocks import PAGES, PROJECT, run_blocks

RUN_PAGE = (
    "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-m", "integration", "-p", "no:cacheprovider",
)  # fmt: skip


def python(tree: Path, *arguments: str) -> str:
    """What the environment's Python prints; fails with its output."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(tree.parent / "venv/bin/python"), *arguments]
    done = subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project beside an environment that has it, without extras, and what runs a page."""
    tree = tmp_path_factory.mktemp("fresh") / "tree"
    shutil.copytree(PROJECT, tree, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", "runs"))
    subprocess.run([sys.executable, "-m", "venv", tree.parent / "venv"], check=True)
    python(tree, "-m", "pip", "install", "-e", ".", "pytest", "filelock")
    return tree


def installed_by(text: str) -> list[str]:
    """The extras and packages in the `pip install` commands of a page, and the extras that it names."""
    extras = [f".[{name}]" for name in re.findall(r"\bextra\b[^`\n]{0,25}`(\w+)`", text)]
    return extras + [
        word
        for line in re.findall(r"pip install ([^`\n#&]+)", text)
        for before, word in itertools.pairwise(["", *shlex.split(line)])
        if word.startswith(".[") or (before != "-e" and re.fullmatch(r"[a-z][\w-]+", word))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if "development" not in name and run_blocks(name)])
def test_page_runs_with_what_it_installs(name: str, tree: Path) -> None:
    text, before = (PROJECT / name).read_text(), python(tree, "-m", "pip", "freeze").splitlines()
    try:
        python(tree, "-m", "pip", "install", "pip", *installed_by(text))
        page = f"tests/docs/test_code_blocks.py::test_blocks_of_the_page_run[{name}]"
        assert "1 passed" in (output := python(tree, *RUN_PAGE, "-rs", page)), output
        for program in {*re.findall(r"examples/\w+\.py", text)}:
            python(tree, program, "--help")
    finally:
        added = {*python(tree, "-m", "pip", "freeze").splitlines()} - {*before}
        python(tree, "-m", "pip", "uninstall", "-y", "wheel", *sorted(added))
