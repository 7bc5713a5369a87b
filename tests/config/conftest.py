"""A working directory with a config, mine.yaml."""

from pathlib import Path

import pytest

from densevit import config
from densevit.errors import ConfigError
from tests.written_files import write_text

MINE = """\
backbone: {name: swin, variant: nano, freeze: true}
heads:
  detection: {name: detr, num_queries: 40, loss_weight: 2}
data: {name: scenes, image_size: 160, batch_size: 16, train_length: 50}
optim: {lr: 5e-4, schedule: step}
trainer: {max_epochs: 20}
"""


@pytest.fixture(autouse=True)
def folder(cwd: Path) -> Path:
    """A working directory with mine.yaml."""
    Path("mine.yaml").write_text(MINE)
    return cwd


def message(*overrides: str, file: str = "mine.yaml") -> str:
    """The error message of loading."""
    with pytest.raises(ConfigError) as caught:
        config.load(file, overrides)
    return str(caught.value)


def write(name: str, text: str) -> str:
    return str(write_text(Path(name), text))
