"""densevit/training/loop/sharding.py: settings that are refused; trainings are in test_step_matrix.py."""

import re
from pathlib import Path

import pytest
import yaml

from densevit import config as configs
from densevit.errors import ConfigError
from tests.training.process_groups import linux
from tests.training.runs import SEGMENTATION, train

pytestmark = linux
SHARDED = ["trainer.devices=2", "trainer.strategy=fsdp2"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*SHARDED, "optim.name=muon"], "fsdp2: optim.name=muon updates complete matrices"),
        ([*SHARDED, "trainer.ema=0.9"], "fsdp2: trainer.ema=0.9 is not supported"),
        ([*SHARDED, "trainer.compile=true"], "fsdp2: trainer.compile=True is not supported"),
        ([*SHARDED, "trainer.precision=16-mixed"], "fsdp2: trainer.precision=16-mixed is not supported"),
        (["trainer.devices=1", "trainer.sync_batchnorm=true"], "trainer.sync_batchnorm=true: torch synchronises"),
    ],
)
def test_unsupported_settings_are_an_error_before_training(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        train(configs.from_mapping(yaml.safe_load(SEGMENTATION), overrides=overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_checkpoint_before_lies_beside_the_new_one() -> None:
    from densevit.training.loop.sharding import previous_of

    assert previous_of(Path("run/last.ckpt")) == Path("run/last.previous")
