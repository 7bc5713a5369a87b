"""First layers that were adapted to other channels are trained in frozen depths, under LoRA, and in later runs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import densevit
from densevit import config as configs
from densevit.channels import RGB
from densevit.errors import ConfigError
from densevit.model import DenseModel
from densevit.model.parameter_groups import parameter_groups, parameter_rates
from densevit.model.stem_channels import has_new_filters, stem_tensors
from densevit_backbones.resnet import ResNet
from tests.model.test_stem_channels import FAMILIES
from tests.training.runs import interrupted_after, resume, train

NIR = ("red", "green", "blue", "nir")
NEW = (("p", "q", "r"), NIR, ("grey",))
KEPT = (("green", "red"), ("blue", "red", "green"))
FIRST = ("vit", "swin", "mvit", "resnet", "mit", "timm")
WALK = [("resnet", names) for names in (*NEW, *KEPT)] + [("vit", KEPT[0])]
WALK += [
    pytest.param(family, NEW[0], marks=() if family in FIRST else pytest.mark.integration)
    for family in FAMILIES
    if family != "resnet"
]
SETR = {"name": "setr", "decoder": "naive", "width": 8, "norm": "group", "auxiliary": []}
LORA = {"rank": 2, "alpha": 4.0, "targets": ["*"]}


def section(family: str, names: tuple[str, ...], **options: Any) -> dict[str, Any]:
    count = len(names)
    channels = {"names": [*names], "dtype": "float32", "range": [[0.0, 1.0]] * count}
    name = family.partition(",")[0]
    return {
        "name": name,
        **FAMILIES.get(family, {}),
        "channels": channels,
        "mean": [0.5] * count,
        "std": [0.3] * count,
        **options,
    }


def created(backbone: dict[str, Any], weights: Path | None = None) -> DenseModel:
    return densevit.create_model(backbone, {"seg": SETR}, classes=["a", "b"], weights=weights).model


def changed_by_a_step(model: DenseModel) -> set[str]:
    """The parameters of the backbone that one step of SGD changes, with layer decay and the same rate for all."""
    model.train()
    groups = parameter_groups(parameter_rates(model, 1e-2, layer_decay=0.9))
    before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
    features = model.backbone(torch.randn(2, len(model.channels.names), 64, 64))
    loss = torch.stack([(x * torch.randn_like(x)).sum() for x in features]).sum()
    if loss.requires_grad:
        loss.backward()
    torch.optim.SGD(groups, lr=1e-2).step()
    return {name for name, p in model.backbone.named_parameters() if not torch.equal(p, before[name])}


def rate_of(model: DenseModel, name: str) -> float | None:
    rates = parameter_rates(model, 1.0, backbone_lr=0.25, layer_decay=0.5)
    return {rate.name: rate.lr for rate in rates}[f"backbone.{name}"]


# ---- a step ----


@pytest.mark.parametrize(("family", "names"), WALK)
def test_a_step_trains_the_stem_exactly_if_it_was_adapted(family, names, tmp_path):
    """From weights of the whole model and of the backbone; with some depths, all depths, patterns, or LoRA frozen."""
    torch.manual_seed(0)
    plain = {"name": family.partition(",")[0], **FAMILIES[family]}
    source = created(plain)
    densevit.save(source, tmp_path / "rgb.safetensors")
    weights = tmp_path / "rgb.safetensors"
    depths = len(source.backbone.parameter_depths())
    linear = any(isinstance(module, nn.Linear) for module in source.backbone.modules())
    assert has_new_filters(RGB.names, names) == (names in NEW)
    for i, frozen in enumerate((1, depths, ["*"], None)):
        if frozen is None and not linear:
            continue
        options = section(family, names, **({"lora": LORA} if frozen is None else {"freeze": frozen}))
        model = created(options, weights) if i % 2 else created({**options, "weights": str(weights)})
        assert model.sections is not None
        stem = {*stem_tensors(model.sections.backbone)}
        bare = {key: value for key, value in options.items() if key not in ("lora", "freeze")}
        assert {*model.sections.backbone.adapted_stem} == (stem if names in NEW else set())
        for name in stem:
            expected = 1.0 if names in NEW else None
            assert rate_of(model, name) == expected
        changed = changed_by_a_step(model)
        assert stem & changed == (stem if names in NEW else set())
        others = {name for name in changed - stem if ".lora_" not in name}
        if frozen == 1:
            first = {id(p) for p in model.backbone.parameter_depths()[0]}
            assert not {name for name, p in model.backbone.named_parameters() if id(p) in first} & others
        else:
            assert not others
        if i == 0:
            free = created(bare, weights)
            [name, *_] = stem
            decayed = 0.25 * 0.5 ** (depths - 1)
            assert rate_of(free, name) == (1.0 if names in NEW else decayed)


def test_norms_beside_an_adapted_stem_stay_in_evaluation_mode(tmp_path):
    weights = tmp_path / "rgb.safetensors"
    densevit.save(created({"name": "resnet", **FAMILIES["resnet, deep stem"]}), weights)
    model = created(section("resnet, deep stem", NIR, freeze=1), weights).train()
    names = [name for name, p in model.backbone.named_parameters() if not p.requires_grad]
    assert names and "conv1.0.weight" not in names
    for name, module in model.backbone.named_modules():
        frozen = [not p.requires_grad for p in module.parameters()]
        if frozen and all(frozen):
            assert not module.training, name
    before = {name: x.clone() for name, x in model.backbone.state_dict().items()}
    model.backbone(torch.randn(2, 4, 64, 64))
    after = model.backbone.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items() if name.startswith(("bn1", "conv1")))
    stages = created(section("resnet, deep stem", NIR, frozen_stages=2), weights)  # the same by the backbone's option
    changed = {name for name in changed_by_a_step(stages) if name.startswith(("bn1", "conv1", "layer1"))}
    assert changed == {"conv1.0.weight"}


class Published(ResNet):
    """A ResNet whose constructor loads published weights."""

    def __init__(self, pretrained: bool = False, in_channels: int = 3) -> None:
        super().__init__(depth=18, in_channels=in_channels)
        if pretrained:
            nn.init.constant_(self.layer1[0].conv1.weight, 0.01)


def test_weights_of_the_constructor_are_adapted_and_recorded():
    backbone = {**section("", NIR, freeze=1, pretrained=True), "name": f"{__name__}:Published"}
    model = created(backbone)
    assert model.sections is not None and model.sections.backbone.adapted_stem == ("conv1.weight",)
    assert changed_by_a_step(model) >= {"conv1.weight"}
    kept = created({**section("", KEPT[0], freeze=1, pretrained=True), "name": f"{__name__}:Published"})
    assert "conv1.weight" not in changed_by_a_step(kept)
    with pytest.raises(ConfigError, match=r"backbone\.freeze is true.*Fix: backbone\.freeze=1"):
        created({**backbone, "freeze": True})
    assert not created({**section("", KEPT[0], freeze=True, pretrained=True), "name": f"{__name__}:Published"}).training


# ---- files ----


def test_a_model_file_records_its_stem(tmp_path):
    rgb, first, second = (tmp_path / f"{name}.safetensors" for name in ("rgb", "first", "second"))
    densevit.save(created({"name": "swin", "variant": "nano"}), rgb)
    densevit.save(densevit.create_model(section("swin", NIR), {"seg": SETR}, classes=["a"], weights=rgb), first)
    densevit.save(densevit.load(first), second)
    stem = ("patch_embed.weight",)
    for file in (first, second):
        loaded = densevit.load(file).model
        assert loaded.sections is not None and loaded.sections.backbone.adapted_stem == stem
        assert loaded.backbone.patch_embed.weight.requires_grad
        continued = created(section("swin", NIR, freeze=2), file)  # of a run on the same channels
        assert stem[0] in changed_by_a_step(continued) and rate_of(continued, stem[0]) == 1.0
        as_backbone = created(section("swin", NIR, freeze=2, weights=str(file)))
        assert stem[0] in changed_by_a_step(as_backbone)
    fixed = created(section("swin", NIR, freeze=True), first)  # no filter is new: all is frozen, as typed
    assert not any(p.requires_grad for p in fixed.backbone.parameters())
    with pytest.raises(ConfigError, match=r"backbone\.freeze is true, but the weights are for red, green, blue and "):
        created(section("swin", NIR, freeze=True), rgb)
    own = created(section("swin", NIR))
    densevit.save(densevit.Predictor(own), tmp_path / "own.safetensors")  # trained on these channels from the beginning
    assert "patch_embed.weight" not in changed_by_a_step(
        created(section("swin", NIR, freeze=1), tmp_path / "own.safetensors")
    )


def test_a_backbones_file_records_its_stem(tmp_path):
    rgb, file = tmp_path / "rgb.safetensors", tmp_path / "backbone.safetensors"
    densevit.save(created({"name": "swin", "variant": "nano"}), rgb)
    densevit.save(densevit.create_model(section("swin", NIR, weights=str(rgb)), heads={}, classes=[]), file)
    assert "patch_embed.weight" in changed_by_a_step(created(section("swin", NIR, freeze=1, weights=str(file))))


# ---- runs ----


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, random = tmp_path_factory.mktemp("fields"), np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(4):
            np.save(root / f"images/{split}/{i}.npy", random.uniform(0, 1, (32, 32, 4)).astype(np.float32))
            labels = random.integers(0, 2, (32, 32), np.uint8)
            Image.fromarray(labels).save(root / f"labels/{split}/{i}.png")
    return root


def run_config(root: Path, weights: Path, **backbone: Any) -> configs.Config:
    data = {
        "name": "label_maps", "root": str(root), "images": "images/{split}/*.npy", "labels": "labels/{split}/*.png",
        "classes": ["x", "y"], "channels": [*NIR], "range": [0, 1], "image_size": 32, "batch_size": 2,
        "num_workers": 0, "transforms": "resize",
    }  # fmt: skip
    trainer = {"max_steps": 4, "precision": "32", "accelerator": "cpu", "log_every": 1, "evaluate_every": 2}
    return configs.from_mapping(
        {
            "backbone": {"name": "vit", "variant": "nano", "patch_size": 8, **backbone},
            "heads": {"seg": SETR},
            "weights": str(weights),
            "data": data,
            "optim": {"lr": 1e-2, "layer_decay": 0.5, "schedule": "constant", "warmup_steps": 0},
            "trainer": trainer,
        }
    )


@pytest.mark.integration
@pytest.mark.parametrize("options", ({"freeze": ["*"]}, {"lora": LORA}), ids=str)
def test_a_resumed_run_and_a_continued_one_train_the_stem(options, fields, tmp_path):
    if "lora" in options:
        pytest.importorskip("peft")
    weights, key = tmp_path / "rgb.safetensors", "backbone.stem.projection.weight"
    densevit.save(created({"name": "vit", "variant": "nano", "patch_size": 8}), weights)
    config = run_config(fields, weights, **options)
    whole = train(config, tmp_path / "whole")
    log = (whole / "log.txt").read_text()
    assert f"Trained like heads, for new channels: {key}." in log
    assert re.search(rf"{re.escape(key)}.* 0\.01 ", log)
    assert not re.search(rf"{re.escape(key)}.* frozen", log)
    with interrupted_after(2):
        stopped = train(config, tmp_path / "stopped")
    resume(stopped)
    found, expected = load_file(stopped / "model.safetensors"), load_file(whole / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], x) for name, x in expected.items())
    begun = _stem(created(section("vit", NIR, **{"patch_size": 8, "image_size": 224}), weights))
    assert not torch.equal(expected[key], begun)
    assert configs.load(whole / "config.yaml").backbone.adapted_stem == ("stem.projection.weight",)
    continued = train(run_config(fields, whole, **options), tmp_path / "continued")
    assert not torch.equal(load_file(continued / "model.safetensors")[key], expected[key])


def _stem(model: DenseModel) -> Tensor:
    return model.backbone.state_dict()["stem.projection.weight"]
