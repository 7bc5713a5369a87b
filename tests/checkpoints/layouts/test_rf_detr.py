"""RF-DETR: names, classes and options of the authors' files; `test_transformers_models.py` compares outputs."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit.errors import WeightsError
from densevit.layouts import find
from densevit_checkpoints.foreign_weights import convert
from densevit_checkpoints.key_mapping import describe
from densevit_checkpoints.recognition import recognise
from tests.checkpoints.layouts.models import rf_detr
from tests.checkpoints.layouts.translations import released, whole


def test_every_name_of_the_authors_model_is_read():
    with torch.device("meta"):
        state = released("rf_detr_seg_small")
    layout = find("rf-detr")
    assert recognise(state) is layout
    whole(state, layout, r"_kp_active_mask|.*mask_token$", thirds="in_proj_")
    sections = describe(state, layout)
    assert sections["heads"]["detection"]["num_queries"] == 100 and sections["backbone"]["image_size"] == 384
    assert (sections["backbone"]["num_windows"], sections["heads"]["detection"]["cross_attention_heads"]) == (2, 16)
    assert layout.publishing.recipe(sections, {}) == ("start/rf_detr_masks", {"data": {"image_size": 384}})


@pytest.mark.integration
def test_own_classes_and_options_of_the_authors_files(tmp_path, small_rf_detr):
    """A file of their package has the names of classes, a further row, and the options of its model."""
    theirs = rf_detr("ObjectDetection", [2, 5, 8, 12], 1, 16, num_labels=4, id2label=None, label2id=None)
    theirs.save_pretrained(tmp_path)
    options = {"sa_nheads": 2, "ca_nheads": 4, "dec_n_points": 3, "num_windows": 1}
    options["out_feature_indexes"] = [2, 5, 8, 12]
    content = {"model": load_file(tmp_path / "model.safetensors"), "args": {"class_names": ["cat", "dog", "owl"]}}
    torch.save({**content, "model_config": options}, tmp_path / "checkpoint_best_total.pth")
    ours = convert(tmp_path / "checkpoint_best_total.pth").model
    assert [one.name for one in ours.classes["detection"]] == ["cat", "dog", "owl", "none"]
    backbone, head = ours.backbone, ours.heads["detection"]
    assert (backbone.num_windows, backbone.feature_blocks) == (1, (2, 5, 8, 12))
    assert (head.decoder[0].self_attention.num_heads, head.decoder[0].cross_attention.heads) == (2, 4)


@pytest.mark.integration
@pytest.mark.parametrize("read", [densevit.load, partial(densevit.create_model, "coco/rf_detr_nano", classes=["a"])])
def test_xl_of_another_licence_is_refused(read, tmp_path, small_rf_detr):
    """Also as the weights of a recipe, whose model has another patch size."""
    rf_detr("ObjectDetection", [3, 6, 9, 12], 2, 20).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"patch size 20, .*XL and 2XL.* licence is PML 1\.0.* Use rf-detr-large"):
        read(str(tmp_path)) if read is densevit.load else read(weights=str(tmp_path))
