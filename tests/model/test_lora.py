"""LoRA: adapters of a frozen backbone, merged where a model is saved."""

import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import densevit
from densevit import config as configs
from densevit.config import LoraSection
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError
from densevit.interfaces import Class
from densevit.model import DenseModel
from densevit.model.lora import add_adapters, merged_state
from densevit.weights import model_file
from tests.built_models import build_model
from tests.training.runs import train

VIT = {"name": "vit", "variant": "nano", "patch_size": 8}
SURFACES = {"name": "setr", "decoder": "mla", "width": 16, "branch_width": 8, "auxiliary": [], "norm": "group"}
TRAINER = {"max_epochs": 2, "precision": "32", "accelerator": "cpu", "log_every": 1, "checkpoint_every": 1}
LORA = {"rank": 2, "alpha": 6.0, "targets": ["*.qkv", "*.output"]}
CLASSES = (Class("a", 1, (0, 0, 0)), Class("b", 2, (0, 0, 0)))


@pytest.fixture(autouse=True, scope="module")
def peft() -> None:
    pytest.importorskip("peft")


def config_of(backbone: dict[str, Any], **sections: Any) -> configs.Config:
    data = {"name": "scenes", "image_size": 32, "batch_size": 2, "num_workers": 0, "train_length": 4, "val_length": 1}
    given = {"backbone": backbone, "heads": {"surfaces": SURFACES}, "data": data, "trainer": TRAINER}
    return configs.from_mapping({**given, **sections})


def adapted(backbone: dict[str, Any], **lora: Any) -> tuple[DenseModel, dict[str, torch.Tensor]]:
    """A model with adapters of random values, and the state of its backbone before."""
    model = build_model(config_of({**backbone, "lora": {**LORA, **lora}}), {"segmentation": CLASSES})
    for parameter in model.backbone.parameters():
        nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.5)
    before = {name: x.clone() for name, x in model.backbone.state_dict().items()}
    add_adapters(model)
    for name, parameter in model.backbone.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval(), before


# ---- the computation ----


@pytest.mark.parametrize(
    ("backbone", "target"),
    [
        (VIT, "*"),
        ({"name": "swin", "variant": "nano", "window_size": 4, "version": 2}, "*.qkv"),  # it reads qkv.weight
        (
            {
                "name": "timm",
                "model": "beit_base_patch16_224",
                "image_size": 32,
                "model_args": {"depth": 2, "embed_dim": 48, "num_heads": 3},
            },
            "*.qkv",
        ),  # it reads qkv.weight
    ],
    ids=lambda x: x.get("model", x["name"]) if isinstance(x, dict) else "",
)
def test_merged_weights_compute_the_same_and_every_adapter_is_used(backbone, target):
    model, before = adapted(backbone, targets=[target])
    images = torch.randn(2, 3, 32, 32)
    outputs = model.backbone(images)
    sum(x.square().sum() for x in outputs).backward()
    adapters = {name: p for name, p in model.backbone.named_parameters() if ".lora_" in name}
    assert adapters and all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.values())
    assert {name for name, p in model.backbone.named_parameters() if p.requires_grad} == adapters.keys()
    state = merged_state(model.backbone.state_dict(), LoraSection(rank=2, alpha=6.0, targets=(target,)))
    assert state.keys() == before.keys()
    assert any(not torch.equal(state[name], before[name]) for name in before)
    plain = build_model(config_of(backbone), {"segmentation": CLASSES}).eval()
    plain.backbone.load_state_dict(state)
    for x, y in zip(outputs, plain.backbone(images), strict=True):
        torch.testing.assert_close(x / y.abs().mean(), y / y.abs().mean(), atol=1e-5, rtol=1e-5)


# ---- runs ----


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model file of a backbone, so that adapters are added to loaded weights."""
    torch.manual_seed(1)
    backbone = densevit.create_backbone(**VIT)
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    model_file.save_backbone(backbone, VIT, path)
    return path


def run_config(weights, **trainer: Any) -> configs.Config:
    backbone = {**VIT, "weights": str(weights), "lora": LORA}
    optim = {"lr": 1e-2, "weight_decay": 0.1, "layer_decay": 0.8}
    return config_of(backbone, optim=optim, trainer={**TRAINER, **trainer})


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    return train(run_config(weights), run_dir=tmp_path_factory.mktemp("lora") / "run")


@pytest.mark.integration
def test_run_trains_adapters_only_and_saves_merged_weights(weights, run):
    before, after = load_file(weights), load_file(run / "model.safetensors")
    assert {name for name in after if name.startswith("backbone.")} == before.keys()  # the layout without adapters
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = [f"backbone.blocks.{i}.attention.{layer}.weight" for i in range(6) for layer in ("qkv", "output")]
    assert changed == {*layers}
    for name in changed:  # of rank 2
        assert torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-3) == 2
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in before.items():  # the base is bit-identical
        layer, _, leaf = name.rpartition(".")
        saved = state.get(f"model.{name}", state.get(f"model.{layer}.base_layer.{leaf}"))
        assert torch.equal(saved, value), name
    rates = (run / "log.txt").read_text()
    assert re.search(r"backbone\.blocks\.5\.attention\.\S*lora_\S* +0\.008 ", rates)  # 0.01 * 0.8 of depth 7 of 8


@pytest.mark.integration
def test_saved_run_equals_the_trained_model(weights, run):
    """`load`, `weights` and the checkpoint give the outputs of the model with adapters."""
    config = run_config(weights)
    trained = build_model(config, build_data(config).train, pretrained=False).eval()
    add_adapters(trained)
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    trained.load_state_dict({key[6:]: value for key, value in content.items() if key.startswith("model.")})
    images = torch.randn(1, 3, 32, 32)
    expected = trained.backbone(images)
    for backbone in (
        densevit.load(run).backbone,
        densevit.load(run / "checkpoints/last.ckpt").backbone,
        densevit.create_backbone(**VIT, weights=run).eval(),
        densevit.create_backbone(**VIT, weights=run / "checkpoints/last.ckpt").eval(),
    ):
        torch.testing.assert_close(backbone(images), expected, atol=1e-5, rtol=1e-5)


# ---- invalid input ----


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"lora": LORA, "freeze": 2}, r"backbone\.lora.*Leave backbone\.freeze out"),
        ({"lora": {"rank": 0}}, r"backbone\.lora\.rank"),
        ({"lora": {"ranks": 3}}, r"backbone\.lora\.ranks"),
        (
            {"weights": "missing.safetensors", "lora": {"targets": ["*.qvk"]}},  # before the weights are read
            r"backbone\.lora\.targets: .*'\*\.qvk'\. Closest: \*\.qkv",
        ),
    ],
    ids=str,
)
def test_invalid_options_are_refused(options, facts, tmp_path):
    with pytest.raises(ConfigError, match=facts):
        train(config_of({**VIT, **options}), run_dir=tmp_path / "run")


def test_without_peft_a_run_fails_before_it_builds_anything(uninstalled, tmp_path, weights):
    uninstalled("peft")
    config = config_of({**VIT, "weights": str(weights), "lora": LORA}, data={"name": "coco", "root": "missing"})
    with pytest.raises(ConfigError, match=r"backbone\.lora: needs peft.*pip install -e '\.\[lora\]'"):
        train(config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
