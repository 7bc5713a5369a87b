"""What all methods of pretraining have in common: gradients, short trainings and wrong options."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import densevit
from densevit import registry
from densevit.errors import ConfigError
from densevit.interfaces import LossContext
from tests.methods.pretraining import built, config, views_of
from tests.training.runs import rows, weights

METHODS: dict[str, dict[str, Any]] = {
    "mae": {"width": 32, "depth": 2, "num_heads": 4},
    "simmim": {},
    "dino": {"local_crops": 2, "global_size": 64, "local_size": 32, "prototypes": 24},
    "moco_v3": {"image_size": 64, "hidden": 20, "width": 12},
}


@pytest.mark.integration
@pytest.mark.parametrize("name", ["mae", "dino"])
def test_training_on_images_of_different_sizes(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (40 + 9 * i, 90 - 7 * i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
    data = {"name": "images", "root": str(tmp_path), "image_size": 64, "batch_size": 2, "num_workers": 0}
    run = densevit.fit(config({"name": name, **METHODS[name]}, "vit", data=data), run_dir=tmp_path / "run")
    losses = [float(row["train/loss"]) for row in rows(run.path) if row.get("train/loss")]
    assert len(losses) == 2 and np.isfinite(losses).all()
    saved = load_file(run.path / "model.safetensors")
    assert saved and all(part.startswith("backbone.") for part in saved)
    if name == "mae":
        assert 0 < run.metrics["method/loss"] < 5
    else:  # its teacher is what is saved
        state = weights(run.path)
        assert all(torch.equal(x, state[f"method.teacher.{part}"]) for part, x in saved.items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mae", {"width": 30}, "width is 30, num_heads 4"),
        ("simmim", {"patch": 24}, "patch is 24; .* multiple of 16, the finest stride of ViT"),
        ("dino", {"momentum": 1.5}, "momentum is 1.5"),
        ("dino", {"global_scale": (0.5, 0.2)}, r"global_scale is \[0.5, 0.2\]"),
        ("moco_v3", {"temperature": 0.0}, "temperature 0"),
    ],
)
def test_wrong_options_are_errors(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(name, "vit" if "patch" in options else "swin", **{**METHODS[name], **options})


def test_one_image_has_no_contrast() -> None:
    model, method = built("moco_v3", **METHODS["moco_v3"])
    with pytest.raises(ConfigError, match=r"Fix: set data\.batch_size to 2"):
        method.training_step(model, views_of(64, 64, count=1), LossContext())


def test_methods_that_resample_see_no_missing_pixels() -> None:
    methods = {name: registry.load("methods", name) for name in registry.find("methods")}
    ours = [name for name, method in methods.items() if method.__module__.startswith("densevit_methods")]
    assert [name for name in ours if methods[name].any_channels] == ["self_training"]  # which uses the data's transform
