"""The model of a run: the config's or a given one, with pretrained weights and adapters."""

from collections.abc import Sequence
from contextlib import suppress

import pytorch_lightning as lightning
import torch

from densevit import config as configs
from densevit.config import Config, yaml_io
from densevit.data.channel_statistics import with_channels
from densevit.errors import DensevitError
from densevit.model import DenseModel, build_from_sections, classes_by_head
from densevit.model.head_inference import inference_of
from densevit.model.lora import add_adapters
from densevit.model.part_sections import name_classes
from densevit.training.loop.data_checks import check_channels
from densevit.training.run.config_checks import check_model
from densevit.training.run.inputs import TrainingInputs
from densevit.weights.pretrained_models import build_pretrained
from densevit.weights.state_dict_loading import StateDictMatch


def build_model(inputs: TrainingInputs) -> tuple[DenseModel, Config, Sequence[StateDictMatch], bool, bool]:
    """Builds the model with pretrained weights, unless a checkpoint will replace all weights, and its adapters.

    Returns it; its final config, which has the image channels and the options of its weights; the reports of its
    weights; whether it, or a part of it, was given as an object; and `Plan.has_weights`.
    """
    data, checkpoint, loaded = inputs.data, inputs.checkpoint, list[StateDictMatch]()
    config = with_channels(inputs.config, data.train)
    classes = classes_by_head(config, data.train)
    if inputs.model is not None:
        model = inputs.model.train()
        name_classes(model, classes)
        model.sections, model.training_data, model.inference = config, config.data, inference_of(model, config)
    elif checkpoint is None:
        model, loaded = build_pretrained(config, classes, inputs.pretrained)
        inputs.pretrained.clear()  # they would stay open during training
    else:
        model = build_from_sections(config, classes, pretrained=False)
        model.licences = checkpoint.licences
    is_given = inputs.model is not None or any(
        getattr(part.model_dump()["name"], "instance", None) is not None
        for part in (config.backbone, *config.heads.values(), *(head.neck or head for head in config.heads.values()))
    )
    has_weights = is_given and checkpoint is None and not _is_rebuilt(model, config)
    for dataset in (data.train, data.val):
        check_channels(dataset, model)
    check_model(config, data, model)
    add_adapters(model)
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.trainer.compile:
        model.compile()
    assert isinstance(model.sections, Config)
    return model, model.sections, loaded, is_given, has_weights


def _is_rebuilt(model: DenseModel, config: Config) -> bool:
    """Whether building the model from config.yaml gives its weights. Leaves the random state as after building."""
    lightning.seed_everything(config.seed, verbose=False)
    with suppress(DensevitError):  # of objects that config.yaml cannot hold, and missing weights
        return (
            model.fingerprint()
            == build_pretrained(
                configs.from_file(yaml_io.parse(configs.dump(config), "config"), "config"), model.classes
            )[0].fingerprint()
        )
    return False
