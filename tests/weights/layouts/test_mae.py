"""MAE's encoder: pre-training files with their decoder, fine-tuning files, and timm's conversion of the encoder."""

import pytest
import torch

from densevit.weights.key_mapping import describe
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration


def test_pretraining_file_is_translated_except_for_its_decoder(released, loaded):
    with torch.device("meta"):
        state = released("mae_visualize_vit_huge")
    loaded(state, "mae")
    section = {"name": "vit", "variant": "huge", "patch_size": 14, "image_size": 224}
    section["position_resizing"] = "bicubic"
    assert describe(state, find("mae")) == {"backbone": section}


def test_finetuning_file_has_the_classifier_s_norm(released, loaded):
    with torch.device("meta"):
        state = released("mae_finetuned_vit_base")
    loaded(state, "mae", recognised="timm-vit")
    section = {"name": "vit", "variant": "base", "patch_size": 16, "image_size": 224, "feature_norm": False}
    assert describe(state, find("timm-vit")) == {"backbone": section}
    assert describe(state, find("mae")) == {"backbone": section | {"position_resizing": "bicubic"}}
