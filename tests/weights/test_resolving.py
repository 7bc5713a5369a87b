"""Sources of weights are read and checked before a model is built."""

import pytest
import torch

from densevit.errors import WeightsError
from densevit.model import build_from_sections
from densevit.weights.pretrained import load_pretrained
from densevit.weights.resolving import read_files, resolve
from tests.weights.loading import CLASSES, SCORES, Small, config_of


def test_all_sources_are_checked_before_loading(tmp_path):
    backbone, head = str(tmp_path / "backbone.pth"), str(tmp_path / "head.pth")
    torch.save(Small().state_dict(), backbone)
    torch.save({"hidden.weight": torch.ones(5, 4)}, head)
    config = config_of({"weights": backbone}, {"boxes": {**SCORES, "weights": head}})
    read = {source: [*found.tensors] for source, found in read_files(config).items()}
    assert read == {backbone: [*Small().state_dict()], head: ["hidden.weight"]}
    resolved = resolve(config, {"boxes": CLASSES})
    model = build_from_sections(resolved.sections, {"boxes": CLASSES})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"heads\.boxes\.weights"):
        load_pretrained(model, resolved)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
