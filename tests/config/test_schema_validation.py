"""densevit/config/schema_validation.py: errors of keys and values, each with its file."""

from densevit import config
from tests.config.conftest import MINE, message, write


def test_each_error_has_a_line_and_names_its_file():
    write("base.yaml", MINE.replace("lr: 5e-4", "lr: fast"))
    write("child.yaml", "base: base.yaml\nseed: -1\n")
    assert message("trainer.emma=0.9", file="child.yaml").splitlines() == [
        "child.yaml: seed should be greater than or equal to 0, not -1.",
        "base.yaml: optim.lr should be a valid number, not 'fast'.",
        "overrides: trainer.emma is not a key of trainer. Did you mean 'ema'? "
        f"Keys: {', '.join(sorted(config.TrainerSection.model_fields))}.",
    ]
