"""Plain transformers with patches of 8, 14 and 16 pixels, with and without registers, as DINOv2 and DINOv3 are: the
heads of configs/paper train on them, and all probes measure them."""

from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit import config as configs
from densevit import registry
from densevit.interfaces import Class
from densevit.model import DenseModel, build_from_sections
from densevit_probes.probe import Probe
from densevit_workbench.testing.targets import random_targets
from tests.configs.test_paper_recipes import RECIPES, SMALL

SIZES = ((100, 130), (90, 64))
CLASSES = tuple(Class(str(i), i + 1, (i, i, i)) for i in range(150))

pytestmark = pytest.mark.integration


def overrides(plugin: str, patch: int, registers: int) -> list[str]:
    """A backbone of random weights with four narrow blocks."""
    options = f"variant: nano, patch_size: {patch}, registers: {registers}"
    if plugin == "timm":
        narrow = f"{{depth: 4, embed_dim: 32, num_heads: 2, patch_size: {patch}, reg_tokens: {registers}}}"
        options = f"model: vit_small_patch14_dinov2, feature_norm: true, model_args: {narrow}"
    return [f"backbone={{name: {plugin}, weights: random, {options}}}"]


def batch(model: DenseModel, required_targets: tuple[str, ...]) -> dict[str, Any]:
    """Two images of different sizes, padded to the model's size divisor, with random targets."""
    generator = torch.Generator().manual_seed(0)
    targets = [random_targets(required_targets, size, 4, generator, image_id=i) for i, size in enumerate(SIZES)]
    height, width = (-(-max(sides) // model.size_divisor) * model.size_divisor for sides in zip(*SIZES, strict=True))
    mask = torch.ones(2, height, width, dtype=torch.bool)
    for inside, (h, w) in zip(mask, SIZES, strict=True):
        inside[:h, :w] = False
    images = torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    return {"images": images, "padding_mask": mask, "targets": [{**t, "truth": t} for t in targets]}


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("plugin", ["timm", "vit"])
def test_paper_heads_train_and_probes_measure(plugin: str, patch: int, registers: int) -> None:
    for path in RECIPES:
        model, required_targets = paper_model(path, overrides(plugin, patch, registers))
        assert model.backbone.strides == (patch,) * 4
        data = batch(model, required_targets)
        total = torch.stack([*model.losses_of(model(data), data["targets"]).values()]).sum()
        total.backward()
        assert total.isfinite() and all(p.grad is not None for p in model.heads.parameters())
    for name in densevit.list_plugins("probes"):
        metrics = measured(registry.load("probes", name), model.eval())
        metrics.pop("auc_in_class", None)  # no image has two objects of a class
        assert metrics and all(0 <= value <= 180 for value in metrics.values()), (name, metrics)


def paper_model(path: Path, backbone: list[str]) -> tuple[DenseModel, tuple[str, ...]]:
    """A recipe's narrow model in training, with the neck of its transformers; and the target keys of its head."""
    [head] = configs.load(path).heads
    narrow = [option for option in SMALL[path.stem] if option.startswith("heads.")]
    config = configs.load(path, [*backbone, *narrow, f"heads.{head}.neck.name=simple_pyramid"])
    torch.manual_seed(0)
    model = build_from_sections(config, {head: () if head == "depth" else CLASSES}).train()
    return model, model.heads[head].required_targets


@torch.no_grad()
def measured(kind: type[Probe], model: DenseModel) -> dict[str, float]:
    """The metrics of a probe that is fitted to two images, on these images."""
    data = batch(model, (*kind.required_targets, "semantic"))
    probe = kind(CLASSES[:4])
    features, evaluator = probe.features(model.features, data, model.backbone.strides[-1]), kind.evaluator(CLASSES[:4])
    if probe.is_fitted:
        probe.fit(features)
    pairs = [probe.scored(*pair) for pair in zip(features, data["targets"], strict=True)]
    evaluator.update(*([*side] for side in zip(*pairs, strict=True)))
    return evaluator.metrics()
