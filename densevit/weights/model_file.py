"""Model files: one safetensors file with the weights, classes and config of a model."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from densevit import config as configs
from densevit.atomic_io import replaced_file
from densevit.config import DataSection, LoraSection, ModelSections, yaml_io
from densevit.errors import DensevitError, WeightsError, check_format, listed, one_line
from densevit.interfaces import Backbone, Class, Licences
from densevit.model import DenseModel, InferenceModel, build_from_sections
from densevit.model.lora import merged_state
from densevit.model.meta_device import built_on_meta
from densevit.model.part_sections import name_classes
from densevit.model.training_record import TrainingRecord
from densevit.paths import user_path
from densevit.weights.checkpoint_io import read as read_checkpoint
from densevit.weights.licences import from_header
from densevit.weights.state_dict_io import FORMAT, header, write_safetensors
from densevit.weights.state_dict_loading import load_state

_CLASSES = TypeAdapter(dict[str, tuple[Class, ...]])
_REFERENCE_DATA = TypeAdapter(dict[str, DataSection | None])
_TRAINING_RECORD = TypeAdapter(TrainingRecord)
_THRESHOLDS = TypeAdapter(dict[str, Annotated[float, Field(ge=0, le=1)]])


def save(
    model: DenseModel,
    path: str | Path,
    state: Mapping[str, Tensor] | None = None,
    step: int | None = None,
    further: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes a model file: the tensors, and classes, config and format version in the header. LoRA adapters are merged.

    state: the model's complete state dict, if this process holds only a part of the parameters; None: the model's.
    step: the training step. further: further entries of the header. If the model has no heads, writes a file as
    `save_backbone` does.

    Warns of objects that the file cannot hold, of layers that are not those of the config, and of `with_resize`.
    Raises WeightsError for quantised layers.
    """
    sections = sections_of(model)
    for key, why in configs.unwritten(sections.model_dump()) if step is None else ():  # a run has them at its start
        warnings.warn(f"{path}: {key}: {why}", stacklevel=3)
    if model.replaced_resize is not None:
        warnings.warn(
            f"{path}: with_resize is not written: images of the loaded model are resized as in its training. Fix: use "
            "with_resize after loading.",
            stacklevel=2,
        )
    if not model.heads:
        backbone = sections.backbone
        images = backbone.model_dump(include={"channels", "adapted_stem", "mean", "std", "black_padding"})
        return save_backbone(
            model.backbone,
            {"name": backbone.name, **backbone.options, **{key: value for key, value in images.items() if value}},
            user_path(path),
            model.licences,
            backbone.lora,
            step,
        )
    state = merged_state(model.state_dict() if state is None else state, sections.backbone.lora)
    values = entries(model, sections)
    if not step and (changed := _changed_layers(model, state, values)):
        warnings.warn(
            f"{path}: the model has other layers than its config builds: {listed(changed)}. Fix: to load the file, "
            "change a model in the same way, and densevit.load(FILE, model=model).",
            stacklevel=3,
        )
    write(state, {**values, **_step(step), **further}, user_path(path))


def _changed_layers(model: DenseModel, state: Mapping[str, Tensor], values: Mapping[str, str]) -> list[str]:
    """The names of layers of other classes, and of tensors of other shapes, than those of the model that `load` would
    build from a header; none if it cannot be built. state: the model's, without adapters."""
    try:
        sections, classes, *_ = described(values, "model", trust=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = built_on_meta(lambda: build_from_sections(sections, classes, pretrained=False))
    except Exception:  # a constructor's, of parts that a file cannot hold
        return []
    kinds, shapes = _layers(model), {name: getattr(value, "shape", ()) for name, value in state.items()}
    built_kinds, built_shapes = _layers(built), {name: value.shape for name, value in built.state_dict().items()}
    layers = [name for name in kinds | built_kinds if kinds.get(name) is not built_kinds.get(name)]
    tensors = [name for name in shapes | built_shapes if shapes.get(name) != built_shapes.get(name)]
    return [*(layers if sections.backbone.lora is None else ()), *tensors]


def _layers(module: nn.Module) -> dict[str, type[nn.Module]]:
    return {name: type(layer) for name, layer in module.named_modules()}


def sections_of(model: InferenceModel) -> ModelSections:
    """The sections of a model, with the data of its training."""
    return model.sections.model_copy(update={"data": model.training_data or model.sections.data})


def entries(model: InferenceModel, sections: ModelSections) -> dict[str, str]:
    """The header of a model file, which `described` reads. sections: those of `sections_of`."""
    classes = {name: [asdict(c) for c in head_classes] for name, head_classes in model.classes.items()}
    values: dict[str, Any] = {
        "format": "densevit",
        "format_version": FORMAT,
        "classes": classes,
        "config": configs.dump(sections),
    }
    further = {
        "licences": model.licences,
        "score_thresholds": model.score_thresholds,
        "reference_data": {
            name: section and section.model_dump(include={"name", "image_size", "transforms"})
            for name, section in model.reference_data.items()
        },
        "training_record": {key: x for key, x in asdict(model.training_record).items() if x},
    }
    return header(values | {key: value for key, value in further.items() if value})


def save_backbone(
    backbone: Backbone,
    section: Mapping[str, Any],
    path: Path,
    licences: Mapping[str, Licences] = MappingProxyType({}),
    lora: LoraSection | None = None,
    step: int | None = None,
) -> None:
    """Writes a model file of a backbone, with the key prefix `backbone.`. section: the backbone's config section.
    licences: licences of its weights by source. lora: options of its adapters, which are merged. step: the training
    step.
    """
    values: dict[str, Any] = {
        "format": "densevit",
        "format_version": FORMAT,
        "part": "backbone",
        "config": yaml_io.write({"backbone": dict(section)}),
        **_step(step),
    }
    state = merged_state(backbone.state_dict(), lora)
    further = {"licences": dict(licences)} if licences else {}
    write({f"backbone.{key}": value for key, value in state.items()}, values | further, path)


def write(state: Mapping[str, Tensor], values: Mapping[str, Any], path: Path) -> None:
    """Writes a safetensors file with these entries of the header."""
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: {key} is a {type(value).__name__} and no tensor, as in quantised layers. Fix: save the model "
                "before quantisation; densevit.export(model, 'model.onnx', int8=images) writes an int8 file."
            )
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    memory = Counter(value.untyped_storage().data_ptr() for value in tensors.values())
    copied = {  # tied weights, which the format refuses
        key: value.clone() for key, value in tensors.items() if memory[value.untyped_storage().data_ptr()] > 1
    }
    with replaced_file(path) as temporary:
        write_safetensors(tensors | copied, temporary, header(values))


def _step(step: int | None) -> dict[str, str]:
    return {} if step is None else {"step": str(step)}


def load(run: str | Path, trust: bool = False, model: DenseModel | None = None) -> DenseModel:
    """Loads the model of a run folder or a model file, in evaluation mode on the CPU.

    model: a model that gets the weights; the file's plugins are not imported. trust: whether the file, or config.yaml
    of the folder, may name a `module:Class`, whose code then runs. Raises WeightsError for a missing or incomplete
    model, and ConfigError for a class without trust.
    """
    state, entries, path = read(run)
    return built(state, described(entries, path, trust or model is not None, folder_of(run)), path, model)


def built(
    state: Mapping[str, Tensor], description: "Description", source: str, model: DenseModel | None = None
) -> DenseModel:
    """Builds the model of a header and loads its tensors, in evaluation mode. source: the file, for messages. model:
    a model to load into; None: it is built."""
    try:
        model = model or build_from_sections(description.sections, description.classes, pretrained=False)
    except DensevitError as error:
        raise WeightsError(f"{source}: the model in its header cannot be built: {error}") from error
    load_state(model, merged_state(state, description.sections.backbone.lora), source)
    _, _, model.score_thresholds, model.licences, model.reference_data, model.training_record = description
    model.training_data = description.sections.data or model.training_data
    name_classes(model, description.classes)
    return model.eval()


class Description(NamedTuple):
    """The header of a model file. classes, score_thresholds, reference_data: one entry per head."""

    sections: ModelSections
    classes: Mapping[str, Sequence[Class]]
    score_thresholds: dict[str, float]
    licences: dict[str, Licences]
    reference_data: dict[str, DataSection | None]
    training_record: TrainingRecord


def described(entries: Mapping[str, str], source: str, trust: bool = False, run: Path | None = None) -> Description:
    """Reads a header. source: the file, for messages. trust: whether it may name a `module:Class`. run: the parameter
    of `config.values_of_file`. Raises WeightsError for an invalid header."""
    check_format(entries.get("format_version"), FORMAT, source, WeightsError)
    if entries.get("part") == "backbone":
        raise WeightsError(f"{source}: contains only a backbone. Train with `backbone.weights={source}`.")
    if entries.get("part") == "heads":
        raise WeightsError(
            f"{source}: contains only heads. Fix: densevit join MODEL {source}, where MODEL has their backbone; or "
            "densevit.load(..., backbone=SOURCE)."
        )
    try:
        values = configs.values_of_file(entries["config"], source, trust, run)
        classes = _CLASSES.validate_json(entries["classes"])
        thresholds, weight_licences = score_thresholds(entries), from_header(entries)
        reference_data = _REFERENCE_DATA.validate_json(entries.get("reference_data", "{}"))
        record = _TRAINING_RECORD.validate_json(entries.get("training_record", "{}"))
    except (LookupError, TypeError, AttributeError, ValidationError, RecursionError) as error:
        raise WeightsError(
            f"{source}: its header is corrupt ({one_line(error)}). Copy it again, or train again."
        ) from error
    for section in filter(None, reference_data.values()):  # checks that they name no class without trust
        configs.values_of_file(yaml_io.write({"data": section.model_dump()}), source, trust, run)
    sections = configs.from_file(values, source) if "trainer" in values else configs.model_sections(values, source)
    thresholds = {name: score for name, score in thresholds.items() if name in sections.heads}
    return Description(sections, classes, thresholds, weight_licences, reference_data, record)


def score_thresholds(entries: Mapping[str, str]) -> dict[str, float]:
    """The score thresholds in a header, by head. Raises ValueError for invalid values."""
    return _THRESHOLDS.validate_json(entries.get("score_thresholds", "{}"))


def folder_of(run: str | Path) -> Path | None:
    """The run's folder; None if `run` is a file."""
    path = user_path(run)
    return path if path.is_dir() else None


def read(run: str | Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """The tensors, the header and the name of a run's model file."""
    file = str(run) if folder_of(run) is None else f"{run}/model.safetensors"
    checkpoint = read_checkpoint(run)
    if checkpoint.header.get("format") != "densevit":
        raise WeightsError(
            f"{file}: a checkpoint of {len(checkpoint.tensors)} tensors without a densevit header. "
            f"Make a run of it with `densevit convert {run} OUT`, or train with `weights={run}`."
        )
    return checkpoint.tensors, checkpoint.header, file
