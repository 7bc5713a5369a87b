"""transformers builds a model from an `--to hf` folder and its config.json, with the same features."""

import json
import sys

import pytest
import torch

import densevit
from densevit.errors import ConfigError
from densevit.weights.model_file import save_backbone
from densevit_checkpoints.transformers_export import export, load_backbone
from tests.registry.test_classes_in_files import BACKBONE, CLASS, write
from tests.registry.test_classes_in_files import sentinel as sentinel  # a fixture

VIT = {"name": "vit", "variant": "tiny", "features": (1, 2), "image_size": 64}
DINO = {"name": "vit", "features": (1, 2), "image_size": 56, "patch_size": 14, "variant": "tiny", "layer_scale": 1.0}
SWIN = {"name": "swin", "variant": "nano", "window_size": 4}
CASES = {  # the section, the type of the model, and the tokens before the cells
    "vit": (VIT, "vit", 1),
    "deit": ({**VIT, "distillation_token": True}, "deit", 2),
    "dinov2 with registers": ({**DINO, "registers": 4}, "dinov2_with_registers", 5),
    "swin": (SWIN, "swin", 0),
    "swin 2, from smaller windows": ({**SWIN, "version": 2, "pretrained_window_sizes": (3, 3, 3, 2)}, "swinv2", 0),
    "resnet": ({"name": "resnet", "depth": 18}, "resnet", 0),
}


@torch.no_grad()
def make(section, folder):
    torch.manual_seed(2)
    backbone = densevit.create_backbone(**section).eval()
    for name, tensor in backbone.named_parameters():
        plain = name.startswith("feature_norms") and not name.startswith("feature_norms.3")  # not in a classifier
        if not plain:
            tensor.add_(torch.randn_like(tensor) * (0.2 if tensor.ndim < 2 else 0.02))
    folder.mkdir()
    save_backbone(backbone, section, folder / "model.safetensors")
    return backbone


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_transformers_builds_the_model_from_config_json(case, tmp_path):
    from transformers import AutoModel

    section, kind, tokens = CASES[case]
    backbone = make(section, tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "hf")
    assert json.loads((tmp_path / "hf/config.json").read_text())["model_type"] == kind
    theirs, report = AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    missing = {key for key in report["missing_keys"] if "pooler" not in key and "mask_token" not in key}
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"]
    side = theirs.config.image_size if kind != "resnet" else 64
    pixels = torch.randn(2, 3, side, side)
    ours = backbone(pixels)[-1]
    last = theirs.eval()(pixels).last_hidden_state
    if last.ndim == 3:
        last = last[:, tokens:].transpose(1, 2).unflatten(2, ours.shape[2:])
    torch.testing.assert_close(last, ours, rtol=1e-4, atol=1e-4)


def test_models_unknown_to_transformers_raise(tmp_path):
    make({"name": "resnet", "depth": 18, "dilation": True}, tmp_path / "ours")
    with pytest.raises(densevit.WeightsError, match="backbone.dilation is True"):
        export(tmp_path / "ours", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.integration
@pytest.mark.parametrize("values", [BACKBONE, {"backbone": {"name": "resnet", "weights_of": {"weights": CLASS}}}])
def test_a_class_that_a_backbone_s_file_names_is_not_imported(values, tmp_path):
    with pytest.raises(ConfigError, match="is named in this file"):
        load_backbone(write(tmp_path, values))
    assert "sentinel_module" not in sys.modules
