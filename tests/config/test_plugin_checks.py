"""densevit/config/plugin_checks.py: wrong options of all plugins, before anything is built."""

import pytest

from densevit import config
from densevit.errors import ConfigError
from tests.training.run.test_callbacks_and_loggers import STOPPING

SCHEDULES = "tests.training.loop.test_lr_schedule"


def test_all_wrong_options_of_all_plugins_are_listed():
    wrong = ["backbone.varient=x", "data.rot=x", "data.train_lenght=3", "heads.detection.name=dettr", "optim.name=x:Y"]
    with pytest.raises(ConfigError) as caught:
        config.check_plugins(config.load("mine.yaml", wrong))
    keys = [line.removeprefix("overrides: ").split()[0] for line in str(caught.value).splitlines()]
    assert keys == ["backbone.varient", "heads.detection.name:", "data.rot", "data.train_lenght", "optim.name:"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.callbacks=[no_such:Thing]"], r"callbacks\.0\.name: .* 'no_such'"),
        (["trainer.callbacks=[torch.optim:AdamW]"], r"AdamW, .* not a subclass of pytorch_lightning\.Callback"),
        ([f"trainer.callbacks=[{STOPPING}, patiense: 3}}]"], r"callbacks\.0\.patiense .* 'patience'\?"),
        (["trainer.callbacks=[pytorch_lightning.callbacks:EarlyStopping]"], r"callbacks\.0\.monitor is missing"),
        (["trainer.loggers=[tensorbord]"], r"loggers\.0\.name: .*'tensorbord'\. Write csv, tensorboard, wandb"),
        (["trainer.loggers=[{name: wandb, projct: x}]"], r"loggers\.0\.projct .* 'project'\?"),
        (["optim.name=torch.optim:NAdam", "optim.momentum_decai=1"], r"optim\.momentum_decai .*'momentum_decay'\?"),
        ([f"optim.name={SCHEDULES}:Staircase"], r"optim\.name: .*Staircase, which is not a torch\.optim\.Opt"),
        (["optim.cautious=true"], r"optim\.cautious .* 'adamw'\. Options: betas, eps, amsgrad\."),
        ([f"optim.schedule={SCHEDULES}:triangel"], r"'triangel'\. Did you mean 'triangle'\?"),
        ([f"optim.schedule={{name: {SCHEDULES}:triangle, peek: 1}}"], r"optim\.schedule\.peek .* 'peak'\?"),
    ],
)
def test_a_wrong_entry_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^(overrides|mine\.yaml): .*{message}") as raised:
        config.check_plugins(config.load("mine.yaml", overrides))
    assert "\n" not in str(raised.value)
