"""Mean and std are of pixels in 0 ... 1, in whatever form a project stores them."""

import json

import numpy as np
import pytest

from densevit.errors import WeightsError
from densevit_checkpoints import preprocessing


def processor(mean=0.5, std=0.5, **rest):
    return {"do_rescale": True, "image_mean": [mean, mean + 0.1, mean], "image_std": [std, std, std + 0.1], **rest}


@pytest.mark.parametrize(
    "processor",
    [
        processor(0.1, 0.4, rescale_factor=1 / 255, do_normalize=True),
        processor(),
        processor(123.7, 58.4, do_rescale=False),
        processor(0.1, 0.8, rescale_factor=1 / 127.5, offset=True),
        {"do_rescale": False, "do_normalize": False},
    ],
)
def test_transformers_processor_is_converted_exactly(processor):
    transforms = pytest.importorskip("transformers.image_transforms")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.float64)
    expected = pixels
    if processor["do_rescale"]:
        expected = transforms.rescale(expected, processor.get("rescale_factor", 1 / 255), dtype=np.float64)
        expected = expected - 1 if processor.get("offset") else expected
    if processor.get("do_normalize", True):
        last = {"input_data_format": "channels_last"}
        expected = transforms.normalize(expected, processor["image_mean"], processor["image_std"], **last)
    metadata = preprocessing.transformers_metadata(processor)
    np.testing.assert_allclose((pixels / 255 - metadata["mean"]) / metadata["std"], expected, rtol=1e-6, atol=1e-6)


def test_class_names_are_ordered_by_id_with_gaps_and_default_ones_ignored(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"3": "car", "1": "person"}}))
    assert preprocessing.folder_metadata(tmp_path)["classes"] == ["N/A", "person", "N/A", "car"]
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert preprocessing.folder_metadata(tmp_path).keys() == {"config"}
    (tmp_path / "config.json").write_text('{"id2label": ')
    with pytest.raises(WeightsError, match=r"config\.json: not in the format of transformers or timm"):
        preprocessing.folder_metadata(tmp_path)
