"""Every pretraining recipe takes one step, and its backbone fits the detector that its header names."""

import re
from pathlib import Path

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.data.build import build_data
from densevit.interfaces import LossContext
from densevit.weights.building import build_model
from tests.configs.test_configs import PRETRAINING


@pytest.mark.integration
@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_recipe_trains_one_step(path: Path) -> None:
    config = configs.load(path, ["data.batch_size=2", "data.num_workers=0"])
    configs.check_plugins(config)
    data = build_data(config)
    model = build_model(config, {})
    method = densevit.create_method(config.method.name, model, **config.method.options)
    data.use(method)
    losses = method.train().training_step(model.train(), next(iter(data.train_loader())), LossContext())
    torch.stack(list(losses.values())).sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert all(name.startswith("backbone.feature_norms.") for name in unused)
    named = re.search(r"densevit train (configs/[\w/]+\.yaml) backbone\.weights=", path.read_text())
    assert named is not None and configs.load(named[1]).backbone == config.backbone
