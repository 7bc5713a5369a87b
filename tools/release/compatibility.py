"""Writes small files of all formats, and the numbers that are read from them, which later versions must read too.

    python tools/release/compatibility.py tests/compatibility/0.1.0

Needs the extra `export`. tests/test_compatibility.py reads the folders of all versions.
"""

import json
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
BOXES = {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32}
HEADS: dict[str, dict[str, Any]] = {
    "detection": {"name": "detr", "num_queries": 4, "transformer": BOXES},
    "instance": {"name": "mask2former_instance", **MASKS},
    "panoptic": {"name": "mask2former", "threshold": 0.0, **MASKS},
    "semantic": {"name": "setr", "decoder": "naive", "width": 16, "norm": "batch", "auxiliary": ()},
    "depth": {"name": "linear_depth"},
    "classification": {"name": "classifier"},
}
CLASSES = [densevit.Class("a", 1, (255, 0, 0)), densevit.Class("b", 2, (0, 0, 255), thing=False)]
RESNET = {"name": "attention_resnet", "depth": 26, "width": 0.0625}
SCENES = {"name": "scenes", "image_size": 64, "train_length": 2, "val_length": 2, "batch_size": 2, "num_workers": 0}
RUN = ("config.yaml", "model.safetensors", "metrics.json", "checkpoints/last.ckpt")
MOST = 50  # numbers of a tensor


def write(folder: Path) -> None:
    """Writes the files into a new folder, and their numbers into numbers.json."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    cv2.imwrite(str(folder / "image.png"), cv2.resize(pixels, (64, 48), interpolation=cv2.INTER_CUBIC))
    for task, head in HEADS.items():
        torch.manual_seed(7)  # with several classes in the maps
        backbone = RESNET if task == "semantic" else "pixels"
        model = densevit.create_model(backbone, {task: head}, None if task == "depth" else CLASSES)
        for parameter in model.get_submodule("heads").parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)  # also of those that begin at 0
        model.save(folder / f"{task}.safetensors")
    heads = densevit.load(folder / "semantic.safetensors")
    save_heads(heads, folder / "semantic.heads.safetensors")
    densevit.export(heads, folder / "semantic.onnx", quiet=True)
    with tempfile.TemporaryDirectory() as temporary:
        config = {"backbone": "pixels", "heads": {"semantic": HEADS["semantic"]}, "data": SCENES}
        run = densevit.fit(
            {**config, "trainer": {"max_steps": 1, "precision": "32", "accelerator": "cpu"}},
            run_dir=Path(temporary) / "run",
        ).path
        for name in RUN:
            (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(run / name, folder / "run" / name)
    scenes = densevit.create_dataset("scenes", "val", image_size=64, val_length=2)
    list(write_shards(scenes, folder / "shards" / "val", 10**6))
    parts = dict.fromkeys(PARTS, "x")
    add_row(folder / "board", Row("a", {"s/mIoU": [0.5]}, ["s/mIoU"], parts=parts, digest=digest_of(parts)))
    text = json.dumps(dict(numbers(folder)), indent=0)
    (folder / "numbers.json").write_text(text + "\n")


def numbers(folder: Path) -> Iterator[tuple[str, list[float]]]:
    """What this version reads from each file: its name with the key, and at most `MOST` numbers."""
    image = folder / "image.png"
    files = sorted(file for suffix in ("safetensors", "onnx", "ckpt") for file in folder.rglob(f"*.{suffix}"))
    for file in files:
        backbone = folder / "semantic.safetensors" if file.stem.endswith(".heads") else None
        yield from _sampled(
            file.relative_to(folder), densevit.load(file, backbone=backbone).predict(image, threshold=0)
        )
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
