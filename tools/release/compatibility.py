"""Writes small files of all formats, and the numbers that are read from them, which later versions must read too.

    python tools/release/compatibility.py tests/compatibility/0.1.0

Needs the extra `export`. tests/test_compatibility.py reads the folders of all versions.
"""

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import densevit
from densevit.targets.types import as_array
from densevit_batch.model_joining import save_heads
from densevit_probes.board_rows import Row, add_row, read_rows
from densevit_workbench.benchmarking.digest import PARTS, digest_of
from densevit_workbench.interchange.shard_writer import write_shards

MASKS = {
    "num_queries": 4,
    "transformer": {"width": 32, "num_heads": 2, "decoder_layers": 1, "feedforward": 32},
    "pixel_decoder": {"layers": 1, "feedforward": 32},
}
QUERIES = {"transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32}}
VIT = {"name": "vit", "variant": "nano", "image_size": 64}
NAIVE = {"name": "setr", "decoder": "naive", "width": 16, "norm": "batch", "auxiliary": ()}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "classification": ("pixels", {"name": "classifier"}),
    "detection": ({"name": "swin", "variant": "nano"}, {"name": "box_query_detr", "num_queries": 4, **QUERIES}),
    "detection_dfine": ("mit", {"name": "dfine", "num_queries": 4, "encoder": {"width": 32}, **QUERIES}),
    "detection_pixels": ("pixels", {"name": "detr", "num_queries": 4, **QUERIES}),
    "instance_eomt": (VIT, {"name": "eomt_instance", "num_queries": 4, "num_blocks": 1}),
    "instance": ({"name": "resnet", "depth": 18}, {"name": "mask2former_instance", **MASKS}),
    "panoptic": ({"name": "mvit", "variant": "nano"}, {"name": "mask2former", "threshold": 0.0, **MASKS}),
    "semantic_mit": ("mit", {"name": "segformer", "width": 16}),
    "semantic_vit": (VIT, {"name": "setr", "decoder": "mla", "width": 16, "branch_width": 16}),
    "depth": (VIT, {"name": "dpt", "width": 16, "reassemble_channels": (16, 16, 16, 16)}),
    "semantic": ({"name": "attention_resnet", "depth": 26, "width": 4}, NAIVE),
}
CLASSES = [densevit.Class(name, i, (50 * i, 0, 255), thing=i < 3) for i, name in enumerate("abcd", 1)]
SCENES = {"name": "scenes", "image_size": 64, "train_length": 2, "val_length": 2, "batch_size": 2, "num_workers": 0}
LEFT_OUT = ("predictions", "report.html", "events*", "log.txt", ".lock", "*.csv")  # of the run's files
MOST = 50  # numbers of a tensor


def write(folder: Path) -> None:
    """Writes the files into a new folder, and their numbers into numbers.json."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    cv2.imwrite(str(folder / "image.png"), cv2.resize(pixels, (64, 48), interpolation=cv2.INTER_CUBIC))
    with tempfile.TemporaryDirectory() as temporary:
        for name, (backbone, head) in MODELS.items():
            model = densevit.create_model(backbone, {name: head}, None if name == "depth" else CLASSES)
            _fill(model)
            model.save(Path(temporary, f"{name}.safetensors"))
        shutil.make_archive(str(folder / "models"), "xztar", temporary)
        config = {"backbone": "pixels", "heads": {"semantic": NAIVE}, "data": SCENES}
        trainer = {"max_steps": 1, "precision": "32", "accelerator": "cpu"}
        run = densevit.fit({**config, "trainer": trainer}, run_dir=Path(temporary, "run")).path
        shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns(*LEFT_OUT))
    save_heads(model, folder / "semantic.heads.safetensors")
    densevit.export(model, folder / "semantic.onnx", quiet=True)
    scenes = densevit.create_dataset("scenes", "val", image_size=64, val_length=2)
    list(write_shards(scenes, folder / "shards" / "val", 10**6))
    parts = dict.fromkeys(PARTS, "x")
    add_row(folder / "board", Row("a", {"s/mIoU": [0.5]}, ["s/mIoU"], parts=parts, digest=digest_of(parts)))
    text = json.dumps(dict(numbers(folder)), indent=0)
    (folder / "numbers.json").write_text(text + "\n")


def _fill(model: densevit.DenseModel) -> None:
    """Sets the parameters to few values: millions of them are compressed to kilobytes."""
    period = torch.randn(1021, generator=torch.Generator().manual_seed(0))
    for index, parameter in enumerate(model.parameters()):
        values = period.roll(97 * index).repeat(-(-parameter.numel() // 1021))[: parameter.numel()].view_as(parameter)
        inputs = parameter.numel() / parameter.shape[:1].numel()
        scale = 2.0 ** -round(math.log2(inputs) / 2)
        parameter.data = parameter.data.mean().round() + scale * values


def numbers(folder: Path) -> Iterator[tuple[str, list[float]]]:
    """What this version reads from each file: its name with the key, and at most `MOST` numbers."""
    image = torch.from_numpy(cv2.imread(str(folder / "image.png"))).permute(2, 0, 1)[None]
    with tempfile.TemporaryDirectory() as models:
        shutil.unpack_archive(folder / "models.tar.xz", models, filter="data")
        for root in (Path(models), folder):
            files = sorted(file for suffix in ("safetensors", "onnx", "ckpt") for file in root.rglob(f"*.{suffix}"))
            for file in files:
                backbone = Path(models, "semantic.safetensors") if file.stem.endswith(".heads") else None
                model = densevit.load(file, backbone=backbone)
                values = dict(model.predict(folder / "image.png", threshold=0))
                if isinstance(model, torch.nn.Module):  # many logits have one prediction
                    (outputs,) = model(image).values()
                    values |= {f"output {key}": x for key, x in outputs.items() if torch.is_tensor(x)}
                yield from _sampled(file.relative_to(root), values)
    config = densevit.config.load(folder / "run")
    yield "run/config.yaml", [config.trainer.max_steps or 0, config.data.batch_size]
    sample = densevit.create_dataset("shards", "val", root=str(folder / "shards"))[0]
    targets = {key: value for key, value in sample["targets"].items() if key in ("boxes", "depth", "masks")}
    yield from _sampled("shards", {"image": sample["image"], **targets})
    for row in read_rows(folder / "board").values():
        yield "board", row.scores["s/mIoU"]


def _sampled(name: str | Path, values: Mapping[str, Any]) -> Iterator[tuple[str, list[float]]]:
    for key in sorted(values):
        array = np.asarray(as_array(values[key]), np.float64).ravel()
        yield f"{name} {key}", [float(f"{x:.7g}") for x in array[:: -(-array.size // MOST) or 1]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(Path(sys.argv[1]))
