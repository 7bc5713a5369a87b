"""A model that stands in for a trained one, and photos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densevit.inference import model_loading
from tests.cli.stand_in import StandIn
from tests.written_files import save_image


@pytest.fixture
def load_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """`load_as(model)`: the model that each command loads from now on."""

    def load_as(model: Any) -> Any:
        monkeypatch.setattr(model_loading, "load", lambda *_: model)
        return model

    return load_as


@pytest.fixture
def model(load_as: Callable[[Any], Any]) -> StandIn:
    stand_in: StandIn = load_as(StandIn(("detection",)))
    return stand_in


@pytest.fixture
def photos(cwd: Path) -> Path:
    for n, name in enumerate(("a/1.jpg", "b/1.jpg", "b/000139.jpg", "b/cat.png")):
        save_image(Path(name), np.full((40, 50 + n, 3), 128, np.uint8))
    return cwd
