"""Detectors start the head of panoptic DETR."""

import pytest
import torch

from densevit import config as configs
from densevit.errors import WeightsError
from densevit.weights.building import build_model
from densevit.weights.checkpoint_io import read
from densevit.weights.key_mapping import translate
from densevit.weights.label_sets import coco_classes, coco_panoptic_classes
from densevit.weights.layouts import find
from densevit.weights.pretrained import load_pretrained
from tests.weights.layouts.originals.weights import random_detr
from tests.weights.layouts.recordings import recorded

pytestmark = pytest.mark.integration

WIDTH = 128


def written_detector(project, rows, folder, names):
    """A file of a small detector of facebookresearch or transformers. names: of the classes, by row."""
    from transformers import DetrConfig, DetrForObjectDetection

    if project == "detr":
        state = random_detr(recorded("detr-panoptic")[0])
        state = {key.removeprefix("detr."): x for key, x in state.items() if key.startswith("detr.")}
        state |= {key: x[:rows] for key, x in state.items() if key.startswith("class_embed.")}
        torch.save({"model": state}, folder / "detector.pth")
        return folder / "detector.pth"
    small = {"num_queries": 5, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
    small |= {"decoder_ffn_dim": 48, "id2label": dict(enumerate(names)), "label2id": {}}
    DetrForObjectDetection(DetrConfig(backbone="resnet50", use_timm_backbone=True, **small)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("project", "key"), [("detr", "weights"), ("transformers-detr", "heads.panoptic.weights")])
def test_a_detector_of_the_same_classes_starts_the_head(project, key, tmp_path):
    """All of its tensors are loaded, also those of the 133 classes among 250 file ids; the mask head is new."""
    names = {one.file_id: one.name for one in coco_panoptic_classes()}
    file = written_detector(project, 251, tmp_path, [names.get(i, f"LABEL_{i}") for i in range(250)])
    model, config = started(file, key, coco_panoptic_classes())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    [fit] = load_pretrained(model, config)

    checkpoint = read(file)
    expected = translate(checkpoint.tensors, find(project)).tensors
    theirs = {name.replace("heads.detection.", "heads.panoptic."): x for name, x in expected.items()}
    parts = ("heads.", "backbone.") if key == "weights" else ("heads.",)
    own = model.state_dict()
    assert len(theirs["heads.panoptic.label_head.bias"]) == 134
    assert all(torch.equal(own[name], tensor) for name, tensor in theirs.items() if name.startswith(parts))
    new = {name for name in own if name.startswith("heads.") and name not in theirs}
    assert {name.split(".")[2] for name in new} == {"attention_maps", "mask_head"}
    assert all(torch.equal(own[name], before[name]) for name in new)

    prefix = "" if key == "weights" else "heads.panoptic."
    assert {prefix + name for name in fit.initialised} == new and not fit.missing and not fit.left_out
    assert set(fit.initialised.values()) == {"the weights are of a head for detection, which has no such part"}
    assert fit.notes[0] == f"Read as {project}."


def test_a_detector_of_things_gives_their_rows_and_only_what_a_detector_never_has_may_be_missing(tmp_path):
    """The 80 things are the first of the 133 panoptic classes; the rows of stuff keep their initial values."""
    file = written_detector("detr", 92, tmp_path, ())
    model, config = started(file, "weights", coco_panoptic_classes())
    before = model.heads["panoptic"].label_head.weight.detach().clone()
    [fit] = load_pretrained(model, config)
    after = model.heads["panoptic"].label_head.weight
    assert torch.equal(after[80:133], before[80:133]) and not (after[:80] == before[:80]).any() and not fit.left_out
    with pytest.raises(WeightsError, match=r"2 tensors are missing \(heads.panoptic.positions"):
        load_pretrained(*started(file, "weights", coco_classes(), positions="learned"))


def started(file, key, classes, **options):
    small = {"width": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "feedforward": 48}
    detr = {"num_queries": 5, "transformer": small, **options}
    head = {"name": "detr_panoptic", "detr": detr, "freeze_detector": True}
    values = {"backbone": {"name": "resnet", "depth": 50, "norm": "frozen"}, "heads": {"panoptic": head}}
    values |= {"data": {"name": "scenes"}, "trainer": {"max_steps": 1}}
    config = configs.from_mapping(values, "config", [f"{key}={file}"])
    return build_model(config, {"panoptic": classes}), config
