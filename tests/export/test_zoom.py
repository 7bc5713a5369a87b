"""Metres stay metres at every image size in exported files."""

import numpy as np
import pytest

import densevit
from densevit.data.transforms.default import DefaultTransforms
from tests.inference.zoomed_models import FOCAL, IMAGE, VALUE, check, predicted, write_model

KEYS = ("depth", "near", "canonical", "distances")  # divided, multiplied, by the focal length, of an object


@pytest.mark.integration
@pytest.mark.parametrize(
    ("suffix", "side", "options"),
    [  # suffix, evaluation size if not the training's, options
        (".onnx", None, {"canvas": (96, 128), "postprocess": True}),
        (".onnx", 96, {"resize": True}),
    ],
)
def test_exported_files(tmp_path, suffix, side, options):
    write_model(tmp_path / "run", KEYS)
    predictor = densevit.load(tmp_path / "run")
    predictor = predictor.with_resize(DefaultTransforms(side)) if side else predictor
    path = densevit.export(predictor, tmp_path / f"file{suffix}", quiet=True, **options).path
    file = densevit.load(path, trust=True)
    for size in (None, 90, (40, 96)):
        check(predicted(file, image_size=size), KEYS)
    for focal in (FOCAL / 2, 2 * FOCAL):
        seen = file.predict(IMAGE, threshold=0, focal=focal)["canonical"]["canonical"]
        assert np.median(seen) == pytest.approx(VALUE * focal / FOCAL, rel=0.05)
    if options.get("resize"):  # also for other programs
        focals = np.array([FOCAL], np.float32)
        outputs = file.file.run(np.ascontiguousarray(IMAGE.transpose(2, 0, 1)[None]), focal=focals)
        check({key: {key: outputs[f"{key}/{key}"]} for key in KEYS}, KEYS)
