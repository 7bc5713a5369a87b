"""The code of README.md and docs/ runs: each Python and shell block, and each config, with small data and budgets.

A block is named `page:line`. The blocks of a page run in order in one folder, and use what those above them made; one
that is selected alone runs those above it first. Trainings have two steps, after the config is checked as the page
gives it. The data sets, images and published weights that the pages name are small and random.
"""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from densevit.errors import DensevitError
from tests.docs import small_configs
from tests.docs.code_blocks import Block, Page, blocks, parse
from tests.docs.world import World, torch_download, untrained_timm

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).resolve().parents[2]
BLOCKS = blocks(PROJECT)
RUN = ("python", "bash", "yaml", "ini")
SPELLED = {"py": "python", "sh": "bash", "shell": "bash", "yml": "yaml", "txt": "text"}

# Blocks that are not run: the page, a part of the text, and the reason. At most ten.
NOT_RUN = (
    ("docs/deploy.md", "npm install", "needs Node.js; tests/exporting/test_programs.py runs the program"),
    (
        "docs/deploy.md",
        "cmake --build",
        "needs ONNX Runtime's headers; tests/exporting/test_programs.py runs the program",
    ),
    ("docs/export.md", "trtexec", "needs TensorRT and an NVIDIA GPU"),
    ("docs/versions.md", "runs-on", "a workflow of GitHub, no config of densevit"),
    ("docs/multi-gpu.md", "tools/benchmarks/scaling.py", "trains on one to eight GPUs, in processes of its own"),
)
# Placeholders in commands.
WORDS = {
    "docs/own-data.md": {"CONFIG": "configs/panoptic_swin.yaml", "RUN": "runs/detr_swin"},
    "docs/weights.md": {"FILE": "configs/data/coco.yaml"},
}
# Python code: what is replaced, and by what.
EDITS = {r"max_steps=[\d_]+": 'max_steps=2, accelerator="cpu"', r'device="cuda"': 'device="cpu"'}
# Packages that a block needs if it has this text.
NEEDED = {"onnx": ("onnx", "onnxruntime", "onnxscript"), r"\btimm\b": ("timm",), "hf:": ("huggingface_hub",)}
# Arguments of scripts in Python.
ARGUMENTS = {"docs/export.md": ("detr.onnx", "street.jpg")}


def not_run(block: Block) -> bool:
    return any(block.page == page and part in block.text for page, part, _ in NOT_RUN)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), PROJECT)


@pytest.fixture(scope="module")
def environment(world: World, free_port: int) -> Iterator[pytest.MonkeyPatch]:
    """Small configs, and random numbers in place of downloads."""
    with pytest.MonkeyPatch.context() as patch:
        small_configs.install(patch)
        patch.setenv("TORCH_HOME", str(world.root / "torch"))
        patch.setenv("DOCS_PORT", str(free_port))
        if importlib.util.find_spec("huggingface_hub"):
            patch.setattr("huggingface_hub.hf_hub_download", world.download)
            patch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: None)
        patch.setattr(torch.hub, "download_url_to_file", torch_download)
        if importlib.util.find_spec("timm"):
            patch.setattr("timm.create_model", untrained_timm())
            for module in ("densevit.weights.hub", "densevit_backbones.timm"):
                patch.setattr(f"{module}.timm_arguments", lambda source, config: {})
        yield patch


@pytest.fixture(scope="module")
def page_of(world: World, environment: pytest.MonkeyPatch) -> Iterator[object]:
    """`page_of(block)`: the runner of a block's page. The last one is kept."""
    opened: list[Page] = []

    def page_of(block: Block) -> Page:
        if opened and opened[0].blocks[0].page != block.page:
            opened.pop().close()
        if not opened:
            mine = [one for one in BLOCKS if one.page == block.page and one.language in RUN and not not_run(one)]
            folder = world.root / "pages" / block.page.replace("/", "-")
            environment.setenv("HOME", str(folder / "home"))
            opened.append(
                world.page(
                    folder, mine, words=WORDS.get(block.page, {}), edits=EDITS, arguments=ARGUMENTS.get(block.page, ())
                )
            )
        return opened[0]

    yield page_of
    if opened:
        opened.pop().close()


@pytest.mark.parametrize(
    "block", [one for one in BLOCKS if one.language in RUN and not not_run(one)], ids=lambda block: block.id
)
def test_block_runs(block: Block, page_of) -> None:
    for text, packages in NEEDED.items():
        if re.search(text, block.text):
            for package in packages:
                pytest.importorskip(package)
    page_of(block).run(block)


def test_each_fence_has_a_language() -> None:
    unnamed = [block.id for block in BLOCKS if not block.language]
    assert not unnamed, f"write the language behind the fence: {', '.join(unnamed)}"
    for block in BLOCKS:
        assert block.language not in SPELLED, f"{block.id}: write {SPELLED[block.language]}, not {block.language}"


def test_few_blocks_are_not_run() -> None:
    assert len(NOT_RUN) <= 10
    for page, part, reason in NOT_RUN:
        found = [block.id for block in BLOCKS if block.page == page and part in block.text and block.language in RUN]
        assert len(found) == 1 and reason, f"{page}: {len(found)} blocks have {part!r}"


def test_commands_on_pages_are_blocks_of_shell() -> None:
    """A block of text or of another language does not hide a command."""
    for block in BLOCKS:
        if block.language not in RUN:
            first = block.text.split()[0] if block.text.split() else ""
            hidden = first in ("pip", "python", "torchrun", "pytest") or (
                first == "densevit" and not set("[|") & set(block.text)
            )
            assert not hidden, f"{block.id}: a command in a block of {block.language}"


# ---- the runner ----


def test_blocks_of_a_page_have_their_line_and_file() -> None:
    python = '- Write `a/b.py`:\n\n  ~~~python\n  x = """\n  ```\n  """\n  ~~~\n'
    text = f"Run it:\n\n```bash\nls\n```\n\n{python}\n```yaml\n# c.yaml\n```\n"
    found = parse("p.md", text)
    assert [(block.id, block.language, block.file) for block in found] == [
        ("p.md:3", "bash", None),
        ("p.md:9", "python", "a/b.py"),
        ("p.md:15", "yaml", "c.yaml"),
    ]
    assert found[1].text == 'x = """\n```\n"""\n'
    with pytest.raises(ValueError, match="p.md:1: the block is not closed"):
        parse("p.md", "```bash\nls\n")


def test_commands_are_those_that_bash_runs(tmp_path: Path) -> None:
    page = Page(tmp_path / "page", tmp_path, PROJECT, [], lambda *_: None)
    page.folder.mkdir()
    script = (
        "cd 'my net' && densevit train x.yaml 'data.classes=[a, b]' \\\n  a=1  # b\nif false; then pip install x; fi\n"
    )
    assert page.commands(script) == [["cd", "my net"], ["densevit", "train", "x.yaml", "data.classes=[a, b]", "a=1"]]
    with pytest.raises(AssertionError, match="nonesuch"):
        page.commands("nonesuch --flag")
    page.close()


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("bash", "densevit config nonesuch", "densevit config nonesuch"),
        ("bash", "pip install -e '.[nonesuch]'", "setup.cfg has no extra"),
        ("python", "import densevit\n\ndensevit.nonesuch", "nonesuch"),
        ("yaml", "backbone: {varient: tiny}", "Did you mean 'variant'"),
    ],
)
def test_a_wrong_block_fails(language: str, text: str, said: str, tmp_path: Path) -> None:
    block = Block("p.md", 1, language, text, "")
    page = Page(tmp_path / "page", tmp_path, PROJECT, [block], lambda *_: None)
    page.folder.mkdir()
    with pytest.raises((AssertionError, AttributeError, DensevitError), match=said):
        page.run(block)
    page.close()
