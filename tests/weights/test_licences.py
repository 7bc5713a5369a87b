"""Licences of published weights: where they come from, and that they stay with the model."""

import json

import pytest
import torch

import densevit
from densevit.cli import main
from densevit.weights import layouts, licences, preprocessing
from densevit.weights.state_dict_io import read_header

CARD = "---\nlanguage: en\nlicense: {}\ntags:\n- vision\n---\n# A model\n\nlicense: of the text\n"
NC = "cc-by-nc-4.0"
R18 = {"name": "resnet", "depth": 18}


@pytest.fixture
def folder(tmp_path):
    """A ResNet-18 as torchvision saves it, with a model card."""
    from torchvision.models import resnet18

    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(resnet18().state_dict(), folder / "pytorch_model.bin")
    (folder / "README.md").write_text(CARD.format(NC))
    return folder


def licences_of(path):
    return json.loads(read_header(path / "model.safetensors")["licences"])


def test_licence_of_a_card_stays_with_the_backbone_and_with_models_that_start_from_it(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "ours")]) == 0
    assert f"Licence: {NC}." in capsys.readouterr().out
    assert licences_of(tmp_path / "ours") == {str(folder): NC}
    given = {"heads": {"surfaces": {"name": "setr", "decoder": "naive", "width": 8}}, "classes": ["a", "b"]}
    model = densevit.create_model(R18, **given, weights=folder)
    densevit.save(model, tmp_path / "first.safetensors")
    for one in (model, densevit.load(tmp_path / "first.safetensors")):
        assert one.model.licences == {str(folder): NC}

    (folder / "README.md").unlink()
    assert main(["convert", str(folder), str(tmp_path / "own")]) == 0
    assert "Licence" not in capsys.readouterr().out  # a file of one's own
    assert licences_of(tmp_path / "own") == {str(folder): "unknown"}


def test_licence_is_read_from_the_head_of_a_card(tmp_path):
    for text, licence in {
        CARD.format('"mit"'): "mit",
        "---\nlicense: other\nlicense_name: dinov3-license\n---\n": "dinov3-license",
        "# A model\n\nlicense: mit\n": None,
        "---\ntags: [a]\n---\nlicense: mit\n": None,
    }.items():
        (tmp_path / "README.md").write_text(text)
        assert preprocessing.folder_metadata(tmp_path).get("licence") == licence


READ_IT, FORBIDDEN = "Not known to be permissive: read it", "Not for commercial use"
PERMITS = {
    "": ("Apache-2.0 (facebookresearch/dinov2: code and weights)", "mit", "bsd-3-clause", "cc-by-4.0"),
    FORBIDDEN: ("CC-BY-NC-4.0 (facebookresearch/mae)", "apple-amlr", "Apache-2.0, research only",
                "MIT (non commercial)", "fair-noncommercial-research-license"),
    READ_IT: ("fastvit-license", "cc-by-sa-4.0", "other", "MIT AND CC-BY-SA-4.0", "MIT-like", "The MIT License"),
    "Its terms are unknown": ("unknown", None),
}  # fmt: skip


def test_what_a_licence_permits():
    for words, licence in ((words, licence) for words, each in PERMITS.items() for licence in each):
        assert licences.in_words(licence).startswith(words) and bool(licences.in_words(licence)) == bool(words)
        assert licences.permits_commercial_use(licence) == (not words), licence
    assert licences.line("a", "The MIT License").startswith(f"Licence of a: The MIT License. {READ_IT}")


def test_every_licence_of_layouts_is_classified():
    stated = {layout.publishing.licence for layout in layouts.every() if isinstance(layout.publishing.licence, str)}
    for licence in stated - {""}:
        assert licences.permits_commercial_use(licence) == licence.startswith(("Apache-2.0 (", "MIT (")), licence
