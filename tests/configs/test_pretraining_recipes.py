"""Every pretraining recipe takes one step, and its backbone fits the detector that its header names."""

import re
from pathlib import Path

import pytest

from densevit import config as configs
from tests.configs.published import one_step
from tests.configs.test_configs import PRETRAINING


@pytest.mark.integration
@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_recipe_trains_one_step(path: Path) -> None:
    config = configs.load(path, ["data.batch_size=2", "data.num_workers=0"])
    one_step(config)
    named = re.search(r"densevit train (configs/[\w/]+\.yaml) backbone\.weights=", path.read_text())
    assert named is not None and configs.load(named[1]).backbone == config.backbone
