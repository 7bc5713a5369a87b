"""SETR computes what mmsegmentation's code does, which `originals/record_setr.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from densevit.errors import WeightsError
from densevit.weights.checkpoint_io import read
from densevit.weights.foreign_checkpoint import translated_for
from densevit.weights.key_mapping import translate
from densevit.weights.layouts import find, recognise
from densevit.weights.pretrained import fit_backbone
from densevit.weights.weights_table import weights_table
from densevit_backbones.vit.variants import VARIANTS, Variant
from densevit_workbench.interchange.foreign_export import export
from densevit_workbench.interchange.foreign_weights import convert, write
from tests.weights.layouts.originals.record_setr import ORIGINALS
from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.originals.record_vit import random_weights

pytestmark = pytest.mark.integration

WITHOUT_EFFECT = {"mmseg-setr-naive-ade20k": r"auxiliary_head\.", "mmseg-setr-mla": r"backbone\.cls_token"}


@pytest.fixture(autouse=True)
def recorded_variant(monkeypatch):
    monkeypatch.setitem(VARIANTS, "nano", Variant(32, 4, 2, 0.0))


def recorded(original):
    """The layout, the weights with the names of the checkpoint, and the maps."""
    with safe_open(Path(__file__).parent / "originals" / f"mmseg-{original}.safetensors", "pt") as file:
        maps = {key: file.get_tensor(key) for key in sorted(file.keys())}
        state = random_weights(json.loads(file.metadata()["shapes"]))
    return find("mmseg-setr" if original == "setr-pup" else f"mmseg-{original}"), state, maps


@pytest.mark.parity("mmseg-setr", "mmseg-setr-naive", "mmseg-setr-naive-ade20k", "mmseg-setr-mla")
@pytest.mark.parametrize("original", ORIGINALS)
@torch.no_grad()
def test_logits_are_those_of_the_original(original, whole):
    layout, state, maps = recorded(original)
    assert recognise(state) is layout
    model = whole(state, layout, WITHOUT_EFFECT.get(layout.name, "(?!)"))
    head = model.heads["segmentation"]
    auxiliary = [maps.pop(key) for key in sorted(maps) if key.startswith("auxiliary")]
    for key, expected in maps.items():
        size = tuple(map(int, key.split("x")))
        outputs = head(model.backbone(random_image(*size)), torch.zeros(1, *size, dtype=torch.bool))
        found = head.maps(outputs, size)[..., ::5, ::5]
        assert expected.std() > 0.2
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    features = model.backbone(random_image(64, 64))
    if original == "setr-mla":
        features, auxiliary = head.decode(features)[1], auxiliary[::-1]  # starting with the first map
    for classify, x, expected in zip(head.auxiliary, features, auxiliary, strict=False):
        torch.testing.assert_close(classify(x)[..., ::5, ::5], expected, atol=1e-5, rtol=1e-5)


# ---- mmsegmentation 1.2, whose patch embedding has no bias ----

BIAS = "backbone.patch_embed.projection.bias"


def shown(fit):
    console = Console(width=200)
    with console.capture() as message:
        console.print(weights_table(fit))
    return " ".join(message.get().split())


@pytest.mark.parametrize("original", ORIGINALS)
def test_missing_patch_bias_is_zero_and_reported(original, tmp_path):
    layout, state, _ = recorded(original)
    del state[BIAS]
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "setr.pth")
    assert recognise(state) is layout
    converted = convert(tmp_path / "setr.pth", layout.name)
    assert converted.fit.missing == [] and not converted.backbone.stem.projection.bias.any()
    why = "mmsegmentation 1.x has no bias in its patch embedding unless patch_bias=True"
    assert f"zeros 1 backbone.stem.projection.bias: {why}" in shown(converted.fit)
    left_out = len(translate(state, layout).left_out)
    assert f"loaded {len(state) - left_out} " in shown(converted.fit)  # one of theirs, one of ours
    alone = fit_backbone(converted.model, translated_for(read(tmp_path / "setr.pth"), converted.model), ())
    assert f"zeros 1 stem.projection.bias: {why}" in shown(alone)

    write(converted, tmp_path / "run")
    back = export(tmp_path / "run", layout.name)
    assert back.tensors.keys() == state.keys() - translate(state, layout).left_out.keys()  # theirs loads it completely
    assert f"backbone.stem.projection.bias is all zeros and is not written: {why}." in back.notes


def test_nonzero_bias_is_written_and_reported(tmp_path):
    _, state, _ = recorded("setr-naive")
    torch.save(state, tmp_path / "setr.pth")
    write(convert(tmp_path / "setr.pth"), tmp_path / "run")
    back = export(tmp_path / "run", "mmseg-setr-naive")
    assert torch.equal(back.tensors[BIAS], state[BIAS])
    assert any("bias is written: mmsegmentation 1.x has no bias" in note for note in back.notes)


@pytest.mark.parametrize("lacking", ["backbone.patch_embed.projection.weight", "backbone.layers.3.ln1.bias"])
def test_other_missing_tensors_raise(lacking, tmp_path):
    _, state, _ = recorded("setr-naive")
    del state[BIAS], state[lacking]
    torch.save(state, tmp_path / "setr.pth")
    with pytest.raises(WeightsError, match=r"missing|is incomplete"):
        convert(tmp_path / "setr.pth")
