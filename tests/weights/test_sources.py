"""Sources: what `load` and `weights` read besides densevit's files."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch

import densevit
from densevit.errors import DensevitError
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.sources import Source


class Store(Source):
    """store:NAME is a model file; its tensors are all 0.5."""

    forms, options = ("store:NAME",), ("runtime",)
    asked: ClassVar[list[str]] = []

    def recognises(self, source):
        self.asked.append(str(source))
        return str(source).startswith("store:")

    def load(self, source, trust=False, **options):
        return densevit.load(Path(str(source)[6:])), False

    def read(self, source, fix_hint="", trust=False):
        model = densevit.load(Path(source[6:]))
        return Checkpoint({key: torch.full_like(x, 0.5) for key, x in model.backbone.state_dict().items()}, source)


@pytest.fixture
def model_file(tmp_path, install):
    """A model file. A distribution has a broken source and `Store`."""
    sources = f"[densevit.sources]\nbroken = broken_source:Source\nstore = {__name__}:Store\n"
    install("stores", sources, {"broken_source.py": "raise RuntimeError('broken')"})
    model = densevit.create_model(
        {"name": "resnet", "depth": 18}, {"name": "setr", "norm": "batch"}, classes=["a", "b"]
    )
    densevit.save(model, tmp_path / "a.safetensors")
    Store.asked.clear()
    return tmp_path / "a.safetensors"


def test_densevit_s_files_come_first_and_a_broken_source_is_left_out(model_file):
    densevit.load(model_file)
    assert Store.asked == []
    with pytest.warns(UserWarning, match=r"'broken' .* cannot be imported: .* It reads no models"):
        assert list(densevit.load(f"store:{model_file}").heads) == ["segmentation"]


@pytest.mark.filterwarnings("ignore:.*broken.*")
def test_weights_of_a_source_are_loaded_and_its_names_are_in_messages(model_file, tmp_path):
    backbone = densevit.create_backbone("resnet", depth=18, weights=f"store:{model_file}")
    assert all((x == 0.5).all() for x in backbone.parameters())
    with pytest.raises(DensevitError, match=r"no such file\. Expected .* or a published name: .*store:NAME\."):
        densevit.load(tmp_path / "b.safetensors")


@pytest.mark.filterwarnings("ignore:.*broken.*")
def test_an_argument_that_no_source_takes_is_refused(model_file):
    with pytest.raises(DensevitError, match=r"a\.safetensors: runtime openvino is for exported files.*leave it out"):
        densevit.load(model_file, runtime="openvino")
