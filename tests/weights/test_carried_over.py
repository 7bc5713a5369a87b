"""Loading weights of a backbone that was trained at another size."""

import pytest
import torch
from torch.nn import functional as F

import densevit
from densevit.errors import WeightsError
from densevit.weights.state_dict_loading import load_state

CASES = [
    ("swin", {"variant": "nano", "window_size": 7}, {"window_size": 12}, 6),
    ("vit", {"variant": "nano", "image_size": 224}, {"image_size": 384}, 1),
    ("mvit", {"variant": "nano", "image_size": 96}, {"image_size": 160}, 12),
    ("mvit", {"variant": "nano", "version": 1, "image_size": 96}, {"image_size": 160}, 1),
]


@pytest.mark.parametrize(("name", "options", "other", "tables"), CASES, ids=str)
def test_tables_are_resized_with_a_report_line_each(name, options, other, tables):
    old = densevit.create_backbone(name, **options)
    new = densevit.create_backbone(name, **{**options, **other})
    report = load_state(new, old.state_dict(), "old.pth").adapted
    own, before = new.state_dict(), old.state_dict()
    carried = [key for key in own if own[key].shape != before[key].shape]
    assert report == [(key, tuple(before[key].shape), tuple(own[key].shape), "interpolated") for key in carried]
    assert len(carried) == tables
    assert all(torch.equal(own[key], before[key]) for key in own if key not in carried)


def test_resized_position_table_matches_forward_interpolation():
    old, new = (densevit.create_backbone("vit", variant="nano", image_size=size).eval() for size in (224, 320))
    load_state(new, old.state_dict(), "old.pth")
    images = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        for x, y in zip(new(images), old(images), strict=True):
            torch.testing.assert_close(x, y)


def test_bias_table_is_interpolated_between_its_ends():
    old, new = (densevit.create_backbone("swin", variant="nano", window_size=size) for size in (7, 12))
    load_state(new, old.state_dict(), "old.pth")
    before, after = (s.stages[0][0].attention.relative_position_bias_table.detach() for s in (old, new))
    expected = F.interpolate(before.T.view(1, 1, 13, 13), size=(23, 23), mode="bicubic").view(1, -1).T
    torch.testing.assert_close(after, expected)


def test_incompatible_tensors_still_raise():
    old, new = densevit.create_backbone("resnet", depth=18), densevit.create_backbone("resnet", depth=34)
    with pytest.raises(WeightsError, match="missing"):
        load_state(new, old.state_dict(), "old.pth")
    narrow, wide = (densevit.create_backbone("vit", variant=variant) for variant in ("nano", "tiny"))
    with pytest.raises(WeightsError, match="have another shape"):
        load_state(wide, narrow.state_dict(), "old.pth")
