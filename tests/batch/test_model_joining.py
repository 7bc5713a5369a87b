"""Heads that were trained apart on one frozen backbone predict in one file as alone."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import densevit
from densevit.errors import ConfigError, WeightsError
from densevit.interfaces import Licences
from densevit.model import DenseModel
from densevit.weights import model_file
from densevit_batch.model_joining import join, read_part, save_heads
from tests.registry.test_classes_in_files import MODEL, write
from tests.registry.test_classes_in_files import sentinel as sentinel  # a fixture
from tests.weights.joined_runs import BOXES, DEPTH, SURFACES, write_run
from tests.weights.states import equal


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of boxes, surfaces and depth. Read only."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / name for name in ("boxes", "surfaces", "depth")]
    for seed, (folder, heads) in enumerate(zip(folders, (BOXES, SURFACES, DEPTH), strict=True)):
        write_run(folder, heads, seed + 1, data={"depth": True})
    return folders


def joined(*sources: Any, **options: Any) -> DenseModel:
    return join([read_part(source) for source in sources], **options)


def images() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((96, 96), (70, 131), (200, 40))]


@pytest.mark.integration
def test_each_head_predicts_as_alone_bit_for_bit_on_several_sizes(runs, tmp_path):
    model_file.save(joined(*runs), tmp_path / "joined.safetensors")
    together = densevit.load(tmp_path / "joined.safetensors", trust=True)
    assert [*together.heads] == ["detection", "surfaces", "depth"]
    for run in runs:
        alone = densevit.load(run)
        (head,) = alone.heads
        for image in images():
            assert equal(together.predict(image, threshold=0)[head], alone.predict(image, threshold=0))
        batch = {
            "images": torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8),
            "padding_mask": torch.zeros(2, 64, 96, dtype=torch.bool).index_fill_(2, torch.arange(80, 96), True),
            "targets": [{}, {}],
        }
        with torch.no_grad():
            assert equal(together(batch)[head], alone(batch)[head])


def test_classes_thresholds_licences_and_inference_are_kept_per_head(tmp_path):
    first = write_run(tmp_path / "a", BOXES, 1, inference={"nms": 0.5})
    second = write_run(tmp_path / "b", SURFACES, 2, inference={"window": 64, "flip": True})
    first.score_thresholds, first.licences = {"detection": 0.25}, {"timm:x": Licences(weights="apache-2.0")}
    second.licences = {"timm:y": Licences("MIT", "mit", "COCO", "none")}
    for name, model in (("a", first), ("b", second)):
        model_file.save(model, tmp_path / name / "model.safetensors")
    model = joined(tmp_path / "a", tmp_path / "b")
    for kept in ("classes", "score_thresholds", "licences"):
        assert getattr(model, kept) == getattr(first, kept) | getattr(second, kept), kept
    alone = densevit.load(tmp_path / "a").inference | densevit.load(tmp_path / "b").inference
    assert model.inference == alone and alone["detection"].nms == 0.5 and alone["surfaces"].flip


def test_names_of_heads(runs, tmp_path):
    for name in ("train", "class"):
        with pytest.raises(ConfigError, match=name):
            join([read_part(runs[0], name), read_part(runs[1])])
    write_run(tmp_path / "others", BOXES, 7, data={"depth": True})
    model = join([read_part(runs[0], "cars"), read_part(tmp_path / "others", "people"), read_part(runs[2])])
    assert [*model.heads, *model.necks] == ["cars", "people", "depth", "cars", "people"]
    model_file.save(model, tmp_path / "joined.safetensors")
    again = join([read_part(tmp_path / "joined.safetensors", "old", trust=True), read_part(runs[1])])
    assert [*again.heads] == ["old_cars", "old_people", "old_depth", "surfaces"]
    assert equal(again.heads["old_people"].state_dict(), model.heads["people"].state_dict())


# ---- files of heads ----


def test_heads_alone_are_small_and_give_the_model_on_their_backbone(runs, tmp_path):
    file = tmp_path / "depth.safetensors"
    save_heads(join([read_part(runs[2])]), file)
    with safe_open(file, framework="pt") as content:
        assert {key.partition(".")[0] for key in content.keys()} == {"heads"}  # noqa: SIM118
    alone = densevit.load(runs[2])
    section = {"name": alone.sections.backbone.name}
    model_file.save_backbone(alone.backbone, section, tmp_path / "backbone.safetensors")
    for backbone in (runs[0], runs[0] / "model.safetensors", tmp_path / "backbone.safetensors"):
        loaded = densevit.load(file, backbone=backbone, trust=True)
        assert equal(loaded.state_dict(), alone.state_dict())
        assert loaded.training_data.image_size == 96
    both = join([read_part(runs[0]), read_part(file, trust=True)])
    assert equal(both.state_dict(), joined(runs[0], runs[2]).state_dict())
    write_run(tmp_path / "other", BOXES, 1, backbone_seed=9)
    for read, fix in {
        lambda: densevit.load(file, trust=True): r"contains only heads\. Fix: densevit join MODEL .*backbone=SOURCE",
        lambda: densevit.load(file, backbone=tmp_path / "other", trust=True): r"a backbone with other weights \(digest",
        lambda: join([read_part(file, trust=True)]): r"contains only heads\. Fix: name a run",
    }.items():
        with pytest.raises(WeightsError, match=fix):
            read()


# ---- the evaluation transform ----


def test_different_transforms_are_named_and_one_can_be_chosen(runs, tmp_path):
    """They are compared by what they do."""
    write_run(tmp_path / "same", SURFACES, 2, data={"transforms": "resize"})  # `default` without augmentation
    assert [*joined(runs[0], tmp_path / "same").heads] == ["detection", "surfaces"]
    write_run(tmp_path / "large", SURFACES, 2, data={"image_size": [64, 128], "transforms": "resize"})
    with pytest.raises(WeightsError, match=r"(?s)image_size 96.*image_size \(64, 128\)"):
        joined(runs[0], tmp_path / "large")
    chosen = joined(runs[0], tmp_path / "large", image_size=(48, 64), stretch=True)
    assert chosen.resize.evaluation_size(100, 300) == (48, 64)
    assert joined(runs[0], tmp_path / "large", image_size=64).resize.evaluation_size(100, 200) == (32, 64)


# ---- refusals ----

RGBN = {"names": ["red", "green", "blue", "nir"], "dtype": "uint8", "range": [[0, 255]] * 4}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"backbone_seed": 9}, r"its backbone differs from that of .*boxes in 12 of 13 tensors \(\w+"),
    "a trained backbone": (
        {"backbone_seed": 9, "backbone": {"freeze": False}},
        r"was trained: it differs .* in 12 of 13 tensors \(.*, \.\.\.\)\. Fix: train it with backbone\.freeze=true",
    ),
    "an option": ({"backbone": {"scale": 2.0}}, r"its backbone has the scale 2\.0, and that of .*boxes has 1\.0"),
    "channels": (
        {"backbone": {"channels": RGBN, "mean": [0.5] * 4, "std": [0.2] * 4}},
        r"has the (in_channels|channels) ",
    ),
    "normalisation": ({"backbone": {"mean": [0.5, 0.5, 0.5]}}, r"has the mean \(0\.5, 0\.5, 0\.5\)"),
    "class": ({"backbone": {"name": "tests.small_models:FourMaps"}}, "has the class FourMaps"),
    "LoRA": ({"backbone": {"freeze": False, "lora": {"rank": 2}}}, "trained with LoRA"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_backbone_is_one_line(runs, tmp_path, other):
    changes, message = OTHERS[other]
    write_run(tmp_path / "other", SURFACES, 2, **changes)
    with pytest.raises(WeightsError, match=message) as caught:
        joined(runs[0], tmp_path / "other")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path / "other"))


def test_one_of_the_runs_may_have_trained_the_backbone_of_all(runs, tmp_path):
    """The others were trained with its weights, frozen. With other weights, the run that trained is named."""
    write_run(tmp_path / "first", BOXES, 1, backbone={"freeze": False})
    assert [*joined(tmp_path / "first", runs[1]).heads] == ["detection", "surfaces"]
    write_run(tmp_path / "trained", SURFACES, 2, backbone_seed=9, backbone={"freeze": False})
    with pytest.raises(WeightsError, match=f"^{re.escape(str(tmp_path / 'trained'))}: its backbone was trained"):
        joined(tmp_path / "trained", runs[0])
    model = write_run(tmp_path / "drifted", SURFACES, 2)
    model.backbone.norm.running_mean[3] += 1e-6
    model_file.save(model, tmp_path / "drifted" / "model.safetensors")
    with pytest.raises(WeightsError, match=r"in 1 of 13 tensors \(norm\.running_mean\)"):
        joined(runs[0], tmp_path / "drifted")


def test_equal_names_a_forbidding_licence_and_foreign_files_are_one_line(runs, tmp_path):
    with pytest.raises(WeightsError, match=r"has a head 'depth' too\. Fix: name it, NAME="):
        joined(runs[2], runs[2])
    model = write_run(tmp_path / "nd", SURFACES, 2)
    model.licences = {"hf:a/b": Licences(weights="CC-BY-NC-ND-4.0")}
    model_file.save(model, tmp_path / "nd" / "model.safetensors")
    with pytest.raises(WeightsError, match="the licence of hf:a/b, CC-BY-NC-ND-4.0, forbids derived works"):
        joined(runs[0], tmp_path / "nd")
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match="without a densevit header"):
        joined(runs[0], tmp_path / "theirs.pth")


def test_a_head_that_runs_blocks_of_the_backbone_is_refused(tmp_path):
    backbone = {"name": "vit", "variant": "nano", "patch_size": 16, "image_size": 32}
    predictor = densevit.create_model(backbone, {"surfaces": {"name": "eomt"}}, {"surfaces": ["a", "b"]})
    densevit.save(predictor, tmp_path / "eomt.safetensors")
    with pytest.raises(WeightsError, match=r"heads\.surfaces \(eomt\) runs the last blocks of the backbone itself"):
        read_part(tmp_path / "eomt.safetensors")


@pytest.mark.parametrize("read", [read_part, lambda file: densevit.load(file, backbone=file)])
def test_a_class_that_a_file_names_is_not_imported(read, tmp_path):
    with pytest.raises(ConfigError, match="is named in this file"):
        read(write(tmp_path, MODEL))
    assert "sentinel_module" not in sys.modules
