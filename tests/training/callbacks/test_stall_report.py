"""A batch that takes too long: the stacks on stderr, once, and that the training goes on."""

import time

import pytest

import densevit
from densevit import config as configs
from tests.training import poisoned
from tests.training.loop.test_finite_check import POISONED


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize(("split", "stall_after", "reports"), [("train", "1s", 1), ("val", "1s", 2)])
def test_a_slow_batch_is_reported_once_and_training_goes_on(split, stall_after, reports, tmp_path, capfd, monkeypatch):
    """Two images validate, each in a batch; one trains."""
    from pytorch_lightning.callbacks import LambdaCallback

    original, started = poisoned.Greys.__getitem__, []

    def slow(self, index):
        if self.split == split and started:  # the checks of the data set are done
            time.sleep(2.5)
        return original(self, index)

    (tmp_path / "slow.yaml").write_text(POISONED)
    given = ["backbone.where=nowhere", "trainer.max_steps=1", f"trainer.stall_after={stall_after}"]
    config = configs.load(tmp_path / "slow.yaml", given)
    monkeypatch.setattr(poisoned.Greys, "__getitem__", slow)
    densevit.fit(
        config, run_dir=tmp_path / "run", callbacks=[LambdaCallback(on_fit_start=lambda *given: started.append(given))]
    )
    printed = capfd.readouterr().err
    assert printed.count("Timeout (0:00:01)!") == printed.count(" in slow\n") == reports
    assert (tmp_path / "run" / "metrics.json").is_file()
