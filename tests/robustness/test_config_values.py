"""Invalid values of config keys and plugin options: the message names the key, what was found and what is expected."""

import pytest

from tests.robustness.conftest import Refused

# Invalid override, and text of the message besides its key.
SCHEMA = {
    "seed=99999999999": "less than 4294967296, not 99999999999",
    "backbone.mean=[1, 2, 3]": "less than or equal to 1, not 2",
    "backbone.std=[0, 1, 1]": "none may be 0",
    "data.batch_size=0": "greater than or equal to 1, not 0",
    "data.image_size=[64]": "one side or [height, width]",
    "optim.lr=.nan": "a finite number, not nan",
    "optim.warmup=1": "less than 1",
    "optim.schedule=cosin": "'step' or a module:Name, not 'cosin'. Did you mean 'cosine'?",
    "trainer.callbacks=[EarlyStopping]": "Write module:Class, as in pytorch_lightning.callbacks:EarlyStopping",
    "trainer.checkpoint_every=0s": "a valid integer or a time such as 30s, 5min or 1h, not '0s'",
    "trainer.ema=1": "less than 1",
    "inference.scales=[]": "is empty: set at least one value",
}  # fmt: skip

# Options that the plugin's constructor checks; `train` builds the model before it creates a folder.
OPTIONS: dict[tuple[str, ...], dict[str, str]] = {
    (): {
        "backbone.drop_path=.nan": "a finite number, not nan",
        "heads.boxes.num_queries=0": "num_queries is 0; it must be at least 1",
        "heads.boxes.transformer.num_heads=3": "it must be a multiple of num_heads, 3",
        "heads.boxes.transformer.dropout=2": "dropout is 2; expected a probability from 0 to 1",
        "heads.boxes.costs.label=-1": "heads.boxes.costs is invalid: label is -1; a weight must be at least 0",
        "heads.boxes.evaluation.max_detections=0": "max_detections is 0",
        "optim.eps=-1": "Invalid epsilon value: -1.0",
        "optim.name=adamm": "There is no optimiser 'adamm'. Did you mean 'adam",
    },
    ("data.transforms=crop",): {
        "data.transforms.scales=[2, 1]": "should be the smallest and the largest",
    },
    ("heads.boxes=null", "heads.map={name: setr}"): {
        "heads.map.label_smoothing=1": "below 1",
    },
    ("heads.boxes=null", "heads.map={name: dpt}"): {
        "heads.map.max_depth=0": "expected 0 < min < max",
    },
    ("backbone={name: vit, variant: nano, image_size: 64}",): {
        "backbone.image_size=9999999999": "image_size is 9999999999; it must be from 1 to 65536",
    },
}  # fmt: skip


@pytest.mark.parametrize("override", SCHEMA)
def test_invalid_schema_value_is_refused(tiny: str, refused: Refused, override: str) -> None:
    key = override.partition("=")[0]
    refused("config", tiny, override, says=(f"command line: {key}", SCHEMA[override]))


@pytest.mark.parametrize(
    ("before", "override"),
    [pytest.param(before, override, id=override) for before, table in OPTIONS.items() for override in table],
)
def test_invalid_option_value_is_refused(tiny: str, refused: Refused, before: tuple[str, ...], override: str) -> None:
    option = override.partition("=")[0].split(".")
    section = "max_detections" if "evaluation" in option else ".".join(option[:-1])
    refused("train", tiny, *before, override, says=(section, OPTIONS[before][override]))
