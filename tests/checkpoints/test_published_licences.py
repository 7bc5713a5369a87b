"""Licences of published weights: records of all layouts, and that they stay with the model."""

import json
import re
from dataclasses import asdict
from datetime import date
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.interfaces import Licences
from densevit.layouts import every, find
from densevit.weights import licences
from densevit.weights.state_dict_io import read_header
from densevit_checkpoints import preprocessing, published_licences
from tools.conventions.model_zoo import TABLE

CARD = "---\nlanguage: en\nlicense: {}\ntags:\n- vision\n---\n# A model\n\nlicense: of the text\n"
NC = "cc-by-nc-4.0"
R18 = {"name": "resnet", "depth": 18}
ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("docs/reference/*.md"),
    *ROOT.glob("configs/**/*.yaml"),
]
# They state licences of densevit, of other libraries and code, and of data sets.
OF_OTHER_THINGS = {
    *("README.md", "index.md", "comparison.md", "from-other-libraries.md"),
    *("export.md", "public-data-sets.md", "bccd.yaml", "capi.yaml", "hummingbird.yaml"),
}
WORDS = re.compile(r"Apache-2|\bMIT\b|\bBSD-|CC-BY|\bAGPL|\bPML\b|DINOv3 [Ll]icen[cs]e|non-commercial|not commercial")


def licences_of(path):
    return json.loads(read_header(path / "model.safetensors")["licences"])


def test_licences_of_a_card_stay_with_the_backbone_and_with_models_that_start_from_it(tmp_path, capsys):
    from torchvision.models import resnet18

    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(resnet18().state_dict(), folder / "pytorch_model.bin")
    (folder / "README.md").write_text(CARD.format(NC))
    assert main(["convert", str(folder), str(tmp_path / "ours")]) == 0
    stated = Licences("BSD-3-Clause", NC, source=str(folder))
    printed = "".join(capsys.readouterr().out.split())  # without line breaks
    assert f"Licences: {stated}. Not for commercial use".replace(" ", "") in printed
    assert licences_of(tmp_path / "ours") == {str(folder): asdict(stated)}
    given = {"heads": {"surfaces": {"name": "setr", "decoder": "naive", "width": 8}}, "classes": ["a", "b"]}
    model = densevit.create_model(R18, **given, weights=folder)
    densevit.save(model, tmp_path / "first.safetensors")
    again = densevit.create_model(R18, **given, weights=tmp_path / "first.safetensors")
    for one in (model, densevit.load(tmp_path / "first.safetensors"), again):
        assert one.licences == {str(folder): stated}

    (folder / "README.md").unlink()
    assert main(["convert", str(folder), str(tmp_path / "own")]) == 0
    assert "Licence" not in capsys.readouterr().out  # a file of one's own
    assert licences_of(tmp_path / "own")[str(folder)]["weights"] == "unknown"


def test_licence_is_read_from_the_head_of_a_card(tmp_path):
    for text, licence in {
        CARD.format('"mit"'): "mit",
        "---\nlicense: other\nlicense_name: dinov3-license\n---\n": "dinov3-license",
        "# A model\n\nlicense: mit\n": None,
        "---\ntags: [a]\n---\nlicense: mit\n": None,
    }.items():
        (tmp_path / "README.md").write_text(text)
        assert preprocessing.folder_metadata(tmp_path).get("licence") == licence


REST = ("COCO", "none")
READ, FORBIDDEN, ASK = "Not known to be permissive", "Not for commercial use", "Ask the authors"
CLEAN = {
    ("Apache-2.0", "mit", *REST): (True, ""),
    ("BSD-3-Clause", "CC-BY-4.0", *REST): (True, ""),
    ("MIT", "CC-BY-NC-4.0", *REST): (False, FORBIDDEN),
    ("MIT", "apple-amlr", "unknown", "unknown"): (False, FORBIDDEN),
    ("MIT", "MIT", "Cityscapes (non-commercial)", "none"): (False, FORBIDDEN),
    ("MIT", "MIT", "COCO", "B (research only)"): (False, FORBIDDEN),
    ("AGPL-3.0", "MIT", *REST): (False, READ),
    ("MIT", "MIT AND CC-BY-SA-4.0", *REST): (False, READ),
    ("MIT", "MIT", "COCO", "unknown"): (None, ASK),
    ("MIT", "unknown", *REST): (None, ASK),
}


@pytest.mark.parametrize(("fields", "clean", "words"), [(fields, *result) for fields, result in CLEAN.items()])
def test_clean_is_permissive_without_a_restriction_by_data_or_teacher(fields, clean, words):
    stated = Licences(*fields, source="https://a.org")
    assert stated.clean is clean
    assert re.fullmatch(rf"Licences of a: .*\(https://a\.org\)\.( {words}.*)?", licences.line("a", stated))
    assert (words in licences.line("a", stated)) and licences.line("a", stated).endswith(")." if clean else ".")


def files(layout):
    """The records of a layout by pattern; that of other files by its name."""
    usual = layout.publishing.licences
    return {**({layout.name: usual} if isinstance(usual, Licences) else {}), **layout.publishing.files}


def test_every_published_file_has_a_record_of_its_layout_with_four_fields_a_source_and_a_date():
    refused = {"gtr-pose", "gtr-oriented", "gtr-depth"}
    for layout in every():
        assert files(layout) or layout.name in refused, layout.name
        for pattern, one in files(layout).items():
            assert all((one.code, one.weights, one.data, one.teacher)) and one.code != "unknown", pattern
            assert one.source.startswith("https://") and date.fromisoformat(one.date), pattern
        for name in (*layout.publishing.models, *layout.publishing.digests):
            assert published_licences.licences_of(layout, name, {}, {}) in files(layout).values(), name


def record(source):
    """The record of a published name, of whatever layout."""
    records = (files(layout).items() for layout in every())
    return next((one for each in records for pattern, one in each if fnmatch(source, pattern)), None)


NAMED = {  # layout, source and model card: licence of the weights, clean
    ("transformers-dfine", "hf:ustc-community/dfine-small-coco", "apache-2.0"): ("Apache-2.0", True),
    ("transformers-dfine", "hf:ustc-community/dfine-small-obj2coco", "apache-2.0"): (
        "listed apart from Apache-2.0",
        False,
    ),
    ("dfine", "/a/coco/dfine_l_obj365_e25.pth", None): ("listed apart from Apache-2.0", False),
    ("dfine", "best.pth", None): ("unknown", None),
    ("dfine", "hf:a/b", "mit"): ("mit", None),
    ("transformers-mask2former", "hf:facebook/mask2former-swin-tiny-coco-instance", "other"): ("CC-BY-NC-4.0", False),
    ("transformers-eomt", "hf:tue-mps/coco_panoptic_eomt_large_640", None): ("unknown", None),
    ("transformers-eomt", "hf:tue-mps/coco_panoptic_eomt_large_640", "mit"): ("mit", True),
    ("gtr", "hf:Phoenix8125/GTR/det/gtr_s_coco.pth", None): ("MIT", None),
    ("detr", "renamed.pth", None): ("Apache-2.0", True),
    ("detr", "hf:a/b", None): ("unknown", None),
}


@pytest.mark.parametrize(("layout", "source", "card"), NAMED)
def test_files_differ_by_their_names_and_cards_add_what_is_unknown(layout, source, card):
    stated = published_licences.licences_of(find(layout), source, {}, {"licence": card} if card else {})
    assert (stated.weights, stated.clean) == NAMED[layout, source, card] and stated.code != "unknown"


def test_pages_and_configs_state_no_licence_of_weights_beside_the_records():
    for page in PAGES:
        if page.name not in OF_OTHER_THINGS:
            assert WORDS.findall(TABLE.sub("", page.read_text())) == [], page


def test_clean_starts_of_the_page_and_start_dfine_are_clean():
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|[^|]*\|$", (ROOT / "docs/choose-a-model.md").read_text(), re.MULTILINE)
    sources = [source for row in rows for source in re.findall(r"`(hf:[^`]+)`", row)]
    assert sources and all(record(source).clean for source in [*sources, configs.load("start/dfine").weights])
