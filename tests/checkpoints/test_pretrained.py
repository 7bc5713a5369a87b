"""Pretrained weights of a made-up project in a config: a backbone and a complete model."""

from dataclasses import replace

import pytest
import torch

from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import CheckpointLayout, Class, Line, Publishing, SpecialTensors
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.model_file import load as load_file
from densevit.weights.model_file import save
from densevit.weights.weights_table import weights_line
from tests.weights.loading import CLASSES, SCORES, built, config_of, loaded, model_of

HALF = (0.5, 0.5, 0.5)
LINES = (Line("patch.*", "conv.*"), Line("norm.*", "norm.*"))
ENCODER = CheckpointLayout(
    "made-encoder",
    ("patch.weight", "norm.weight"),
    LINES,
    lambda state: {"backbone": {"name": "small"}},
    special=SpecialTensors(no_effect={"head.*": "the classification head"}),
    publishing=Publishing(mean=HALF, std=HALF),
)
DETECTOR = CheckpointLayout(
    "made-detector",
    ("patch.weight", "norm.weight", "hidden.weight"),
    (
        *(Line(theirs, f"backbone.{ours}") for theirs, ours, _ in LINES),
        Line("hidden.*", "heads.detection.hidden.*"),
        Line("cls.*", "heads.detection.label_head.*"),
    ),
    lambda state: {},
    classes=lambda state, metadata: {"detection": metadata["known"]} if "known" in metadata else {},
)


@pytest.fixture(autouse=True)
def known(only_layouts):
    only_layouts({one.name: one for one in (ENCODER, DETECTOR)})


def encoder(**more):
    state = {"patch.weight": torch.randn(4, 3, 4, 4), "patch.bias": torch.randn(4)}
    return {**state, "norm.weight": torch.randn(4), "norm.bias": torch.randn(4), **more}


def detector(classes=2):
    state = encoder(**{"hidden.weight": torch.randn(5, 4), "hidden.bias": torch.randn(5)})
    return {**state, "cls.weight": torch.randn(classes + 1, 5), "cls.bias": torch.randn(classes + 1)}


@pytest.fixture
def file(tmp_path):
    def file(state):
        torch.save(state, tmp_path / "theirs.pth")
        return str(tmp_path / "theirs.pth")

    return file


@pytest.mark.parametrize(
    ("given", "black", "facts"),
    [
        ({}, True, "backbone.black_padding is true, as these weights were trained with, in place of false."),
        ({"black_padding": True}, True, ""),
        ({"black_padding": False}, False, "Warning: backbone.black_padding stays false; these weights were trained"),
    ],
)
def test_padding_has_the_colour_of_the_weights(given, black, facts, file, only_layouts, tmp_path):
    layout = replace(ENCODER, publishing=Publishing(black_padding=True))
    only_layouts({layout.name: layout})
    model, _, [report] = loaded({"weights": file(encoder()), **given})
    assert model.backbone.black_padding is black and "".join(report.notes[1:]).startswith(facts)
    save(model, tmp_path / "model.safetensors")
    assert load_file(tmp_path, trust=True).backbone.black_padding is black


def test_foreign_backbone_sets_mean_and_std(file, tmp_path):
    state = encoder(**{"head.weight": torch.randn(7, 4)})
    model, _, [report] = loaded({"weights": file(state)})
    assert torch.equal(model.backbone.conv.weight, state["patch.weight"])
    assert torch.equal(model.backbone.norm.bias, state["norm.bias"])
    assert report.ignored_keys == {"head.weight": "the classification head"}
    assert report.notes[0] == "Read as made-encoder."
    assert report.notes[1].startswith(
        "backbone.mean is [0.5, 0.5, 0.5], as these weights were trained with, in place of"
    )
    assert model.sections.backbone.mean == model.sections.backbone.std == model.backbone.mean == HALF
    assert model.mean.flatten().tolist() == [127.5] * 3
    save(model, tmp_path / "model.safetensors")
    read = load_file(tmp_path, trust=True)
    assert torch.equal(read.mean, model.mean) and torch.equal(read.std, model.std)
    model, _, [report] = loaded({"weights": file(state), "mean": [0, 0, 0.25], "std": [0.5, 0.5, 0.5]})
    assert model.mean.flatten().tolist() == [0, 0, 63.75]
    assert report.notes[1:] == [
        "Warning: backbone.mean stays [0.0, 0.0, 0.25]; these weights were trained with [0.5, 0.5, 0.5]."
    ]


def test_foreign_model_loads_into_the_head_of_its_task_or_one_part_of_it(file):
    state = detector()
    source = file(state)
    for sections, parts, count in (
        ({"weights": source}, ("backbone", "head"), 8),
        ({"backbone": {"weights": source}}, ("backbone",), 4),
        ({"heads": {"boxes": {**SCORES, "weights": source}}}, ("head",), 4),
    ):
        model, _, [report] = loaded(**sections)
        assert report.loaded == count
        head = model.heads["boxes"].label_head.weight
        assert torch.equal(model.backbone.conv.weight, state["patch.weight"]) == ("backbone" in parts)
        assert torch.equal(head, state["cls.weight"]) == ("head" in parts)
        unknown = "The class names of head 'boxes' are unknown; assuming the data's classes, in order."
        assert unknown in report.notes or len(parts) == 1


def test_a_backbone_s_file_as_a_model_or_head_and_wrong_means_raise(file):
    source = file(encoder())
    for sections, facts in (
        ({"weights": source}, r"contains only a backbone\. Name it as backbone\.weights="),
        ({"heads": {"boxes": {**SCORES, "weights": source}}}, r"has no head; .* for detection"),
    ):
        with pytest.raises(WeightsError, match=facts):
            loaded(**sections)
    with pytest.raises(ConfigError, match=r"backbone\.mean"):
        model_of({"mean": [123, 117, 104]})


def test_rows_of_classes_are_loaded_by_the_names_of_the_layout(file):
    state = detector(4)
    model, _, [report] = loaded(weights=file(state))
    assert report.ignored_keys == {
        f"heads.boxes.label_head.{kind}": "other classes, 2 here" for kind in ("weight", "bias")
    }
    assert torch.equal(model.heads["boxes"].hidden.weight, state["hidden.weight"])
    named = [Class(name, i, (0, 0, 0)) for i, name in enumerate(("cow", "Hot_dog", "pig", "cat"))]
    checkpoints = {"theirs.pth": Checkpoint(state, "theirs.pth", metadata={"known": named})}
    model, _, [report] = built(config_of(weights="theirs.pth"), {"detection": CLASSES}, checkpoints)
    assert report.ignored_keys == {} and report.loaded == 6
    assert torch.equal(model.heads["boxes"].label_head.weight, state["cls.weight"][[3, 1, 4]])


def test_missing_and_unexpected_tensors_raise_unless_allowed(file):
    state = encoder(**{"extra.w": torch.ones(1), "head.weight": torch.randn(7, 4)})
    state["patch.weight"] = torch.randn(4, 3, 8, 8)
    del state["norm.bias"]
    source = file(state)
    message = (
        r"1 tensors are missing \(norm\.bias\); 1 are unexpected \(extra\.w.*\)(.|\n)*"
        r"Read as made-encoder, the weights' config is\n  backbone:\n    name: small"
    )
    with pytest.raises(WeightsError, match=message):
        loaded({"weights": source})
    _, _, [report] = loaded({"weights": source, "allow_mismatch": ["extra.*", "norm.bias"]})
    assert report.missing == ["norm.bias"] and report.unexpected == ["extra.w"]
    counts = "2 tensors loaded, 1 adapted, 1 left out, 1 missing, 1 unexpected."
    assert weights_line(report).startswith(f"{report.source}: {counts} Read as made-encoder. backbone.mean is [0.5, ")


def test_weights_of_bgr_images_are_flipped():
    state = encoder()
    checkpoint = Checkpoint(state, "theirs.pth", metadata={"channel_order": "bgr", "mean": (0.1, 0.2, 0.3)})
    config = config_of({"weights": "theirs.pth"})
    model, _, _ = built(config, {"detection": CLASSES}, {"theirs.pth": checkpoint})
    assert torch.equal(model.backbone.conv.weight, state["patch.weight"].flip(1))
    assert model.backbone.mean == (0.3, 0.2, 0.1)
