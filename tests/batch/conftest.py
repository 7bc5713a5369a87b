"""A model that stands in for a trained one, and photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.stand_in import StandIn


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    model = StandIn(("detection",))
    monkeypatch.setattr("densevit.inference.model_loading.load", lambda *given: model)
    return model


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(("a/1.jpg", "b/1.jpg", "b/000139.jpg", "b/cat.png")):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 50 + n, 3), 128, np.uint8)).save(name)
    return tmp_path
