"""The images on which int8 is calibrated are of the data set, without augmentation, and always the same."""

import torch

from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit_export import calibration
from densevit_export.calibration import calibration_images

SECTION = DataSection(name="scenes", image_size=32, train_length=9, val_length=3)


def test_they_are_training_images_at_even_distances(monkeypatch):
    monkeypatch.setattr(calibration, "CALIBRATION_IMAGES", 3)
    data = DataSplits(SECTION, 0, 32)
    found = list(calibration_images(data))
    assert [one.dtype for one in found] == [torch.uint8] * 3
    assert all(torch.equal(one, data.train[i]["image"]) for one, i in zip(found, (0, 4, 8), strict=True))
