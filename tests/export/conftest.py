"""An exported file that several tests read, and exports that take less time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.small_models import NAMES, program_predictor


@pytest.fixture(scope="session", autouse=True)
def quick_checks(quick_exports: None) -> None:
    """In all tests of this folder."""


@pytest.fixture(scope="session")
def program(made_once: Any) -> Path:
    """A folder with model.onnx, which resizes and post-processes, its description model.json, and image.png.

    The model, `program_predictor()`, has 31 objects above the threshold of the file. model.json also has the
    thresholds and the differences of the file from the model.
    """

    def make(folder: Path) -> None:
        import densevit
        from densevit_export import file_comparison

        folder.mkdir()
        pixels = file_comparison.example_images((150, 211), 1, 5)[0]
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / "image.png")
        predictor = program_predictor()
        threshold = (
            float(predictor.predict(torch.from_numpy(pixels), threshold=0).scores[30]) - 2e-3
        )  # one level of pixels
        options: Any = {"resize": True, "postprocess": True, "threshold": {"x": threshold}}
        exported = densevit.export(predictor, folder / "model.onnx", **options)
        description = {"classes": {"x": NAMES}, "thresholds": exported.thresholds, "differences": exported.differences}
        (folder / "model.json").write_text(json.dumps(description))

    return made_once("exported_program", make)
