"""Licences of published weights: where they come from, and that they stay with the model."""

import json

import pytest
import torch
import yaml
from torchvision.models import resnet18

import densevit
from densevit.cli import main
from densevit.weights import layouts, preprocessing
from densevit.weights.checkpoint_io import read
from densevit.weights.state import read_header

CARD = "---\nlanguage: en\nlicense: {}\ntags:\n- vision\n---\n# A model\n\nlicense: of the text\n"


@pytest.fixture
def folder(tmp_path):
    """A ResNet-18 as torchvision saves it, with a model card."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(resnet18().state_dict(), folder / "pytorch_model.bin")
    (folder / "README.md").write_text(CARD.format("cc-by-nc-4.0"))
    return folder


def test_licence_of_a_card_is_printed_and_stays_with_the_backbone(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "ours")]) == 0
    assert "Licence: cc-by-nc-4.0." in capsys.readouterr().out
    assert json.loads(read_header(tmp_path / "ours" / "model.safetensors")["licences"]) == {str(folder): "cc-by-nc-4.0"}


def test_a_model_that_starts_from_the_weights_has_their_licence(folder, tmp_path):
    heads = {"surfaces": {"name": "setr"}}
    model = densevit.create_model({"name": "resnet", "depth": 18}, heads=heads, classes=["a", "b"], weights=folder)
    assert model.model.licences == {str(folder): "cc-by-nc-4.0"}
    densevit.save(model, tmp_path / "first.safetensors")
    assert densevit.load(tmp_path / "first.safetensors").model.licences == {str(folder): "cc-by-nc-4.0"}
    again = densevit.create_model(
        {"name": "resnet", "depth": 18}, heads=heads, classes=["a", "b"], weights=tmp_path / "first.safetensors"
    )
    assert again.model.licences == {str(folder): "cc-by-nc-4.0"}


@pytest.mark.integration
def test_run_s_config_has_the_licence_as_a_comment(folder, tmp_path):
    small = ["trainer.max_images=null", "trainer.max_steps=1", "data.train_length=16", "data.val_length=1"]
    run = densevit.fit(
        "detr_resnet", [*small, "data.num_workers=0", f"backbone.weights={folder}"], run_dir=tmp_path / "run"
    )
    text = (run.path / "config.yaml").read_text()
    assert f"# licence of {folder}: cc-by-nc-4.0" in text and "licence" not in yaml.safe_load(text)
    assert json.loads(read_header(run.path / "model.safetensors")["licences"]) == {str(folder): "cc-by-nc-4.0"}


def test_unknown_licence_stays_unknown(folder, tmp_path, capsys):
    (folder / "README.md").unlink()
    assert main(["convert", str(folder), str(tmp_path / "ours")]) == 0
    assert "Licence" not in capsys.readouterr().out
    assert json.loads(read_header(tmp_path / "ours" / "model.safetensors")["licences"]) == {str(folder): "unknown"}


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (CARD.format("apache-2.0"), "apache-2.0"),
        (CARD.format('"mit"'), "mit"),
        ("---\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("# A model\n\nlicense: mit\n", None),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
    ],
)
def test_licence_is_read_from_the_head_of_a_card(tmp_path, text, licence):
    (tmp_path / "README.md").write_text(text)
    assert preprocessing.of_folder(tmp_path).get("licence") == licence


def test_timm_s_entry_has_a_licence():
    assert preprocessing.of_timm({"license": "cc-by-nc-4.0"})["licence"] == "cc-by-nc-4.0"


def test_a_project_s_licence_names_its_repository():
    for name in (
        "detr",
        "detr-panoptic",
        "deformable-detr",
        "dinov2",
        "mae",
        "facebook-mvitv2",
        "microsoft-swin",
        "dpt",
    ):
        assert layouts.find(name).licence.endswith(")") and "/" in layouts.find(name).licence
    assert layouts.find("transformers-detr").licence == layouts.find("timm-vit").licence == ""


def test_a_damaged_entry_is_an_error(tmp_path):
    model = densevit.create_model({"name": "vit", "variant": "nano"}, heads={"depth": {"name": "dpt"}})
    model.model.licences = ["mit"]
    densevit.save(model, tmp_path / "m.safetensors")
    with pytest.raises(densevit.DensevitError, match=r"its header is corrupt \(licences .*mit"):
        densevit.load(tmp_path / "m.safetensors")
    assert read(tmp_path / "m.safetensors").tensors
