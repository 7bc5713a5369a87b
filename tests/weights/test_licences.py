"""Licences of published weights: where they come from, and that they stay with the model."""

import json

import pytest
import torch
import yaml

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.model import DenseModel
from densevit.weights import hub, layouts, licences, preprocessing
from densevit.weights.checkpoint_io import read
from densevit.weights.pretrained import load_pretrained
from densevit.weights.state import read_header

CARD = "---\nlanguage: en\nlicense: {}\ntags:\n- vision\n---\n# A model\n\nlicense: of the text\n"


@pytest.fixture
def folder(tmp_path):
    """A ResNet-18 as torchvision saves it, with a model card."""
    from torchvision.models import resnet18

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
        "scenes/detr_resnet", [*small, "data.num_workers=0", f"backbone.weights={folder}"], run_dir=tmp_path / "run"
    )
    text = (run.path / "config.yaml").read_text()
    assert f"# licence of {folder}: cc-by-nc-4.0" in text and "licence" not in yaml.safe_load(text)
    assert json.loads(read_header(run.path / "model.safetensors")["licences"]) == {str(folder): "cc-by-nc-4.0"}


def test_unknown_licence_stays_unknown(folder, tmp_path, capsys):
    (folder / "README.md").unlink()
    assert main(["convert", str(folder), str(tmp_path / "ours")]) == 0
    assert "Licence" not in capsys.readouterr().out  # a file of one's own
    assert json.loads(read_header(tmp_path / "ours" / "model.safetensors")["licences"]) == {str(folder): "unknown"}


def test_published_weights_without_a_licence_say_so(tmp_path, monkeypatch):
    from torchvision.models import resnet18

    file = tmp_path / "resnet18.pth"
    torch.save(resnet18().state_dict(), file)
    monkeypatch.setattr(hub, "fetch", lambda source, instead: hub.Published(file, {}))
    model = DenseModel(densevit.create_backbone("resnet", depth=18), {})
    section = configs.section("backbone", {"name": "resnet", "depth": 18, "weights": "torchvision:resnet18"}, "a test")
    [found] = load_pretrained(model, configs.ModelSections(backbone=section, heads={}))
    assert any(note.startswith("Licence: not stated. What it permits is not known") for note in found.notes)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (CARD.format("apache-2.0"), "apache-2.0"),
        (CARD.format('"mit"'), "mit"),
        ("---\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("---\nlicense: other\n---\n", "other"),
        ("# A model\n\nlicense: mit\n", None),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
    ],
)
def test_licence_is_read_from_the_head_of_a_card(tmp_path, text, licence):
    (tmp_path / "README.md").write_text(text)
    assert preprocessing.of_folder(tmp_path).get("licence") == licence


@pytest.mark.parametrize(
    ("licence", "words"),
    [
        ("apache-2.0", ""),
        ("Apache-2.0 (facebookresearch/detr)", ""),
        ("mit", ""),
        ("bsd-3-clause", ""),
        ("cc-by-4.0", ""),
        ("cc-by-nc-4.0", "Not for commercial use"),
        ("CC-BY-NC-4.0 (facebookresearch/mae)", "Not for commercial use"),
        ("fair-noncommercial-research-license", "Not for commercial use"),
        ("apple-amlr", "Not for commercial use"),
        ("dinov3-license", "An agreement of its own: commercial use is allowed"),
        ("fastvit-license", "Not known to be permissive: read it"),
        ("cc-by-sa-4.0", "Not known to be permissive: read it"),
        ("other", "Not known to be permissive: read it"),
        ("Apache-2.0 (PekingU on the Hugging Face Hub)", ""),
        ("Apache-2.0 (facebookresearch/dinov2: code and weights)", ""),
        ("MIT (efficientnet-lite0 0.1.0)", ""),
        ("Apache-2.0, research only", "Not for commercial use"),
        ("MIT (non commercial)", "Not for commercial use"),
        ("MIT (a/b: research only)", "Not for commercial use"),
        ("MIT AND CC-BY-SA-4.0", "Not known to be permissive: read it"),
        ("MIT-like", "Not known to be permissive: read it"),
        ("mit with conditions", "Not known to be permissive: read it"),
        ("The MIT License", "Not known to be permissive: read it"),
        ("BSD 3-Clause License", "Not known to be permissive: read it"),
        ("gpl-3.0", "Not known to be permissive: read it"),
        ("unknown", "What it permits is not known"),
        (None, "What it permits is not known"),
    ],
)
def test_what_a_licence_permits(licence, words):
    assert licences.in_words(licence).startswith(words) and bool(licences.in_words(licence)) == bool(words)
    assert licences.permits_commercial_use(licence) == (not words)


def test_a_text_is_shown_as_it_is_stated():
    assert licences.line("a", "The MIT License") == (
        "Licence of a: The MIT License. Not known to be permissive: read it before you publish or sell weights."
    )


def test_every_licence_of_a_layout_is_classified():
    """No layout states a licence in words that are read as another one."""
    stated = {layout.publishing.licence for layout in layouts.every() if isinstance(layout.publishing.licence, str)}
    for licence in stated - {""}:
        assert licences.permits_commercial_use(licence) == licence.startswith(("Apache-2.0 (", "MIT (")), licence


def test_every_licence_of_timm_s_weights_is_classified():
    """Those that are known to forbid commercial use by name; a new one is looked at here."""
    timm = pytest.importorskip("timm")
    names = {str(timm.get_pretrained_cfg(name).license).lower() for name in timm.list_pretrained()}
    permitted = {name for name in names if licences.permits_commercial_use(name)}
    assert permitted == {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"}
    forbidden = {name for name in names if licences.in_words(name).startswith("Not for commercial")}
    assert forbidden == {"cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr"}


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
        licence = layouts.find(name).publishing.licence
        assert licence.endswith(")") and "/" in licence
    assert layouts.find("transformers-detr").publishing.licence == layouts.find("timm-vit").publishing.licence == ""


def test_a_damaged_entry_is_an_error(tmp_path):
    model = densevit.create_model({"name": "vit", "variant": "nano"}, heads={"depth": {"name": "dpt"}})
    model.model.licences = ["mit"]
    densevit.save(model, tmp_path / "m.safetensors")
    with pytest.raises(densevit.DensevitError, match=r"its header is corrupt \(licences .*mit"):
        densevit.load(tmp_path / "m.safetensors")
    assert read(tmp_path / "m.safetensors").tensors
