"""The code blocks of README.md and docs/ run: Python, shell and configs.

Data sets, images and published weights are small and random; trainings have two steps, after the config is checked as
the page gives it. A page is one item, because its blocks run in order in one folder and use what those above them made.
An error names the block as `page:line`.
"""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs import small_configs
from tests.docs.code_blocks import Block, pages, parse
from tests.docs.page_runner import Page
from tests.docs.world import World

PROJECT = Path(__file__).resolve().parents[2]
RUN = ("python", "bash", "yaml", "ini")

# Blocks that are not run: the page, a part of the text, and the reason. At most ten.
NOT_RUN = (
    ("docs/export.md", "npm install", "needs Node.js; tests/export/test_programs.py runs the program"),
    ("docs/export.md", "cmake --build", "needs ONNX Runtime's headers; test_programs.py runs the program"),
    ("docs/development/gpu.md", "tools/benchmarks/gpu.py", "needs a GPU; test_gpu.py runs it on a CPU"),
    ("docs/multi-gpu.md", "tools/benchmarks/scaling.py", "trains on one to eight GPUs, in processes of its own"),
)
# Placeholders in commands.
WORDS = {
    "docs/own-data.md": {"CONFIG": "configs/panoptic_swin.yaml", "RUN": "runs/start-detector"},
}
# Python code: what is replaced, and by what.
EDITS = {
    r"max_steps=[\d_]+": 'max_steps=2, accelerator="cpu"',
    r"val_check_interval=\d+": "val_check_interval=2",
    r"n_trials=\d+": "n_trials=2",
    r'device="cuda"': 'device="cpu"',
}
# Packages that a block needs if it has this text.
NEEDED = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "tflite": ("litert_torch",),
    r"\btimm\b": ("timm",),
    "smp": ("segmentation_models_pytorch",),
    "hf:": ("huggingface_hub",),
    "optuna": ("optuna",),
    "cvat": ("cvat_sdk",),
    "name: hf": ("datasets",),
}


def not_run(block: Block) -> bool:
    return any(block.page == page and part in block.text for page, part, _ in NOT_RUN)


PAGES = [path.relative_to(PROJECT).as_posix() for path in pages(PROJECT)]


def run_blocks(name: str) -> list[Block]:
    """The blocks of a page that are run."""
    return [one for one in parse(name, (PROJECT / name).read_text()) if one.language in RUN and not not_run(one)]


@pytest.fixture(scope="session")
def world(made_once: Callable[..., Path]) -> World:
    return World(made_once, PROJECT)


@pytest.fixture
def environment(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small configs, a home folder, and random numbers in place of downloads."""
    small_configs.install(monkeypatch)
    for name, folder in (("HOME", "page/home"), ("TORCH_HOME", "torch")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    for owner, name, stand_in in world.stand_ins():
        monkeypatch.setattr(owner, name, stand_in)


def missing_packages(block: Block) -> list[str]:
    """Packages that a block needs and that are not installed."""
    needed = [one for text, packages in NEEDED.items() if re.search(text, block.text) for one in packages]
    return [one for one in needed if importlib.util.find_spec(one) is None]


def run_all(page: Page) -> None:
    """Runs the blocks of a page. Skips the test after the last one if packages of some are not installed."""
    skipped = {}
    try:
        for block in page.blocks:
            if missing := missing_packages(block):
                skipped[block.id] = missing
            else:
                page.run(block)
    finally:
        page.close()
    if skipped:
        pytest.skip(f"the other blocks passed; packages that are not installed: {skipped}")


@pytest.mark.integration
@pytest.mark.parametrize("name", PAGES)
def test_blocks_of_the_page_run(name: str, world: World, environment: None, tmp_path: Path) -> None:
    if blocks := run_blocks(name):
        run_all(world.page(tmp_path / "page", blocks, words=WORDS.get(name, {}), edits=EDITS))


def test_few_blocks_are_not_run() -> None:
    assert len(NOT_RUN) <= 10
    for page, part, reason in NOT_RUN:
        blocks = parse(page, (PROJECT / page).read_text())
        found = [block.id for block in blocks if part in block.text and block.language in RUN]
        assert len(found) == 1 and reason, f"{page}: {len(found)} blocks have {part!r}"


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("bash", "densevit config nonesuch", "nonesuch"),
        ("bash", "pip install -e '.[nonesuch]'", "setup.cfg has no extra"),
        ("python", "import densevit\n\ndensevit.nonesuch", "nonesuch"),
        ("yaml", "backbone: {varient: tiny}", "Did you mean 'variant'"),
        ("ini", "densevit.nonesuch =\n    a = b:C", "densevit.nonesuch"),
    ],
)
def test_a_wrong_block_fails(language: str, text: str, said: str, tmp_path: Path) -> None:
    block = Block("p.md", 1, language, text, "")
    page = Page(tmp_path / "page", tmp_path, PROJECT, [block], lambda *_: None)
    page.folder.mkdir()
    with pytest.raises(AssertionError, match=rf"p\.md:1: .*{re.escape(said)}"):
        page.run(block)
    page.close()
