"""Pretrained weights in a config: heads of another backbone, and files that do not fit."""

import pytest
import torch
from torch import nn

from densevit.errors import WeightsError
from densevit.interfaces import Class, Neck
from densevit.model import build_from_sections
from densevit.weights.model_file import save
from densevit.weights.pretrained import load_pretrained
from densevit.weights.resolving import resolve
from tests.built_models import build_model
from tests.weights.loading import CLASSES, SCORES, Small, config_of, loaded, model_of


class Wide(Small):
    """Twelve channels in place of four."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.channels = nn.Conv2d(3, 12, 4, 4), nn.GroupNorm(2, 12), (12,)


class Widened(Neck):
    """A convolution of each feature."""

    def __init__(self, channels, strides) -> None:
        super().__init__([6] * len(channels), strides)
        self.convs = nn.ModuleList(nn.Conv2d(width, 6, 1) for width in channels)


@pytest.mark.parametrize("neck", [None, {"name": f"{__name__}:Widened"}])
def test_a_head_of_another_backbone_is_loaded_but_for_its_projections(tmp_path, neck):
    head = {**SCORES, "neck": neck}
    source = model_of(heads={"boxes": head})
    save(source, tmp_path / "model.safetensors")
    model, _, reports = loaded({"name": f"{__name__}:Wide"}, {"boxes": {**head, "weights": str(tmp_path)}})
    kept = {"convs.0.weight"} if neck else {"hidden.weight"}
    assert {name for report in reports for name in report.ignored_keys} == kept
    for part in ("heads", "necks"):
        for key, value in dict(getattr(source, part).items()).get("boxes", nn.Module()).state_dict().items():
            assert key in kept or torch.equal(getattr(model, part)["boxes"].state_dict()[key], value)


@pytest.mark.parametrize(
    ("names", "rows"),  # the row in the file of cat, of hot dog and of "no object"; None: initial
    [
        (["cow", "Hot_dog", "pig", "cat"], (3, 1, 4)),
        (["Cat, felis", "hot_dog"], (0, 1, 2)),
        (["CAT", "Cat", "hot dog"], (None, 2, 3)),  # ambiguous
    ],
)
def test_rows_of_classes_are_loaded_by_name(tmp_path, names, rows):
    classes = {"detection": [Class(name, i, (0, 0, 0)) for i, name in enumerate(names)]}
    source = build_model(config_of(), classes)
    save(source, tmp_path / "model.safetensors")
    torch.manual_seed(0)
    initial = model_of().heads["boxes"].label_head.state_dict()
    torch.manual_seed(0)
    model, _, [report] = loaded(weights=str(tmp_path))
    head = model.heads["boxes"]
    for key, value in source.heads["boxes"].label_head.state_dict().items():
        expected = [initial[key][i] if row is None else value[row] for i, row in enumerate(rows)]
        assert torch.equal(head.label_head.state_dict()[key], torch.stack(expected))
    assert torch.equal(head.hidden.weight, source.heads["boxes"].hidden.weight)
    assert report.loaded == (8 if rows == (0, 1, 2) else 6) and report.ignored_keys == {}
    count = 2 if rows[0] is not None else 1
    assert {one.how for one in report.adapted} <= {f"the rows of {count} of 2 classes, by name"}
    notes = [note for note in report.notes if "lack" in note]
    assert notes == (["Classes of head 'boxes' that these weights lack: cat."] if count == 1 else [])


def test_all_sources_are_checked_before_loading(tmp_path):
    backbone, head = str(tmp_path / "backbone.pth"), str(tmp_path / "head.pth")
    torch.save(Small().state_dict(), backbone)
    torch.save({"hidden.weight": torch.ones(5, 4)}, head)
    config = config_of({"weights": backbone}, {"boxes": {**SCORES, "weights": head}})
    resolved = resolve(config, {"boxes": CLASSES})
    model = build_from_sections(resolved.sections, {"boxes": CLASSES})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"heads\.boxes\.weights"):
        load_pretrained(model, resolved)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
