"""mmsegmentation 1.x has no bias in its patch embedding: SETR's is zero and reported, in both directions."""

import pytest
import torch
from rich.console import Console
from torch import nn

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
from tests.weights.layouts.originals.weights import random_weights
from tests.weights.layouts.recordings import recorded

pytestmark = pytest.mark.integration

BIAS = "backbone.patch_embed.projection.bias"
LAYOUT = "mmseg-setr-naive-ade20k"


@pytest.fixture
def state(monkeypatch):
    """The recorded checkpoint."""
    monkeypatch.setitem(VARIANTS, "nano", Variant(32, 4, 2, 0.0))
    return random_weights(recorded(LAYOUT)[0])


def shown(fit):
    console = Console(width=200)
    with console.capture() as message:
        console.print(weights_table(fit))
    return " ".join(message.get().split())


def test_missing_patch_bias_is_zero_and_reported(state, tmp_path):
    layout = find(LAYOUT)
    del state[BIAS]
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "setr.pth")
    assert recognise(state) is layout
    converted = convert(tmp_path / "setr.pth", layout.name)
    assert converted.fit.missing == [] and not converted.backbone.stem.projection.bias.any()
    why = "mmsegmentation 1.x has no bias in its patch embedding unless patch_bias=True"
    assert f"zeros 1 backbone.stem.projection.bias: {why}" in shown(converted.fit)
    left_out = translate(state, layout).left_out
    assert f"loaded {len(state) - len(left_out)} " in shown(converted.fit)  # one of theirs, one of ours
    alone = fit_backbone(converted.model, translated_for(read(tmp_path / "setr.pth"), converted.model), ())
    assert f"zeros 1 stem.projection.bias: {why}" in shown(alone)

    write(converted, tmp_path / "run")
    back = export(tmp_path / "run", layout.name)
    assert back.tensors.keys() == state.keys() - left_out.keys()  # theirs loads it completely
    assert f"backbone.stem.projection.bias is all zeros and is not written: {why}." in back.notes
    nn.init.ones_(converted.model.backbone.stem.projection.bias)
    write(converted, tmp_path / "other")
    back = export(tmp_path / "other", layout.name)
    assert back.tensors[BIAS].eq(1).all()
    assert any("bias is written: mmsegmentation 1.x has no bias" in note for note in back.notes)


@pytest.mark.parametrize("lacking", ["backbone.patch_embed.projection.weight", "backbone.layers.3.ln1.bias"])
def test_other_missing_tensors_raise(lacking, state, tmp_path):
    del state[BIAS], state[lacking]
    torch.save(state, tmp_path / "setr.pth")
    with pytest.raises(WeightsError, match=r"missing|is incomplete"):
        convert(tmp_path / "setr.pth")
