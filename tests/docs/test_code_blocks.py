"""The code of README.md and docs/: each Python and shell block, and each config.

In the first set blocks are parsed and resolved: arguments, configs with their overrides, names of Python. In the
integration set they run, with small data and budgets: trainings have two steps, after the config is checked as the page
gives it; data sets, images and published weights are small and random. A page is one item, because its blocks run in
order in one folder and use what those above them made. An error names the block as `page:line`.
"""

import importlib.util
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from densevit.config import layers, yaml_io
from densevit.config.yaml_io import shipped_configs
from tests.docs import small_configs
from tests.docs.code_blocks import Block, Page, pages, parse
from tests.docs.inline_code import SOURCE, Inline, of_comments, of_file, of_page
from tests.docs.resolution import ResolvedPage
from tests.docs.world import World, exported_once, torch_download, untrained_timm
from tools.conventions.recipes import variants

PROJECT = Path(__file__).resolve().parents[2]
RUN = ("python", "bash", "yaml", "ini")

# Blocks that are not run: the page, a part of the text, and the reason. At most ten.
NOT_RUN = (
    ("docs/export-onnxruntime.md", "npm install", "needs Node.js; tests/exporting/test_programs.py runs the program"),
    ("docs/export-onnxruntime.md", "cmake --build", "needs ONNX Runtime's headers; test_programs.py runs the program"),
    ("docs/export-tensorrt.md", "trtexec", "needs TensorRT and an NVIDIA GPU"),
    ("docs/versions.md", "runs-on", "a workflow of GitHub, no config of densevit"),
    ("docs/benchmarks.md", "tools/benchmarks/gpu.py", "needs a GPU; test_gpu.py runs it on a CPU"),
    ("docs/multi-gpu.md", "tools/benchmarks/scaling.py", "trains on one to eight GPUs, in processes of its own"),
)
# Placeholders in commands.
WORDS = {
    "docs/own-data.md": {"CONFIG": "configs/panoptic_swin.yaml", "RUN": "runs/start-detector"},
    "docs/weights.md": {"FILE": "configs/data/coco.yaml"},
}
# Python code: what is replaced, and by what.
EDITS = {r"max_steps=[\d_]+": 'max_steps=2, accelerator="cpu"', r'device="cuda"': 'device="cpu"'}
# Packages that a block needs if it has this text.
NEEDED = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    r"\btimm\b": ("timm",),
    "hf:": ("huggingface_hub",),
}
# Arguments of scripts in Python.
ARGUMENTS = {"docs/export-onnxruntime.md": ("detr.onnx", "street.jpg")}


def not_run(block: Block) -> bool:
    return any(block.page == page and part in block.text for page, part, _ in NOT_RUN)


PAGES = [path.relative_to(PROJECT).as_posix() for path in pages(PROJECT)]
# What is resolved in one item: a page, the comments of a folder of configs, docstrings of programs and commands.
RESOLVED = {name: (name,) for name in PAGES} | {
    "configs": ("configs/*.yaml",),
    **{
        f"configs/{path.name}": (f"configs/{path.name}/*.yaml",)
        for path in sorted((PROJECT / "configs").glob("[a-z]*/"))
    },
    "examples": ("examples/*.py",),
    "tools": ("tools/*.py", "tools/benchmarks/*.py", "tools/docs/*.py", "tools/release/*.py"),
    "commands": ("densevit/cli/*.py", "plugins/*/commands/*.py"),
}


def units(name: str) -> list[Block | Inline]:
    """The runnable blocks and the inline code of a file."""
    return [one for one in of_file(name, PROJECT) if isinstance(one, Inline) or is_run(one)]


def is_run(block: Block) -> bool:
    return block.language in RUN and not not_run(block)


@pytest.fixture(scope="session")
def world(made_once: Callable[..., Path]) -> World:
    return World(made_once, PROJECT)


@pytest.fixture
def environment(world: World, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small configs, a home folder, and random numbers in place of downloads."""
    small_configs.install(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "page" / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("DOCS_PORT", str(free_port))
    if importlib.util.find_spec("huggingface_hub"):
        monkeypatch.setattr("huggingface_hub.hf_hub_download", world.download)
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: None)
    monkeypatch.setattr("torch.hub.download_url_to_file", torch_download)
    monkeypatch.setattr("densevit.weights.hub._length", lambda address: 0)
    monkeypatch.setattr("densevit.exporting.files.write", exported_once(tmp_path / "exported"))
    if importlib.util.find_spec("timm"):
        monkeypatch.setattr("timm.create_model", untrained_timm())
        for module in ("densevit.weights.hub", "densevit_backbones.timm"):
            monkeypatch.setattr(f"{module}.timm_arguments", lambda *_: {})


def missing_packages(block: Block) -> list[str]:
    """Packages that a block needs and that are not installed."""
    needed = [one for text, packages in NEEDED.items() if re.search(text, block.text) for one in packages]
    return [one for one in needed if importlib.util.find_spec(one) is None]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped configs are listed and parsed once."""
    for module in (layers, yaml_io):
        monkeypatch.setattr(module, "shipped_configs", all_shipped)
    monkeypatch.setattr(layers, "read_file", lambda path: deepcopy(parsed(path, path.stat().st_mtime_ns)))


@cache
def all_shipped() -> dict[str, Path]:
    return {name: file.resolve() for name, file in shipped_configs().items()}


@cache
def parsed(path: Path, changed: int) -> dict[str, Any]:
    return yaml_io.read_file(path.absolute())


def run_all(page: Page) -> None:
    """Runs the blocks of a page. Skips the test after the last one if packages of some are not installed."""
    left_out = {}
    try:
        for block in page.blocks:
            if missing := missing_packages(block):
                left_out[block.id] = missing
            else:
                page.run(block)
    finally:
        page.close()
    if left_out:
        pytest.skip(f"the other blocks passed; packages that are not installed: {left_out}")


OF_WEIGHTS = re.compile(rf"weights|train|convert|^[\w/]+(?:\.yaml)?$|{SOURCE}", re.MULTILINE)


def resolve_all(patterns: Sequence[str], world: World, folder: Path, compares_weights: bool = False) -> None:
    """Resolves files, each in a folder of its own. Raises AssertionError with a line for each error.

    compares_weights: of blocks, and of inline code that names weights, or a recipe or a run for them, which are loaded
    on the meta device.
    """
    wrong = list[str]()
    for number, path in enumerate(path for pattern in patterns for path in sorted(PROJECT.glob(pattern))):
        name = path.relative_to(PROJECT).as_posix()
        found = [
            one for one in units(name) if not compares_weights or isinstance(one, Block) or OF_WEIGHTS.search(one.text)
        ]
        if not any("weights" in one.text or re.search(SOURCE, one.text) for one in found):
            found = [] if compares_weights else found
        if not found:
            continue
        page = world.resolved_page(folder / str(number), found, compares_weights, words=WORDS.get(name, {}))
        for one in found:
            if not (isinstance(one, Block) and missing_packages(one)):
                try:
                    page.run(one)
                except AssertionError as error:
                    wrong.append(str(error))
        page.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", RESOLVED)
def test_commands_keys_and_paths_resolve(name: str, world: World, shipped: None, tmp_path: Path) -> None:
    resolve_all(RESOLVED[name], world, tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("name", RESOLVED)
def test_weights_of_commands_fit(name: str, world: World, shipped: None, tmp_path: Path) -> None:
    resolve_all(RESOLVED[name], world, tmp_path, compares_weights=True)


@pytest.mark.integration
@pytest.mark.parametrize("name", PAGES)
def test_blocks_of_the_page_run(name: str, world: World, environment: None, tmp_path: Path) -> None:
    blocks = [one for one in units(name) if isinstance(one, Block)]
    if blocks:
        given = {"words": WORDS.get(name, {}), "edits": EDITS, "arguments": ARGUMENTS.get(name, ())}
        run_all(world.page(tmp_path / "page", blocks, **given))


def test_few_blocks_are_not_run() -> None:
    assert len(NOT_RUN) <= 10
    for page, part, reason in NOT_RUN:
        blocks = parse(page, (PROJECT / page).read_text())
        found = [block.id for block in blocks if part in block.text and block.language in RUN]
        assert len(found) == 1 and reason, f"{page}: {len(found)} blocks have {part!r}"


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


@pytest.mark.parametrize("runner", [Page, ResolvedPage])
@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("bash", "densevit config nonesuch", "nonesuch"),
        ("bash", "pip install -e '.[nonesuch]'", "setup.cfg has no extra"),
        ("python", "import densevit.nonesuch", "nonesuch"),
        ("yaml", "backbone: {varient: tiny}", "Did you mean 'variant'"),
        ("ini", "densevit.nonesuch =\n    a = b:C", "densevit.nonesuch"),
    ],
)
def test_a_wrong_block_fails(runner: type[Page], language: str, text: str, said: str, tmp_path: Path) -> None:
    fails(runner, language, text, said, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("densevit train detr_swin --nonesuch", "densevit train detr_swin --nonesuch are wrong"),
        ("densevit train detr_swin --run-dir runs/a\ndensevit evaluate runs/a data.nonesuch=1", "nonesuch"),
        ("densevit benchmark --backbones swin --heads nonesuch", "there is no head 'nonesuch'"),
        ("densevit check head detr nonesuch=1", "nonesuch"),
    ],
)
def test_a_command_that_does_not_resolve_fails(text: str, said: str, tmp_path: Path) -> None:
    fails(ResolvedPage, "bash", text, said, tmp_path)


def fails(runner: type[Page], language: str, text: str, said: str, folder: Path) -> None:
    block = Block("p.md", 1, language, text, "")
    page = runner(folder / "page", folder, PROJECT, [block], lambda *_: None)
    page.folder.mkdir()
    with pytest.raises(AssertionError, match=rf"p\.md:1: .*{re.escape(said)}"):
        page.run(block)
    page.close()


# ---- inline code ----


def resolve(text: str, folder: Path, name: str = "p.md", compares_weights: bool = False) -> set[str]:
    """Resolves a page, or the comments of a config. Returns the weights that were compared."""
    of_comments_or_page = of_comments if name.endswith(".yaml") else of_page
    page = ResolvedPage(folder / "page", folder, PROJECT, [], lambda *_: None)
    page.compares_weights = compares_weights
    if name.endswith(".yaml"):
        page.recipe = name
        page.contexts = [(name,), *((name, *overrides.split()) for overrides in variants(text))]
    page.folder.mkdir()
    for link in ("configs", "tools"):
        (page.folder / link).symlink_to(PROJECT / link)
    found = [*of_comments_or_page(name, text)]
    assert found
    for one in found:
        page.run(one)
    page.close()
    return page.compared


WRONG = (
    ("`densevit nonesuch a`", "there is no command 'nonesuch'"),
    ("`scenes/nonesuch`", "there is no recipe scenes/nonesuch"),
    ("| command |\n|---|\n| `train scenes/nonesuch seed=1`, 3 images |", "scenes/nonesuch"),
    ("`train\nsetr_vit backbone.window_sise=7`", "backbone.window_sise is not an option of 'vit'"),
    ("`evaluate RUN backbone.variant=tiny`", "a run is evaluated as it was trained"),
    ("`densevit export MODEL [--nonesuch FILE]`", "no command has the flag --nonesuch"),
    ("`--nonesuch N`", "no command has the flag --nonesuch"),
    ("`python tools/benchmarks/gpu.py --nonesuch 1`", "tools/benchmarks/gpu.py has no --nonesuch"),
    ("`tests/docs/world.py::nonesuch`", "tests/docs/world.py has no nonesuch"),
    ("`trainer.epochs`", "trainer.epochs is not a key"),
    ("`heads.detection.num_queries=many`", "heads.detection.num_queries should be"),
)


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_fault_in_inline_code_is_found(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=rf"p\.md:[13]: .*{re.escape(said)}"):
        resolve(f"{text}\n", tmp_path)


def test_right_inline_code_resolves(tmp_path: Path) -> None:
    resolve(
        "`densevit train start/detector data.root=~/a`, `densevit`, `densevit evaluate`, `densevit NAME --help`,\n"
        "`train CONFIG [section.key=value ...]`, `train CONFIG seed=N weights=RUN`, `evaluate RUN data.seed=1`,\n"
        "`predict MODEL INPUT... --out DIR`, `train --resume RUN/checkpoints/last.ckpt`, `check head NAME`,\n"
        "`heads.detection.num_queries=300`, `data.transforms=crop`, `trainer.max_epochs`, `heads.NAME.weights`,\n"
        "`backbone.dilation=true`, `data.yaml`, `heads.depth.evaluation.crop=eigen`, `data.name=my_set:Mine`,\n"
        "`python tools/benchmarks/gpu.py --out DIR`, `--threshold SCORE`, `scenes/NAME`, `configs/coco/`,\n"
        "`tests/docs/world.py::street`, `it's text`, `start/dfine backbone=efficientnet_lite0`\n",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# With backbone.variant=b9: mIoU 0.494.", "backbone.variant"),
        ("# With heads.detection.num_queries=300.", "heads.detection"),
        ("#   densevit evaluate runs/a data.rot=~/b", "data.rot"),
        ("# nonesuch.yaml, its base, says how to run it", "there is no nonesuch.yaml"),
    ],
)
def test_a_fault_in_comments_of_a_recipe_is_found(text: str, said: str, tmp_path: Path) -> None:
    """Overrides in them are of that recipe."""
    with pytest.raises(AssertionError, match=rf"segformer_b0\.yaml:1: .*{re.escape(said)}"):
        resolve(f"{text}\nseed: 0\n", tmp_path, "configs/ade20k/segformer_b0.yaml")


def test_right_comments_of_a_recipe_resolve(tmp_path: Path) -> None:
    text = (
        "# backbone.variant=b3: mIoU 0.494; 'data.image_size=[256, 304]' data.transforms.short_side=null\n"
        "# trainer.devices=8.\n"
        "#   densevit train configs/ade20k/segformer_b0.yaml data.root=~/a \\\n#     backbone.weights=FILE\n"
        "# densevit convert hf:a/b runs/c; then data.transforms.scales. As in ../setr_vit.yaml and\n"
        "# mask2former_swin_tiny.yaml\n"
        "# (docs/segmentation.md):\n#   densevit evaluate runs/c data.root=~/a\n"
    )
    resolve(text, tmp_path, "configs/ade20k/segformer_b0.yaml")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`train detector backbone.weights=timm:swin_tiny_patch4_window7_224`", "tensors are missing"),
        ("`train kitti/dpt_hybrid backbone.weights=FILE`", "starts from weights= by its comments"),
        ("`train coco/detr_r50 backbone.depth=101 weights=detr-r50-e632da11.pth`", "are missing"),
        (
            "`train classifier --run-dir runs/a`, then `train scenes/detr_vit backbone.weights=runs/a`",
            "runs/a does not fit",
        ),
    ],
)
def test_weights_that_do_not_fit_are_found(text: str, said: str, tmp_path: Path) -> None:
    if "timm" in text:
        pytest.importorskip("timm")
    with pytest.raises(AssertionError, match=re.escape(said)):
        resolve(f"{text}\n", tmp_path, compares_weights=True)


@pytest.mark.integration
def test_weights_that_fit_are_compared(tmp_path: Path) -> None:
    text = (
        "`train scenes/detr_resnet backbone.weights=torchvision:resnet18`\n"
        "`train coco/detr_r50 weights=detr-r50-e632da11.pth`\n`train kitti/dpt_hybrid weights=FILE`\n"
        "`train classifier --run-dir runs/a`\n`train detector backbone.weights=runs/a`\n`train detector weights=b.pt`\n"
    )
    compared = resolve(text, tmp_path, compares_weights=True)
    assert compared == {"torchvision:resnet18", "detr-r50-e632da11.pth", "dpt_hybrid-midas-501f0c75.pt", "runs/a"}
