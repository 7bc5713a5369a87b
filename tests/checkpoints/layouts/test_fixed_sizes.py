"""Published models with a fixed size on images of other sizes: resized, padded and normalised as by their authors.

Each layout with the project default `fixed_size` needs a model in `MODELS`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import densevit
from densevit import config as configs
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.interfaces import IMAGENET_MEAN, IMAGENET_STD
from densevit.layouts import every, find
from densevit.model import DenseModel
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.key_mapping import translate
from densevit_heads.parts.mask_checkpoints import KEYS
from tests.built_models import build_model
from tests.checkpoints.layouts import dense_models
from tests.checkpoints.layouts.models import randomised
from tests.checkpoints.layouts.test_authors_names import of_eomt
from tests.heads.pmt import authors_decoder

pytestmark = pytest.mark.integration

SIZES = [(320, 320), (240, 320), (320, 200), (90, 120), (211, 317)]  # square, wide, tall, small, odd
FIXED = [layout.name for layout in every() if "fixed_size" in layout.options.project_defaults]
Network = Callable[[Tensor], tuple[Tensor, Tensor]]  # normalised images -> logits of masks and of classes


def eomt(version: int, layout: str, task: str, folder: Path, side: int) -> tuple[DenseModel, Network]:
    theirs = dense_models.eomt(version, task, side)
    if layout.startswith("transformers"):
        theirs.save_pretrained(folder)
    else:
        save_file({key: x.contiguous() for key, x in of_eomt(theirs).items()}, folder / "authors.safetensors")
        folder = folder / "authors.safetensors"

    def network(pixels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = theirs(pixels)
        return outputs.masks_queries_logits, outputs.class_queries_logits

    return convert(str(folder), layout).model, network


RECIPES = {"panoptic": "coco/pmt_large_panoptic", "instance": "coco/pmt_large_instance", "semantic": "ade20k/pmt_large"}


def pmt(layout: str, task: str, folder: Path, side: int) -> tuple[DenseModel, Network]:
    """The recipe with a decoder and a DINOv3 of the width and the heads of a DeiT-Ti."""
    import transformers

    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    theirs = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**sizes, num_register_tokens=4))
    randomised(theirs, {"token|position": 11.0, r"\.weight$": 1.0}, 0.3)
    num_classes, num_queries, _, _ = dense_models.TASKS[task]
    state = authors_decoder.state(192, num_classes, num_queries, 2, 4)
    blocks = getattr(theirs, "model", theirs).layer

    def network(pixels: Tensor) -> tuple[Tensor, Tensor]:
        levels: list[Tensor] = []

        def collect(module: Any, inputs: Any, output: Any) -> None:
            levels.append(theirs.norm(output if isinstance(output, Tensor) else output[0]))

        hooks = [blocks[i].register_forward_hook(collect) for i in (2, 5, 8, 11)]
        theirs(pixels)
        for hook in hooks:
            hook.remove()
        grid = (pixels.shape[2] // 16, pixels.shape[3] // 16)
        return authors_decoder.outputs(state, levels, theirs.rope_embeddings(pixels), grid)

    overrides = ["backbone.variant=tiny", f"backbone.image_size={side}", f"data.image_size={side}"]
    overrides += [f"heads.{KEYS[task]}.num_blocks=2"]
    if task == "semantic":
        overrides += [f"data.transforms.short_side={side}", f"inference.window={side}", f"inference.stride={side}"]
    head, backbone = find(layout), find("transformers-dinov3")
    model = build_model(configs.load(RECIPES[task], overrides), head.classes(state, {}) if head.classes else {}).eval()
    described = head.describe(translate(state, head).tensors)["backbone"]
    assert described["fixed_size"] == (model.backbone.input_size is not None)
    assert head.publishing.black_padding == model.backbone.black_padding
    tensors = {f"backbone.{key}": x for key, x in translate(theirs.state_dict(), backbone).tensors.items()}
    missing, unexpected = model.load_state_dict(tensors | translate(state, head).tensors, strict=False)
    assert unexpected == [] and all(key.endswith("num_batches_tracked") for key in missing)
    return model, network


MODELS: dict[str, Callable[[str, str, Path, int], tuple[DenseModel, Network]]] = {
    "transformers-eomt": lambda *case: eomt(2, *case),
    "transformers-eomt-dinov3": lambda *case: eomt(3, *case),
    "eomt": lambda *case: eomt(2, *case),
    "pmt": pmt,
}


def made(layout: str, folder: Path, side: int) -> tuple[str, DenseModel, Network]:
    """The task, our model and theirs. side: of the canvas."""
    root, _, task = layout.rpartition("-")
    root, task = (root, task) if task in KEYS else (layout, "panoptic")
    return (task, *MODELS[root](layout, task, folder, side))


def photos() -> list[np.ndarray]:
    """Images (H, W, 3) of smooth colours and noise."""
    rng, images = np.random.default_rng(3), []
    for height, width in SIZES:
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noise = rng.integers(-20, 21, (height, width, 3))
        images.append((smooth + noise).clip(0, 255).astype(np.uint8))
    return images


def resized(model: DenseModel, image: np.ndarray, factor: float) -> Tensor:
    """The image (3, h, w) as resized here, which differs from Pillow's by at most one level."""
    size = [round(side * factor) for side in image.shape[:2]]
    assert model.resize is not None
    sample = {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "targets": {}}
    pixels = EvaluationTransform(model.resize)(sample)["image"]  # type: ignore[arg-type]
    pillow = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(pixels.numpy().astype(int) - pillow.astype(int)).max() <= 1
    return pixels


def normalised(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, h, w), as in the authors' `forward`."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels / 255 - mean) / std


def padded_to_square(model: DenseModel, network: Network, image: np.ndarray, side: int) -> tuple[Tensor, Tensor]:
    """The authors' logits of masks (Q, H, W) and of classes (Q, K + 1) for panoptic and instance segmentation."""
    height, width = image.shape[:2]
    pixels = resized(model, image, min(side / height, side / width))
    canvas = torch.zeros(1, 3, side, side)
    canvas[0, :, : pixels.shape[1], : pixels.shape[2]] = pixels
    masks, labels = network(normalised(canvas))
    masks = F.interpolate(masks, (side, side), mode="bilinear")[..., : pixels.shape[1], : pixels.shape[2]]
    return F.interpolate(masks, (height, width), mode="bilinear")[0], labels[0]


def in_windows(model: DenseModel, network: Network, image: np.ndarray, side: int) -> Tensor:
    """The authors' class scores (K, H, W) for semantic segmentation, of windows along the long side."""
    height, width = image.shape[:2]
    pixels = resized(model, image, max(side / height, side / width))
    axis = 1 if height > width else 2
    count = math.ceil(pixels.shape[axis] / side)
    overlap = (count * side - pixels.shape[axis]) / max(count - 1, 1)
    total, counts = torch.zeros(1), torch.zeros(pixels.shape[1:])
    for i in range(count):
        part = torch.zeros_like(counts)
        start = int(i * (side - overlap))
        part.narrow(axis - 1, start, side).fill_(1)
        masks, labels = network(normalised(pixels.narrow(axis, start, side)[None]))
        scores = class_scores(F.interpolate(masks, (side, side), mode="bilinear")[0], labels[0])
        before = (start, 0) if axis == 1 else (0, start)
        after = (pixels.shape[1] - before[0] - side, pixels.shape[2] - before[1] - side)
        total = total + F.pad(scores, (before[1], after[1], before[0], after[0]))
        counts += part
    return F.interpolate((total / counts)[None], (height, width), mode="bilinear")[0]


def class_scores(masks: Tensor, labels: Tensor) -> Tensor:
    """(K, H, W)."""
    return torch.einsum("qhw,qk->khw", masks.sigmoid(), labels.softmax(-1)[:, :-1])


def close(found: Tensor, expected: Tensor) -> None:
    """To 1e-4 of the range, which is not that of a constant."""
    assert expected.std() > 0.01
    spread = float(expected.max() - expected.min())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * spread)


@pytest.mark.parametrize("layout", FIXED)
@torch.no_grad()
def test_images_of_any_size_are_predicted_as_by_the_authors(layout: str, tmp_path: Path) -> None:
    side = 320
    task, model, network = made(layout, tmp_path, side)
    [head] = model.heads.values()
    images = photos()
    if task == "semantic":
        strips: list[Tensor] = []
        read_maps = head.read_maps

        def recorded(maps: Tensor) -> Any:
            strips.append(maps[0])
            return read_maps(maps)

        for image in images:
            strips.clear()
            head.read_maps = recorded  # type: ignore[method-assign]
            model.predict(image)
            close(torch.cat(strips, dim=1), in_windows(model, network, image, side))
        return
    outputs: list[Any] = []
    with head.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        results = model.predict(images, threshold=0)
    [batch] = outputs  # one batch, as all have the size of the canvas
    for i, (image, result) in enumerate(zip(images, results, strict=True)):
        masks, labels = padded_to_square(model, network, image, side)
        close(batch["logits"][i], labels)
        sizes = [round(length * side / max(image.shape)) for length in image.shape[:2]]
        own = F.interpolate(batch["masks"][i : i + 1], (side, side), mode="bilinear")[..., : sizes[0], : sizes[1]]
        close(F.interpolate(own, image.shape[:2], mode="bilinear")[0], masks)
        if task == "panoptic":
            assert (result.semantic == class_scores(masks, labels).argmax(0)).float().mean() > 0.999
        else:
            scores = labels.softmax(-1)[:, :-1].flatten().topk(100)
            masks = masks[scores.indices // (labels.shape[1] - 1)]
            foreground = masks > 0
            quality = (masks.sigmoid() * foreground).sum((1, 2)) / (foreground.sum((1, 2)) + 1e-6)
            expected = (scores.values * quality).sort(descending=True).values
            # The mean over the mask is computed at the size of the canvas here, and at the image's there.
            tolerance = 1e-4 if max(image.shape) == side else 1e-2
            torch.testing.assert_close(result.scores, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", [layout for layout in FIXED if layout in MODELS])
@torch.no_grad()
def test_exported_files_pad_as_the_model(layout: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (tmp_path / "theirs").mkdir()
    _, model, network = made(layout, tmp_path / "theirs", 96)
    densevit.export(model, tmp_path / "model.onnx", quiet=True)
    images = photos()
    results = densevit.load(tmp_path / "model.onnx").predict(images)
    for image, result in zip(images, results, strict=True):
        expected = class_scores(*padded_to_square(model, network, image, 96)).argmax(0)
        assert (result.semantic == expected).float().mean() > 0.999
