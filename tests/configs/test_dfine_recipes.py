"""Recipes of the published trainings of D-FINE on COCO: settings, parameters, one step."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from densevit import config as configs
from densevit.weights.label_sets import coco_classes
from tests.configs.generated import make_coco
from tests.configs.published import count, full_model, one_step

SIZES = "nsmlx"
# Counted in the authors' code, less `up` and `reg_scale`, and the row of the label embedding for padding.
PARAMETERS = {"n": 3_782_693 - 2 - 128, "s": 10_321_877 - 2 - 256, "m": 19_590_064 - 2 - 256}
PUBLISHED: dict[str, tuple[Any, ...]] = {  # epochs, of the first phase; images; lr, of the backbone; weight decay; 640s
    "n": (160, 148, 128, 8e-4, 4e-4, 1e-4, None),
    "s": (132, 120, 32, 2e-4, 1e-4, 1e-4, 20),
    "m": (132, 120, 32, 2e-4, 2e-5, 1e-4, 6),
    "l": (80, 72, 32, 2.5e-4, 1.25e-5, 1.25e-4, 4),
    "x": (80, 72, 32, 2.5e-4, 2.5e-6, 1.25e-4, 3),
}


def path_of(size: str) -> Path:
    return Path(f"configs/coco/dfine_{size}.yaml")


@pytest.mark.parametrize("size", SIZES)
def test_recipe_has_the_settings_of_the_authors_configs(size: str) -> None:
    """configs/dfine/dfine_hgnetv2_*_coco.yml and include/ of Peterande/D-FINE."""
    config = configs.load(path_of(size))
    epochs, first, images, lr, backbone_lr, decay, repeats = PUBLISHED[size]
    optim, trainer, data = config.optim, config.trainer, config.data
    assert (trainer.max_epochs, data.batch_size * trainer.accumulate) == (epochs, images)
    assert (optim.lr, optim.backbone_lr, optim.weight_decay) == (lr, backbone_lr, decay)
    assert (optim.schedule, optim.warmup_steps, trainer.clip_grad_norm) == ("constant", 500, 0.1)
    assert (trainer.ema, trainer.ema_warmup, data.image_size) == (0.9999, 1000, 640)
    if repeats is None:
        assert data.multi_scale is None
    else:
        expected = Counter(range(480, 801, 32))
        expected[640] = repeats
        assert Counter(data.multi_scale) == expected
    assert data.final_phase is not None and data.in_final_phase.multi_scale is None
    assert data.final_phase.start == pytest.approx(first / epochs, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_those_of_the_authors(size: str) -> None:
    model = full_model(configs.load(path_of(size)), {"detection": coco_classes()})
    backbone = dict(model.backbone.named_parameters())
    frozen = {name for name, parameter in backbone.items() if not parameter.requires_grad}
    if size in PARAMETERS:
        assert count(model) == PARAMETERS[size] and not frozen
    else:  # the stem and all batch norms
        assert frozen == {name for name in backbone if ".stem." in name or ".bn." in name}


@pytest.mark.integration
@pytest.mark.parametrize("size", "nl")
def test_smaller_recipe_trains_one_step_in_both_phases(size: str, tmp_path: Path) -> None:
    head, root = "heads.detection", make_coco(tmp_path / "coco", (60, 90))
    smaller = [f"{head}.encoder.width=32", f"{head}.transformer.width=32", "backbone.model=hgnetv2_b0"]
    more = [f"data.root={root}", "data.num_workers=0", "data.batch_size=2", "data.image_size=64"]
    if size == "l":
        more.append("data.multi_scale=[64, 96]")
    for last in ([], ["data.transforms=plain_stretch"]):
        step = one_step(configs.load(path_of(size), [*smaller, *more, *last]), 64)
        assert step.batch["images"].shape[-2:] in ((64, 64), (96, 96)) and not step.batch["padding_mask"].any()
