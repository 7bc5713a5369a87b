"""The digest of a backbone: everything that its features depend on, and nothing else."""

import densevit
from densevit.model.backbone_digest import backbone_digest
from tests.small_models import NAIVE, small_predictor
from tests.weights import joined_runs

SCALED = {"name": f"{joined_runs.__name__}:Scaled"}


def digest(seed: int = 0, heads: object = None, **backbone: object) -> str:
    model = densevit.create_model({**SCALED, **backbone}, heads or {"x": NAIVE}, {"x": ["a"]})
    joined_runs.randomise(model.backbone, seed)
    return backbone_digest(model)


def test_heads_defaults_and_the_training_mode_do_not_change_it():
    expected = digest()
    assert digest(heads={"x": {**NAIVE, "width": 8}}) == expected
    assert digest(freeze=True) == digest(in_channels=3) == digest(mean=[0.485, 0.456, 0.406]) == expected
    model = small_predictor(NAIVE)
    assert backbone_digest(model.train()) == backbone_digest(model.eval())


def test_weights_options_normalisation_and_buffers_change_it():
    different = [digest(), digest(1), digest(scale=2.0), digest(mean=[0.5] * 3), digest(std=[0.5] * 3)]
    model = small_predictor(NAIVE)
    different.append(backbone_digest(model))
    model.backbone.norm.running_var[5] += 1e-6
    assert len({*different, backbone_digest(model)}) == 7
