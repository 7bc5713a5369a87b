"""A batch that takes too long: the stacks on stderr, once, and that the training goes on."""

import time

import pytest
import yaml

import densevit
from densevit import config as configs
from densevit.interfaces import Sample
from tests.training.loop.test_finite_check import POISONED
from tests.training.poisoned import Greys

SLOW: set[str] = set()  # splits


def wait_in_test() -> None:
    time.sleep(2.5)


class Slow(Greys):
    def __getitem__(self, index: int) -> Sample:
        if self.split in SLOW:
            wait_in_test()
        return super().__getitem__(index)


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize(("split", "reports"), [("train", 1), ("val", 2)])
def test_a_slow_batch_is_reported_once_and_training_goes_on(split, reports, tmp_path, capfd):
    """Two images validate, each in a batch; one trains."""
    from pytorch_lightning.callbacks import LambdaCallback

    given = ["backbone.where=nowhere", "trainer.max_steps=1", "trainer.stall_after=1s"]
    config = configs.from_mapping(yaml.safe_load(POISONED), overrides=[*given, f"data.name={__name__}:Slow"])
    start = LambdaCallback(on_fit_start=lambda *_: SLOW.add(split))  # the checks of the data set are done
    densevit.fit(config, run_dir=tmp_path / "run", callbacks=[start])
    SLOW.clear()
    printed = capfd.readouterr().err
    assert printed.count("Timeout (0:00:01)!") == printed.count(" in wait_in_test\n") == reports
    assert (tmp_path / "run" / "metrics.json").is_file()
