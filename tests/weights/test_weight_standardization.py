"""A hybrid's weight standardisation, which tensors do not determine: in configs, exports and pretrained weights."""

import pytest
import torch

from densevit import config as configs
from densevit.cli import main
from densevit.errors import WeightsError
from densevit.weights.building import build_model
from densevit.weights.model_file import save
from densevit_workbench.interchange.foreign_export import export

HYBRID = {
    "name": "vit", "variant": "nano", "stem": "resnet", "image_size": 64, "readout": "project", "feature_norm": False,
    "position_resizing": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
}  # fmt: skip
DEPTH = {"name": "dpt", "width": 32, "reassemble_channels": [256, 512, 32, 32], "output": "relative", "norm": "none"}


@pytest.fixture
def run(tmp_path):
    """`run(arithmetic, spread)`: a run's folder. spread: filters' deviations differ by up to this factor."""

    def run(arithmetic, spread=1000.0):
        backbone = {**HYBRID, "weight_standardization": arithmetic}
        values = {"backbone": backbone, "heads": {"depth": DEPTH}, "data": {"name": "scenes"}}
        model = build_model(configs.from_mapping({**values, "trainer": {"max_steps": 1}}), {"depth": ()}).eval()
        for name, weight in model.backbone.stem.named_parameters():
            if "conv" in name or "downsample.0" in name:
                weight.data *= spread ** -torch.rand(len(weight), 1, 1, 1)
        folder = tmp_path / f"{arithmetic}-{spread:g}"
        folder.mkdir()
        save(model, folder / "model.safetensors")
        return folder

    return run


@pytest.mark.integration
@pytest.mark.parametrize(("arithmetic", "layout"), [("std", "dpt-hybrid"), ("variance", "transformers-dpt-hybrid")])
def test_weight_standardization_round_trips_through_the_config(arithmetic, layout, run, tmp_path):
    source, out, back = run(arithmetic), tmp_path / "out.pth", tmp_path / "back"
    export(source, layout).write(out)
    assert main(["convert", str(out), str(back), "--as", layout]) == 0
    assert configs.load(back).backbone.options.get("weight_standardization", "variance") == arithmetic
    first, second = torch.load(out, weights_only=True), export(back, layout).tensors
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("arithmetic", "layout"), [("std", "timm-vit"), ("variance", "dpt-hybrid")])
def test_other_weight_standardization_raises_or_warns(arithmetic, layout, run):
    allowed = ["readouts.*"]  # of timm's, which is the backbone alone
    with pytest.raises(WeightsError, match=f"weight_standardization is '{arithmetic}'"):
        export(run(arithmetic), layout, allowed)
    other = {"std": "variance", "variance": "std"}[arithmetic]
    notes = export(run(arithmetic, spread=1.0), layout, allowed).notes
    assert f"There, weight_standardization is {other}: outputs differ by less than 0.1%." in notes
