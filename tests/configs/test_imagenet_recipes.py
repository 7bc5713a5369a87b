"""The ImageNet recipes have the papers' settings, and each takes one step with a small model."""

from pathlib import Path

import pytest
import torch
from torch import nn

import densevit
from densevit import config as configs
from densevit.training.loop.optim import learning_rate
from tests.configs.published import one_step

# Of the papers and their authors' commands: devices, images of a step, learning rate, epochs, epochs of the warm-up
SETTINGS = {
    "dino_vit_small": (8, 512, 5e-4 * 512 / 256, 100, 10),
    "mae_vit_base": (64, 4096, 1.5e-4 * 4096 / 256, 1600, 40),
    "moco_v3_vit_base": (64, 4096, 1.5e-4 * 4096 / 256, 300, 40),
    "simmim_swin_base": (16, 2048, 2e-4 * 2048 / 512, 100, 10),
    "beit_vit_base": (16, 2048, 1.5e-3, 800, 10),
    "deit_small": (4, 1024, 5e-4 * 1024 / 512, 300, 5),
    "deit_small_distilled": (4, 1024, 5e-4 * 1024 / 512, 300, 5),
}


class Tokenizer(nn.Module):
    """The brightness of each cell of 16 pixels."""

    vocabulary, stride = 16, 16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (nn.functional.avg_pool2d(images.mean(1, keepdim=True), 16)[:, 0] * 15.99).long()


def test_settings_are_the_published_ones() -> None:
    assert {path.stem for path in Path("configs/imagenet").glob("*.yaml")} == set(SETTINGS)
    for name, (devices, images, lr, epochs, warmup) in SETTINGS.items():
        config = configs.load(f"configs/imagenet/{name}.yaml", [f"trainer.devices={devices}", "trainer.accumulate=1"])
        assert config.data.batch_size * devices == images, name
        assert learning_rate(config.optim, images) == pytest.approx(lr), name
        assert config.trainer.max_epochs == epochs, name
        assert round(config.optim.warmup * epochs, 1) == pytest.approx(warmup, abs=0.1), name
        alone = configs.load(f"configs/imagenet/{name}.yaml")
        if name != "moco_v3_vit_base":  # which compares the images of one batch
            assert alone.data.batch_size * alone.trainer.accumulate == images, name


@pytest.mark.integration
@pytest.mark.parametrize("name", SETTINGS)
def test_recipe_trains_one_step(name: str, photos: Path) -> None:
    smaller = [
        f"data.root={photos}",
        "data.batch_size=2",
        "data.num_workers=0",
        "data.image_size=64",
        "backbone.variant=nano",
        *(["backbone.features=[6]"] if "vit" in name or "deit" in name else []),
    ]
    if name == "beit_vit_base":
        smaller.append(f"method.tokenizer={{name: '{__name__}:Tokenizer'}}")
    if name == "deit_small_distilled":
        teacher = densevit.create_model(
            "resnet", heads={"classification": {"name": "classifier"}}, classes={"classification": ["cat", "dog"]}
        )
        densevit.save(teacher, photos / "teacher.safetensors")
        smaller.append(f"method.teacher={photos / 'teacher.safetensors'}")
    one_step(configs.load(f"configs/imagenet/{name}.yaml", smaller))
