"""`push_to_hub` and `hf:ORG/NAME`, with huggingface_hub itself and a server on 127.0.0.1 in place of the Hub."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import densevit
from densevit import config as configs
from densevit.errors import DensevitError
from densevit.evaluation import metrics_file
from densevit.interfaces import Licences
from tests.checkpoints.hub_server import HubServer
from tests.small_models import NAIVE

PIXELS = torch.randint(256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
BACKBONE = {"name": "vit", "variant": "nano"}
MIT = Licences("MIT", "MIT", "COCO", "none", "https://example.org/card", "2026-11-29")
METRICS = {"segmentation/mIoU": 0.4321, "segmentation/IoU/road": 0.5, "segmentation/aAcc": float("nan")}


def small_model(**data: Any) -> densevit.DenseModel:
    values = {
        "backbone": BACKBONE,
        "heads": {"segmentation": {**NAIVE, "auxiliary": []}},
        "data": {"name": "segmentation", "image_size": 64, **data},
        "trainer": {"max_steps": 1},
    }
    return densevit.create_model(configs.from_mapping(values), classes=["road", "sky"]).eval()


def run_folder(folder: Path, model: densevit.DenseModel) -> "densevit.Run":
    """A run folder of a model, with METRICS."""
    folder.mkdir()
    densevit.save(model, folder / "model.safetensors")
    (folder / "config.yaml").write_text(configs.dump(model.sections))
    metrics_file.write(METRICS, folder / "metrics.json")
    return densevit.Run(folder)


@torch.no_grad()
def logits(model: densevit.DenseModel) -> torch.Tensor:
    outputs: dict[str, dict[str, torch.Tensor]] = model(PIXELS)
    return outputs["segmentation"]["logits"]


@pytest.mark.integration
def test_a_pushed_run_predicts_the_same_with_the_same_classes_and_licences(hub: HubServer, tmp_path: Path) -> None:
    model = small_model(root="streets")
    model.licences, model.score_thresholds = {"hf:org/vit": MIT}, {"segmentation": 0.3}
    run = run_folder(tmp_path / "run", model)
    assert densevit.push_to_hub(run, "ann/streets") == f"{hub.address}/ann/streets"
    loaded, values = densevit.load("hf:ann/streets"), {**model.sections.model_dump(), "weights": "hf:ann/streets"}
    for kept in ("config", "classes", "score_thresholds", "licences"):
        assert getattr(loaded, kept) == getattr(model, kept), kept
    assert configs.from_mapping(yaml.safe_load(hub.files["ann/streets"]["config.yaml"])) == model.config
    started = densevit.create_model(configs.from_mapping(values), classes=["road", "sky"]).eval()
    assert started.licences == model.licences
    assert torch.equal(logits(loaded), logits(model)) and torch.equal(logits(started), logits(model))


@pytest.mark.integration
def test_a_second_push_replaces_its_files_and_keeps_others(hub: HubServer, tmp_path: Path) -> None:
    densevit.push_to_hub(run_folder(tmp_path / "run", small_model()).path, "ann/streets", private=True)
    assert hub.private["ann/streets"]
    hub.files["ann/streets"]["LICENSE"] = b"MIT"
    model = small_model()
    densevit.push_to_hub(model, "ann/streets", private=True)
    files = ["README.md", "config.yaml", "model.safetensors"]
    assert [sorted(paths) for paths in hub.commits["ann/streets"]] == [files, files]
    assert hub.files["ann/streets"]["LICENSE"] == b"MIT"
    assert torch.equal(logits(densevit.load("hf:ann/streets")), logits(model))


def test_a_backbone_is_pushed_and_is_the_backbone_of_a_model(hub: HubServer) -> None:
    backbone = small_model().backbone
    densevit.push_to_hub(densevit.DenseModel(backbone, {}), "ann/backbone")
    card = hub.files["ann/backbone"]["README.md"].decode()
    assert "\npipeline_tag: image-feature-extraction\n" in card
    assert "densevit train CONFIG backbone.weights=hf:ann/backbone" in card
    heads = {"segmentation": NAIVE}
    started = densevit.create_model({**BACKBONE, "weights": "hf:ann/backbone"}, heads, classes=["road", "sky"])
    state = started.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


# ---- errors ----


EXPECTED = "expected the name of a score"


@pytest.mark.parametrize(
    ("repository", "options", "facts"),
    [
        (
            "ann/streets",
            {"token": ""},
            r"ann/streets: not pushed \(.*401.*\)\. Fix: log in with `hf auth login`, or set HF_T",
        ),
        ("bob/streets", {}, r"bob/streets: not pushed \(.*403.*rights.*\)\. Fix: log in with"),
        ("ann/public", {"private": True}, r"ann/public: not pushed: it is public\. Fix: make it private"),
        ("streets", {}, r"'streets' is not a repository name\. Expected ORG/NAME"),
        ("ann/a--b", {}, r"ann/a--b: not pushed \(.*--.*\)\. Fix: check the name"),
        ("ann/streets", {"benchmarks": {"segmentation/AP": "a/b/c"}}, f"segmentation/AP: a/b/c: {EXPECTED}"),
        (
            "ann/streets",
            {"benchmarks": {"segmentation/mIoU": "a/b"}},
            "segmentation/mIoU: a/b: expected.*ORG/DATASET/TASK",
        ),
        ("ann/streets", {"benchmarks": {"segmentation/aAcc": "a/b/c"}}, f"segmentation/aAcc: a/b/c: {EXPECTED}"),
    ],
)
def test_what_cannot_be_pushed_is_an_error_in_one_line_and_uploads_nothing(
    repository: str, options: dict[str, Any], facts: str, hub: HubServer, tmp_path: Path, environment
) -> None:
    hub.create("ann", "public", private=False)
    environment(HF_TOKEN=options.pop("token", "hf_x"))
    with pytest.raises(DensevitError, match=facts) as error:
        densevit.push_to_hub(run_folder(tmp_path / "run", small_model()), repository, **options)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert not any(hub.files.values())


# ---- without a network ----
