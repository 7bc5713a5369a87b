"""Part 3: training steps of published models on synthetic batches, in each precision, compared with transformers'.

A step is forward pass, losses with matching, backward pass, clipping and AdamW, on a batch on the device. TFLOP/s count
products and convolutions of the forward and backward pass by torch's counter; the card's peak is measured with a
product of 8192 x 8192 matrices in bf16.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from interleaved import seconds
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import densevit
from densevit import config as configs
from densevit.model import build_from_sections, classes_by_head
from densevit.targets import RunLengthMasks
from gpu_parts.results import Case, Setting, need
from gpu_parts.training import Step, peak_gb

CLASSES = {"detection": 80, "segmentation": 150}
MODELS: dict[str, tuple[str, tuple[int, int], tuple[str, ...]]] = {  # config, size of images, overrides
    "DETR-R50": ("coco/detr_r50", (800, 1344), ()),
    "Deformable DETR": ("coco/deformable_detr_r50", (800, 1344), ()),
    "Mask2Former-R50": ("coco/mask2former_r50", (1024, 1024), ()),
    "D-FINE-L": ("coco/dfine_l", (640, 640), ("backbone.pretrained=false",)),
    "ViT-L with DPT": (
        "nyu/depth_anything_v2_small",
        (518, 686),
        (
            "backbone.variant=large",
            "backbone.features=[5,12,18,24]",
            "heads.depth.width=256",
            "heads.depth.reassemble_channels=[256,512,1024,1024]",
        ),
    ),
}
SMOKE = {
    "DETR-R50": ("backbone.depth=18",),
    "Mask2Former-R50": ("backbone.depth=18",),
    "D-FINE-L": ("backbone.model=hgnetv2_b0", "backbone.pretrained=false"),
    "ViT-L with DPT": ("backbone.variant=tiny", "backbone.features=[3, 6, 9, 12]"),
}


def cases(setting: Setting) -> list[Case]:
    """The most valuable first: bf16 of all, the precisions, compilation, memory, batch sizes."""
    every_case: list[Case] = [
        ("peak of bf16 products", peak),
        *((f"{name}, batch 2, bf16", partial(_step, name, 2, "bf16")) for name in MODELS),
        ("ViT-L with DPT, batch 8, bf16", partial(_step, "ViT-L with DPT", 8, "bf16")),
        *(
            (f"DETR-R50, batch 2, {precision}", partial(_step, "DETR-R50", 2, precision))
            for precision in ("fp32", "tf32", "fp16")
        ),
        *(
            (f"{name} of transformers, batch 2, bf16", partial(_peer, name, 2, "bf16"))
            for name in ("DETR-R50", "Deformable DETR")
        ),
        *((f"DETR-R50, batch {batch}, bf16", partial(_step, "DETR-R50", batch, "bf16")) for batch in (8, 16)),
        ("DETR-R50 of transformers, batch 8, bf16", partial(_peer, "DETR-R50", 8, "bf16")),
        *(
            (f"{name}, batch 8, bf16, checkpointing", partial(_step, name, 8, "bf16", checkpointing=True))
            for name in ("DETR-R50", "ViT-L with DPT")
        ),
        *(
            (f"{name}, batch 2, {precision}", partial(_step, name, 2, precision))
            for name in list(MODELS)[1:]
            for precision in ("fp32", "tf32", "fp16")
        ),
        *(
            (f"{name}, batch 8, bf16, compiled", partial(_step, name, 8, "bf16", compiled=True))
            for name in ("ViT-L with DPT", "DETR-R50")
        ),
    ]
    if setting.smoke:
        chosen = (
            "peak",
            "R50, batch 2, bf16",
            "L, batch 2, bf16",
            "DPT, batch 2, bf16",
            "DETR-R50 of transformers, batch 2",
        )
        every_case = [(name, case) for name, case in every_case if any(text in name for text in chosen)]
    return every_case


def peak(setting: Setting) -> dict[str, float]:
    """The card's TFLOP/s in bf16, with random values."""
    side = 128 if setting.smoke else 8192
    a, b = torch.randn(2, side, side, device=setting.device, dtype=torch.bfloat16)
    times = [seconds(lambda: a @ b) for _ in range(13)]
    return {"TFLOP/s": 2 * side**3 / min(times[3:]) / 1e12}


def _step(
    name: str, batch: int, precision: str, setting: Setting, *, checkpointing: bool = False, compiled: bool = False
) -> dict[str, Any]:
    config, size, overrides = MODELS[name]
    if name == "D-FINE-L":
        need("timm")
    chosen = precision
    if setting.smoke:
        size, overrides, chosen = (64, 96), SMOKE[name], "fp32"
    overrides = (*overrides, "backbone.weights=null", f"backbone.gradient_checkpointing={checkpointing}")
    resolved = configs.load(config, overrides)
    torch.manual_seed(0)
    classes = {task: [densevit.Class(str(i), i, (0, 0, 0)) for i in range(count)] for task, count in CLASSES.items()}
    model = build_from_sections(resolved, classes_by_head(resolved, classes))
    inputs = synthetic(batch, size)
    return measure(setting, lambda: Step.of(model, inputs, chosen, setting.device, compiled), batch)


def synthetic(batch: int, size: tuple[int, int]) -> dict[str, Any]:
    """Images with 7 objects each, their masks (N, H, W), a depth map, without padding."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, *size), dtype=torch.uint8, generator=random)
    targets = []
    for i in range(batch):
        low = torch.rand(7, 2, generator=random) * 0.6
        corners = torch.cat([low, low + 0.05 + 0.3 * torch.rand(7, 2, generator=random)], 1)
        boxes = corners * torch.tensor([size[1], size[0]] * 2)
        dense = np.zeros((7, *size), np.uint8)
        for mask, (x0, y0, x1, y1) in zip(dense, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        labels = torch.randint(80, (7,), generator=random)
        depth = 1 + 9 * torch.rand(size, generator=random)
        masks = RunLengthMasks.from_dense(dense, size)
        target = {"boxes": boxes, "labels": labels, "masks": masks, "depth": depth}
        targets.append(target | {"image_id": i, "size": size, "original_size": size})
    return {"images": images, "padding_mask": torch.zeros(batch, *size, dtype=torch.bool), "targets": targets}


def measure(setting: Setting, make: Any, batch: int) -> dict[str, Any]:
    """Time, memory and TFLOP/s of a step, from a function that makes it."""
    peak_gb(setting.device, reset=True)
    step = make()
    with FlopCounterMode(display=False) as counter:
        step()
    median = step.seconds(1, 0) if setting.smoke else step.seconds(10)
    memory = peak_gb(setting.device, reset=True)
    flops = counter.get_total_flops()
    return {"ms": 1e3 * median, "images/s": batch / median, "GB": memory, "TFLOP/s": flops / median / 1e12}


def _peer(name: str, batch: int, precision: str, setting: Setting) -> dict[str, Any]:
    """transformers' model on the same images, with its frozen batch norm, and the same trained stages."""
    need("transformers", "timm")
    import transformers

    prefix = name.replace("-R50", "").replace(" DETR", "Detr").replace("DETR", "Detr")
    options = {"num_labels": 80, "auxiliary_loss": True, "num_queries": 100 if prefix == "Detr" else 300}
    options |= {"use_pretrained_backbone": False}
    config = getattr(transformers, f"{prefix}Config")(**options, attention_dropout=0.1, activation_dropout=0.1)
    model = getattr(transformers, f"{prefix}ForObjectDetection")(config)
    for key, parameter in model.model.backbone.named_parameters():
        parameter.requires_grad_(any(stage in key for stage in ("layer2", "layer3", "layer4")))
    size = (64, 96) if setting.smoke else MODELS[name][1]
    inputs = synthetic(batch, size)
    pixels = (inputs["images"].to(setting.device).float() - 127.5) / 57.5
    scale = torch.tensor([size[1], size[0]])
    labels = [
        {
            "class_labels": target["labels"].to(setting.device),
            "boxes": torch.cat([
                (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2 / scale,
                (target["boxes"][:, 2:] - target["boxes"][:, :2]) / scale,
            ], 1).to(setting.device),
        }
        for target in inputs["targets"]
    ]  # fmt: skip
    mask = torch.ones(batch, *size, dtype=torch.long, device=setting.device)
    model.to(setting.device).train()

    def loss() -> Tensor:
        value: Tensor = model(pixels, pixel_mask=mask, labels=labels).loss
        return value

    chosen = "fp32" if setting.smoke else precision
    return measure(setting, lambda: Step(model, loss, chosen, setting.device), batch)
