"""An optimiser of a third-party distribution, installed as by pip."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError
from tests.training.run.test_run import TINY
from tests.training.runs import assert_same, resume, weights

pytestmark = pytest.mark.integration

LION = ["optim={name: lion, lr: 1e-3, weight_decay: 0.1, cautious: true}"]


@pytest.fixture(autouse=True)
def installed(third_party: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(third_party("lion"))
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)


def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert densevit.list_optimizers() == ["adam", "adamw", "lion", "muon", "sgd"]
    assert main(["plugins", "optimizers"]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["lion"].startswith("optimizers")
    assert lines["lion"].endswith("Sign of a momentum, with decoupled weight decay (Chen et al. 2023, algorithm 2).")
    assert lines["adamw"].endswith("Adam with decoupled weight decay (Loshchilov & Hutter 2019).")


def test_a_run_resumes_to_the_last_bit_and_takes_changed_options() -> None:
    whole = densevit.fit("tiny", [*LION, "trainer.max_epochs=null", "trainer.max_steps=4"], run_dir="whole")
    parts = densevit.fit("tiny", [*LION, "trainer.max_epochs=null", "trainer.max_steps=2"], run_dir="parts")
    resume(parts.path, ["trainer.max_steps=4"])
    assert_same(weights(whole.path), weights(parts.path))
    resume(parts.path, ["trainer.max_steps=5", "optim.betas=[0.5, 0.6]"])
    groups = torch.load("parts/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {(tuple(group["betas"]), group["cautious"]) for group in groups} == {((0.5, 0.6), True)}


def test_a_misspelt_option_is_named() -> None:
    message = r"^command line: optim\.cautius is not an option of 'lion'\. Did you mean 'cautious'\? Options: betas, "
    with pytest.raises(ConfigError, match=message):
        configs.check_plugins(configs.load("tiny", [*LION, "optim.cautius=true"]))
