"""What the pages name: data sets, images, published weights, runs and a package, small and made from random numbers.

Each is made once for all pages and workers, when a page first names it. Data sets and files are linked into the page's
folder or home; runs are copied, because commands write to them.
"""

import hashlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from densevit import cli, registry
from densevit import config as configs
from densevit.cli import main
from densevit.config import Config, yaml_io
from densevit.config.key_types import named_classes
from tests.checkpoints.authors_files import write_in_layout
from tests.docs.code_blocks import Block, blocks
from tests.docs.inline_code import Inline
from tests.docs.made_files import (
    MY_PACKAGE,
    animals,
    coco,
    depth_maps,
    depth_set,
    kmax,
    label_maps,
    photos,
    pickled,
    scenes_and_test,
    traffic,
    vehicles,
)
from tests.docs.page_runner import SHORTER, Page, run_command
from tests.docs.resolution import Resolver
from tests.docs.stand_ins import exported_once, torch_download, untrained_timm

# Runs by name: the config and its overrides. A page may have its own.
RUNS: dict[str, tuple[str, ...]] = {
    "detr_swin": ("detr_swin",),
    "scenes-detr_vit": ("scenes/detr_vit",),
    "setr_vit": ("setr_vit",),
    "dpt_swin": ("dpt_swin",),
    "panoptic": ("panoptic_swin",),
    "coco": ("detr_swin", "data=coco", "data.root=~/coco"),
    "mine": ("detr_swin",),
    "coco_r50": ("coco/detr_r50", "data.root=~/coco"),
    "coco_masks": ("coco/mask2former_r50", "backbone={name: swin, variant: tiny, drop_path: 0.3}", "data.root=~/coco"),
    "depth_anything": (
        "start/depth_anything_v2",
        "weights=null",
        "data={name: scenes, image_size: 64}",
        "heads.depth.output=relative",
    ),
}
OWN_RUNS: dict[tuple[str, str], tuple[str, ...]] = {
    ("README.md", "start-detector"): RUNS["detr_swin"],
    ("docs/continuing.md", "start-detector"): ("start/detector", "data={name: scenes, image_size: 64}"),
    ("docs/inference.md", "mine"): ("scenes/setr_swin",),
    ("docs/evaluate.md", "detr_swin"): RUNS["coco"],
    ("docs/many-images.md", "mine"): RUNS["coco"],
    ("docs/deploy.md", "start-detector"): ("detector", "backbone={name: resnet, depth: 18}"),
    **{
        ("docs/export.md", run): (config, "backbone={name: resnet, depth: 18}")  # traced faster than a Swin or ViT
        for run, config in (("detr_swin", "detector"), ("setr_vit", "setr_vit"))
    },
}
BENCHMARKS = ("README.md", "docs/benchmark.md")  # measure cases of one grid


class World:
    """made_once: the fixture. project: the project's tree."""

    def __init__(self, made_once: Callable[[str, Callable[[Path], object]], Path], project: Path) -> None:
        self.made_once, self.project = made_once, project
        self.homes: dict[str, Callable[[Path], object]] = {  # in the home folder
            "coco": coco,
            "coco-2014": coco,
            "traffic": traffic,
            "my_folder": scenes_and_test,
            "cells": coco,
            "all_cells": coco,
            "photos": lambda folder: photos(folder, 20),
            "animals": animals,
            "yolo_set": vehicles,
            "camvid": partial(label_maps, "camvid"),
            "VOCdevkit": lambda folder: label_maps("voc", folder / "VOC2012"),
            "ADEChallengeData2016": partial(label_maps, "ade20k"),
            "nyu_depth_v2": partial(depth_maps, "nyu", (480, 640)),
            "kitti": partial(depth_maps, "kitti", (128, 416)),
        }
        self.here: dict[str, Callable[[Path], object]] = {  # in the working directory
            "photos": photos,
            "IMAGES": photos,
            "detr-r50-e632da11.pth": lambda file: write_in_layout(self.run(*RUNS["coco_r50"]), "detr", file),
            "model_final_3c8ec9.pkl": pickled,
            "kmax_r50.pth": kmax,
        }
        self.published = {
            "facebook/detr-resnet-50": "coco_r50",
            "facebook/mask2former-swin-tiny-coco-instance": "coco_masks",
            "facebook/mask2former-swin-tiny-ade-semantic": "coco_masks",  # tensors of the same names
            "depth-anything/Depth-Anything-V2-Small-hf": "depth_anything",
        }

    def page(self, folder: Path, blocks: list[Block], **given: dict[str, str]) -> Page:
        """A page's runner, in a new folder that has the project's configs and tools."""
        page = Page(folder, folder / "home", self.project, blocks, self.place, self.train, self.repeats, **given)
        for made in (page.home, page.folder / "runs"):
            made.mkdir(parents=True)
        for name in ("configs", "tools", "examples", "setup.cfg"):
            (page.folder / name).symlink_to(self.project / name)
        if blocks[0].page in BENCHMARKS:
            (folder / "runs" / "benchmark").mkdir()
            shutil.copy(self._made("benchmark", measured) / "benchmark.json", folder / "runs" / "benchmark")
        for (where, name), config in OWN_RUNS.items():
            if where == blocks[0].page:
                shutil.copytree(self.run(*config), folder / "runs" / name)
        return page

    def place(self, page: Page, block: Block) -> None:
        """Links what the block names, unless an earlier block has made it."""
        text = block.text
        for name, make in self.homes.items():
            if re.search(rf"~/{name}(?![\w-])", text):
                _link(self._made(f"home-{name}", make), page.home / name)
        for name, make in self.here.items():
            if mentions(text, name):
                _link(self._made(name, make), page.cwd / name)
        for name in RUNS.keys() & {*re.findall(r"\bruns/([\w-]+)", text)}:
            if not (page.folder / "runs" / name).exists():
                shutil.copytree(self.run(*RUNS[name]), page.folder / "runs" / name)
        if mentions(text, "my_package") and not (page.cwd / "my_package.py").exists():
            (page.cwd / "my_package.py").write_text(MY_PACKAGE)
        file = page.cwd / "mine.yaml"
        if "mine.yaml" in text and block.file != "mine.yaml" and not file.is_file():
            file.write_text("base: detr_swin\n")
        self._my_set(page, text)

    def _my_set(self, page: Page, text: str) -> None:
        """~/my_set and ./my_set: depth or label maps, as the text wants; none where it is written."""
        for mention, link in (("~/my_set", page.home / "my_set"), ("my_set", page.cwd / "my_set")):
            if not re.search(rf"(?<![\w~/]){mention}", text) and mention not in text:
                continue
            if "convert" in text:
                if link.is_symlink():
                    link.unlink()
                elif link.is_dir() and "convert_dataset" in text:
                    shutil.rmtree(link)
            elif not link.is_dir() or link.is_symlink():
                link.unlink(missing_ok=True)
                depth = "depth" in text
                make = depth_set if depth else partial(label_maps, "label_maps")
                _link(self._made("depth_set" if depth else "label_set", make), link)

    def run(self, config: str, *overrides: str) -> Path:
        """The folder of a run with this config, to be copied. Equal configs are trained once."""
        key = hashlib.sha256(configs.dump(configs.load(config, overrides)).encode()).hexdigest()[:16]

        def train(folder: Path) -> None:
            home = Path("~").expanduser()
            if any("~/coco" in one for one in overrides):
                _link(self._made("home-coco", coco), home / "coco")
            run_command(["train", config, *overrides, "--run-dir", str(folder), "--quiet"])

        return self._made(f"runs/{key}", train)

    def train(self, arguments: Sequence[str]) -> None:
        """`densevit train`. If the resolved config depends on nothing that a page makes, its run is a copy of `run`."""
        from densevit.training.run.folder import choose  # late: it imports Lightning

        given = cli.command("train")[1].parse_intermixed_args(arguments[1:])
        if given.resume is None and self._on_shared_data(configs.load(given.config, given.overrides)):
            run = self.run(given.config, *given.overrides)
            shutil.copytree(run, choose(yaml_io.run_name(given.config), given.run_dir), dirs_exist_ok=True)
        else:
            run_command(arguments)

    def repeats(self, page: str, arguments: Sequence[str]) -> bool:
        """Whether an earlier page runs a command: its flags, config and overrides are then only resolved."""
        first = first_pages(self.project).get(" ".join(arguments), page)
        if first != page:
            Resolver(self.project).check(Inline(page, 0, shlex.join(["densevit", *arguments])))
        return first != page

    def _on_shared_data(self, config: Config) -> bool:
        """Whether a config trains densevit's own models from random weights on scenes, or on data in the home."""
        parts = [("backbones", config.backbone.name), *(("heads", head.name) for head in config.heads.values())]
        data = config.data.options.get("root") in {None, *(f"~/{name}" for name in self.homes)}
        return (
            all(name in registry.find(group) for group, name in parts)
            and all(registry.find(group)[name].origin.startswith("densevit ") for group, name in parts)
            and data
            and config.data.name != "mix"
            and config.method.name == "supervised"
            and config.weights is None
            and config.backbone.weights is None
            and not named_classes(config.model_dump(), Config)
        )

    def _converted(self, run: str, out: Path) -> None:
        assert main(["convert", str(self.run(*RUNS[run])), str(out), "--to", "hf", "--quiet"]) == 0

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        return self.made_once(f"docs/{name}", make)

    # ---- in place of downloads ----

    def stand_ins(self) -> Iterator[tuple[Any, str, Any]]:
        """Objects, the names of their attributes, and what replaces these: nothing is downloaded or uploaded, and equal
        graphs are traced once."""
        import torch

        from densevit_export import exporting, file_plan, files, half_precision, quantization

        yield torch.hub, "download_url_to_file", torch_download
        yield files, "write", exported_once(self.made_once("docs/exported", Path.mkdir))
        yield exporting, "_RUNS", 1
        yield quantization, "_ROUNDS", 1
        yield half_precision, "_MAX_BLOCKS", 2
        yield file_plan, "_LARGE", (70, 101)
        if find_spec("huggingface_hub"):
            import huggingface_hub

            yield huggingface_hub, "hf_hub_download", self.download
            yield huggingface_hub, "get_hf_file_metadata", lambda url, timeout: None
            yield huggingface_hub.HfApi, "create_repo", lambda _, name, **__: f"https://huggingface.co/{name}"
            yield huggingface_hub.HfApi, "create_commit", lambda *_, **__: None
        if find_spec("timm"):
            import timm

            from densevit_backbones import hub_files
            from densevit_backbones.timm import building

            yield timm, "create_model", untrained_timm()
            for module in (hub_files, building):
                yield module, "timm_arguments", lambda *_: {}

    def download(self, repository: str, file: str, **_: object) -> str:
        """`huggingface_hub.hf_hub_download`."""
        from huggingface_hub.errors import EntryNotFoundError

        run = self.published[repository]
        folder = self._made(f"hub/{repository}", lambda out: self._converted(run, out))
        if not (folder / file).is_file():
            raise EntryNotFoundError(f"404: {file}")
        return str(folder / file)


@cache
def first_pages(project: Path) -> dict[str, str]:
    """The first page that has a command in a line of a block."""
    pages: dict[str, str] = {}
    for block in (block for block in blocks(project) if block.language == "bash"):
        for command in re.findall(r"^densevit ([^#\n]*)", block.text, re.MULTILINE):
            pages.setdefault(" ".join(re.sub("['\"]", "", command).split()), block.page)
    return pages


def _link(target: Path, link: Path) -> None:
    if not (link.exists() or link.is_symlink()):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def mentions(text: str, name: str) -> bool:
    """Whether a text names a file or module of the working directory."""
    return re.search(rf"(?<![\w~/.-]){re.escape(name)}(?![\w-])", text) is not None


def measured(folder: Path) -> None:
    """The command of docs/benchmark.md that measures most cases. Finished ones are not repeated."""
    grid = ("--backbones", "swin,vit", "--heads", "box_query_detr,setr,dpt")
    command = ("benchmark", *grid, "--train", "--images", "16000", "--out", str(folder), *SHORTER["benchmark"])
    assert main([*command]) == 0
