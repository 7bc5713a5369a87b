"""Invalid values of config keys and plugin options: the message names the key, what was found and what is expected."""

import pytest

from tests.robustness.conftest import Accept, Refused

HUGE = "9999999999999999999999"  # 22 digits, beyond 64 bits
SETR = ("heads.boxes=null", "heads.map={name: setr}")
DPT = ("heads.boxes=null", "heads.map={name: dpt_segmentation}")
DEPTH = ("heads.boxes=null", "heads.map={name: dpt}")
FPN = ("heads.boxes.neck={name: fpn}",)
VIT = ("backbone={name: vit, variant: nano, image_size: 64}",)
MVIT = ("backbone={name: mvit, variant: nano, image_size: 64}",)
CROP = ("data.transforms=crop",)

# Invalid override, and text of the message besides its key.
SCHEMA = {
    f"seed={HUGE}": "less than 9223372036854776000, not 9999999999999999999999",
    "seed=99999999999": "less than 4294967296, not 99999999999",
    "backbone.mean=[0.5, 0.5, .inf]": "mean.2 should be a finite number, not inf",
    "backbone.mean=[0.5, 2]": "1",
    "backbone.mean=[1, 2, 3]": "less than or equal to 1, not 2",
    "backbone.std=[0, 1, 1]": "none may be 0",
    "backbone.freeze=-1": "greater than or equal to 0",
    "heads.boxes.weight=-1": "greater than or equal to 0",
    "heads.boxes.weight=1e300": "less than or equal to 1000000",
    "data.batch_size=0": "greater than or equal to 1, not 0",
    "data.num_workers=-1": "greater than or equal to 0 or 'auto', not -1",
    "data.image_size=0": "greater than or equal to 1",
    "data.image_size=[64]": "one side or [height, width]",
    "optim.lr=.nan": "a finite number, not nan",
    "optim.lr=0": "greater than 0",
    "optim.layer_decay=1.5": "less than or equal to 1",
    "optim.warmup=1": "less than 1",
    "optim.drop_at=0": "greater than 0",
    "optim.lr_factors={'*': .nan}": "lr_factors.* should be a finite number, not nan",
    "optim.schedule=cosin": "'step' or a module:Name, not 'cosin'. Did you mean 'cosine'?",
    "optim.schedule={peak: 1}": "optim.schedule.name is missing",
    "trainer.callbacks=EarlyStopping": "should be a valid tuple",
    "trainer.callbacks=[3]": "callbacks.0 should be a section of keys, not 3",
    "trainer.callbacks=[EarlyStopping]": "Write module:Class, as in pytorch_lightning.callbacks:EarlyStopping",
    "trainer.callbacks=[{name: 'pytorch_lightning:Callback', x: 1}]": "It has no options",
    "trainer.max_steps=0": "greater than or equal to 1",
    "trainer.devices=0": "greater than or equal to 1 or a valid string",
    "trainer.clip_grad_norm=0": "greater than 0",
    "trainer.checkpoint_every=0s": "a valid integer or a time such as 30s, 5min or 1h, not '0s'",
    "trainer.ema=1": "less than 1",
    "trainer.ema=true": "trainer.ema should be a valid number, not true.",
    "inference.scales=[]": "is empty: set at least one value",
}  # fmt: skip

# Options that the plugin's constructor checks; `train` builds the model before it creates a folder.
OPTIONS: dict[tuple[str, ...], dict[str, str]] = {
    (): {
        "backbone.drop_path=.nan": "a finite number, not nan",
        "backbone.window_size=999999999": "1 to 1024",
        "heads.boxes.num_queries=0": "num_queries is 0; it must be at least 1",
        "heads.boxes.num_queries=999999999999": "num_queries is 999999999999; it must be at most 100000",
        "heads.boxes.transformer.num_heads=3": "it must be a multiple of num_heads, 3",
        "heads.boxes.transformer.dropout=2": "dropout is 2; expected a probability from 0 to 1",
        "heads.boxes.no_object_weight=-1": "no_object_weight is -1; a weight must be at least 0",
        "heads.boxes.costs.label=-1": "heads.boxes.costs is invalid: label is -1; a weight must be at least 0",
        "heads.boxes.loss_weights.giou=-2.5": "giou is -2.5; a weight must be at least 0",
        "heads.boxes.evaluation.max_detections=0": "max_detections is 0",
        "data.train_length=9999999999": "train_length is 9999999999; expected 1 to 100,000,000 images",
        "optim.betas=[0.9, 1]": "less than 1",
        "optim.eps=-1": "Invalid epsilon value: -1.0",
        "optim.name=adamm": "There is no optimiser 'adamm'. Did you mean 'adam",
        "optim.fused=true": "fused is not an option of 'adamw'",
    },
    CROP: {
        "data.transforms.short_side=0": "greater than or equal to 1",
        "data.transforms.rotation=181": "less than or equal to 180",
        "data.transforms.scales=[2, 1]": "should be the smallest and the largest",
    },
    FPN: {
        "heads.boxes.neck.width=9999999999": "expected a number of channels from 1 to 65536",
    },
    SETR: {
        "heads.map.label_smoothing=1": "below 1",
        "heads.map.ohem_min_kept=-1": "ohem_min_kept is -1",
        "heads.map.feature=0": "feature",
    },
    DEPTH: {
        "heads.map.max_depth=0": "expected 0 < min < max",
        "heads.map.loss_weights.gradient=-1": "gradient is -1",
    },
    DPT: {"heads.map.dice=.inf": "a finite number, not inf"},
    MVIT: {"backbone.image_size=9999999999": "from 1 to 65536"},
    VIT: {
        "backbone.image_size=9999999999": "image_size is 9999999999; it is a number of pixels from 1 to 65536",
        "backbone.registers=-1": "registers",
        "backbone.windows.size=0": "size is 0",
    },
}  # fmt: skip

# Unusual values; those of a tuple are given together.
VALID = (
    ("seed=4294967295", "optim.lr=1e-300", "heads.boxes.weight=0", "trainer.max_steps=9223372036854775807",
     "trainer.evaluate_every=1e-300", "trainer.checkpoint_every=99999999999h", "trainer.clip_grad_norm=1e30",
     "heads.boxes.transformer.dropout=0", "heads.boxes.no_object_weight=0", "backbone.mean=[0, 0, 0]",
     "optim.weight_decay=0", "optim.betas=[0, 0]", "data.train_length=1000000", "trainer.log_every=9999999999"),
    ("seed=1e3", "optim.lr='1e-4'", "heads.boxes.weight=learned", "trainer.max_steps=null",
     "trainer.max_images=10000000000", "data.image_size=[64, 96]"),
)  # fmt: skip


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


def test_unusual_values_are_accepted(tiny: str, accepted: Accept) -> None:
    for overrides in VALID:
        accepted("train", tiny, *overrides)
