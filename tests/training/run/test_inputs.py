"""densevit/training/run/inputs.py: what a training is made of."""

import pytest

import densevit
from densevit.errors import ConfigError


def test_wrong_arguments_are_one_line_each() -> None:
    for arguments, message in (
        ({}, "fit needs a config or the folder of a run to resume, and not both"),
        ({"config": "seg.yaml", "resume": "run"}, "and not both"),
        ({"config": {"sed": 1}}, r"fit: sed .*'seed'"),
        ({"config": {}, "overrides": ["optim.lr=fast"]}, r"overrides: optim\.lr .* number"),
    ):
        with pytest.raises(ConfigError, match=message):
            densevit.fit(**arguments)
