"""Recognition of layouts."""

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights import layouts
from densevit.weights.key_mapping import Layout


def made(*found):
    return {name: Layout(name, "backbone", marks, (), lambda state: {}) for name, marks in found}


@pytest.fixture
def known(monkeypatch):
    found = made(
        ("a-vit", ("cls", "blocks.{i}.w")),
        ("a-deit", ("cls", "blocks.{i}.w", "dist")),
        ("b-net", ("conv", "stages.{i}.w")),
        ("c-net", ("conv", "stages.{i}.w")),
    )
    monkeypatch.setattr(layouts, "_layouts", lambda: found)


def state(*names):
    return {name: torch.empty(0) for name in names}


def test_most_specific_matching_layout_is_selected(known):
    assert layouts.recognise(state("blocks.0.w", "cls")).name == "a-vit"
    assert layouts.recognise(state("blocks.0.w", "dist", "cls")).name == "a-deit"


def test_no_match_error_shows_keys_and_known_layouts(known):
    with pytest.raises(WeightsError) as error:
        layouts.recognise(state(*"abcdefgh"), "some.pth")
    assert str(error.value) == (
        "some.pth has 8 tensors (a, b, c, ..., f, g, h), which match no known layout. If it is one of these, name "
        "it with `densevit convert some.pth OUT --as NAME`: a-vit, a-deit, b-net, c-net."
    )


def test_ambiguous_match_error_names_both(known):
    with pytest.raises(
        WeightsError, match=r"2 tensors \(conv, stages\.1\.w\), which match b-net and c-net\. .* --as NAME"
    ):
        layouts.recognise(state("conv", "stages.1.w"))


def test_unknown_name_suggests_the_nearest(known):
    assert layouts.find("b-net").name == "b-net"
    with pytest.raises(WeightsError, match=r"Unknown layout 'a-vti'\. Did you mean 'a-vit'\? Known: a-deit, a-vit"):
        layouts.find("a-vti")


def test_all_modules_are_found_and_layouts_are_complete():
    names = layouts.names()
    assert {"torchvision-resnet", "detr", "timm-vit"} <= set(names)
    for name in names:
        layout = layouts.find(name)
        assert layout.name == name and layout.marks and layout.part in ("backbone", "model")
        if layout.part == "model":
            assert all(line.ours == "0" or line.ours.startswith(("backbone.", "heads.")) for line in layout.lines)
