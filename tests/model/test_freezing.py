"""Freezing by depth and by name keeps tensors bit-identical; fine-tuning examples of the docs."""

import re
from typing import Any

import pytest
from torch import nn

from densevit import config as configs
from densevit.errors import ConfigError, DensevitError
from densevit.model import DenseModel
from tests.built_models import build_model
from tests.model import test_lora

SWIN = {"name": "swin", "variant": "nano", "window_size": 4, "stem": "conv"}  # its stem has batch norms


def config_of(backbone: dict[str, Any] | None = None, head: dict[str, Any] | None = None) -> configs.Config:
    return test_lora.config_of({**SWIN, **(backbone or {})}, heads={"surfaces": {**test_lora.SURFACES, **(head or {})}})


def build(backbone: dict[str, Any] | None = None, head: dict[str, Any] | None = None) -> DenseModel:
    return build_model(config_of(backbone, head), {"segmentation": test_lora.CLASSES})


def frozen_of(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def starting(model: nn.Module, *prefixes: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def test_integer_freezes_the_first_depths():
    for count, parts in ((0, ()), (1, ("patch_",)), (3, ("patch_", "stages.0.", "stages.1."))):
        backbone = build({"freeze": count}).backbone
        assert frozen_of(backbone) == (starting(backbone, *parts) if parts else set())
    assert frozen_of(build({"freeze": 8}).backbone) == frozen_of(build({"freeze": True}).backbone) != set()
    with pytest.raises(ConfigError, match=r"backbone.freeze is 9, but the backbone has 8 depths"):
        build({"freeze": 9})


def test_parts_that_are_frozen_without_weights_are_an_error_before_the_data_is_read():
    from densevit.training.run.inputs import TrainingInputs

    def check(**backbone: Any) -> None:
        TrainingInputs.of(configs.with_overrides(config_of(backbone), ["data.name=coco", "data.root=missing"]))

    for allowed in ({}, {"freeze": 1, "weights": "swin.safetensors"}, {"freeze": 1, "weights": "random"}):
        with pytest.raises(DensevitError, match="missing"):  # the data
            check(**allowed)
    for frozen in ({"freeze": 1}, {"freeze": True}, {"lora": {"rank": 2}}):
        with pytest.raises(ConfigError, match=r"[\d,]+ of [\d,]+ parameters .* frozen, .* backbone\.weights=random"):
            check(**frozen)
    resnet = {"name": "resnet", "depth": 18, "frozen_stages": 1}
    with pytest.raises(ConfigError, match="frozen"):
        TrainingInputs.of(configs.from_mapping({**config_of().model_dump(), "backbone": resnet}))


def test_patterns_freeze_matching_parameters():
    backbone = build({"freeze": ["stages.1.*", "*.norm1.bias"]}).backbone
    bias = {name for name, _ in backbone.named_parameters() if name.endswith("norm1.bias")}
    assert len(bias) == 6 and frozen_of(backbone) == starting(backbone, "stages.1.") | bias
    for wrong, near in (("stage.1.*", "stages.1.*"), ("patch_embd.*", "patch_embed.*")):
        facts = f"backbone.freeze: .*{re.escape(wrong)}.* Closest: {re.escape(near)}"
        with pytest.raises(ConfigError, match=facts):
            build({"freeze": ["stages.1.*", wrong]})


def test_completely_frozen_modules_stay_in_eval_mode():
    model = build({"freeze": ["patch_embed.*", "stages.2.1.norm1.*"]}, {"freeze": ["decode.project.*"]})
    prefixes = (r"backbone\.patch_embed", r"heads\.surfaces\.decode\.project", r"backbone\.stages\.2\.1\.norm1")
    for mode in (model.train, model.eval, model.train):
        mode()
        still = {name for name, module in model.named_modules() if not module.training}
        names = {name for name, _ in model.named_modules()}
        assert still == {n for n in names if mode == model.eval or re.match(rf"({'|'.join(prefixes)})(\.|$)", n)}
