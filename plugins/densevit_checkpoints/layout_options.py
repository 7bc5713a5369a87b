"""Options with which a model computes as the project that published its pretrained weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import chain
from typing import Any, NamedTuple

from densevit import registry
from densevit.config import BackboneSection, HeadSection, ModelSections
from densevit.config.values import OpenSection, as_tuple, with_value
from densevit.errors import WeightsError
from densevit.layouts.state_dicts import part
from densevit.model import DenseModel
from densevit.registry.plugin_options import nested_plugins, parameters_of
from densevit.weights.head_adaptation import replaced_tensors
from densevit_checkpoints.foreign_checkpoint import ForeignCheckpoint
from densevit_checkpoints.key_mapping import option_of

Path = tuple[str, ...]  # of an option in a section: ("transformer", "num_heads")

_RESERVED = BackboneSection.model_fields.keys() | HeadSection.model_fields.keys()
_ABSENT = object()  # in place of a value
_ASSUMED = "these weights are assumed to have"


class PartWeights(NamedTuple):
    """The weights of a part of a model.

    key: the key of the part's section: "backbone", "heads.NAME" or "heads.NAME.neck". layout_key: the key of that
    section in the layout's description. complete: whether a head loads weights of the same checkpoint as the backbone.
    adapted: whether the head replaces tensors if the checkpoint was trained with different options
    (`SupportsReplacedTensors`), so that different options cause no warning. resizes: whether tensors of the backbone,
    such as a position table, are resized.
    """

    key: str
    layout_key: str
    checkpoint: ForeignCheckpoint
    complete: bool = False
    adapted: bool = False
    resizes: bool = False

    @property
    def group(self) -> str:
        """The plugin group of the part: `backbones`, `heads` or `necks`."""
        return {"backbone": "backbones", "neck": "necks"}.get(self.key.rpartition(".")[2], "heads")


def layout_options(weights: PartWeights, section: OpenSection) -> tuple[dict[str, Any], list[str]]:
    """The options of `section`, completed with options of the authors' code that it does not set, and messages: one for
    each added option, and one for each option that `section` sets to a value different from the authors'.

    The compared options are the layout's project defaults and the options that tensors do not determine; for a head,
    and for a backbone with resized tensors, all options that the layout describes.
    """
    name: str = getattr(section, "name")  # noqa: B009  # of a plugin's section
    plugin, options, lines = registry.load(weights.group, name), section.options, list[str]()
    for path, value, listed in _implied(weights, name):
        try:
            default = _default_of(plugin, path)
        except LookupError:  # not an option of this plugin
            continue
        set_value = option_of(options, ".".join(path), _ABSENT)
        here, there = (default if x is _ABSENT else x for x in (set_value, value))
        if as_tuple(here) == as_tuple(there) or (set_value is not _ABSENT and not listed):
            continue
        key, why = ".".join((weights.key, *path)), _why(weights, path)
        if set_value is _ABSENT:
            options = _with(options, path, there)
            lines.append(f"{key} is {_shown(there)} in place of {_shown(here)}: {why} it.")
        else:
            warning = "" if why == _ASSUMED or weights.adapted else "Warning: "
            lines.append(f"{warning}{key} is {_shown(here)}; {why} {_shown(there)}.")
    return options, lines


def completed(
    checkpoint: ForeignCheckpoint, sections: ModelSections, model: DenseModel
) -> tuple[ModelSections, list[tuple[str, str]]]:
    """The sections with the options of each part whose weights are the checkpoint's, and pairs of a part's key and a
    message. model: built from the sections on the meta device."""
    notes: list[tuple[str, str]] = []
    for weights in _parts(checkpoint, sections, model):
        path = weights.key.split(".")
        section: Any = reduce(
            lambda above, key: above[key] if isinstance(above, Mapping) else getattr(above, key), path, sections
        )
        if section is not None:
            options, lines = layout_options(weights, section)
            sections = with_value(sections, path, section.model_copy(update=options))
            notes += [(weights.key, line) for line in lines]
    return sections, notes


def _parts(checkpoint: ForeignCheckpoint, sections: ModelSections, model: DenseModel) -> Iterator[PartWeights]:
    """Yields the backbone, each head and each neck whose weights are the checkpoint's: those named by `weights`, or
    else those that the part's own section names."""
    source, model_weights = checkpoint.source, sections.weights
    if source == (model_weights or sections.backbone.source):
        complete = source in (model_weights, *(head.weights for head in sections.heads.values()))
        shapes = {name: tensor.shape for name, tensor in model.backbone.state_dict().items()}
        saved = part(checkpoint.tensors, "backbone.")
        resizes = any(tensor.shape != shapes.get(name, tensor.shape) for name, tensor in saved.items())
        yield PartWeights("backbone", "backbone", checkpoint, complete, resizes=resizes)
    for name, section in sections.heads.items():
        if source == (model_weights or section.weights):
            task = f"heads.{checkpoint.head_names[name]}"
            adapted = bool(replaced_tensors(model, name, checkpoint)[0])
            yield PartWeights(f"heads.{name}", task, checkpoint, adapted=adapted)
            yield PartWeights(f"heads.{name}.neck", f"{task}.neck", checkpoint)


def _implied(weights: PartWeights, plugin: str) -> Iterator[tuple[Path, Any, bool]]:
    """Yields the path and value of each option of the authors' model, and whether the layout lists it as a project
    default or as an option that tensors do not determine. Value _ABSENT: the plugin's default. plugin: the part's name.
    """
    layout_options = weights.checkpoint.layout.options
    try:
        section = option_of(weights.checkpoint.describe(), weights.layout_key)
    except WeightsError:  # an incomplete checkpoint, which `allow_mismatch` permits
        return
    if not isinstance(section, Mapping):
        return
    described = {path: value for path, value in _leaves(section) if path[0] not in _RESERVED}
    prefix, is_backbone = f"{weights.layout_key}.", weights.group == "backbones"
    names = [f"backbone.{name}" if "." not in name else name for name in layout_options.project_defaults]
    listed = {name.removeprefix(prefix) for name in (*names, *layout_options.unsaved) if name.startswith(prefix)}
    if is_backbone and weights.complete:
        listed |= {name for name in layout_options.runtime if (name,) in described}
    for name in sorted(listed):
        path = tuple(name.split("."))
        if path in described or (name in layout_options.project_defaults and name not in layout_options.runtime):
            yield path, described.get(path, _ABSENT), True
    if section.get("name") != plugin or (is_backbone and not weights.resizes):
        return
    for path, value in described.items():
        if ".".join(path) not in listed and not (is_backbone and path[0] in layout_options.runtime):
            yield path, value, False


def _why(weights: PartWeights, path: Path) -> str:
    layout, name = weights.checkpoint.layout, ".".join((weights.layout_key, *path))
    if name in weights.checkpoint.options:
        return "these weights were trained with"
    return _ASSUMED if name in layout.options.unsaved else f"{layout.name} computes with"


def _leaves(section: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The path and value of each option, recursively."""
    return chain.from_iterable(
        _leaves(value, (*path, key)) if isinstance(value, Mapping) else [((*path, key), value)]
        for key, value in section.items()
    )


def _with(options: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of nested options in which the option at `path` has this value."""
    key, *inner = path
    return {**options, key: _with(options.get(key) or {}, tuple(inner), value) if inner else value}


def _shown(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _default_of(plugin: Callable[..., Any], path: Sequence[str]) -> Any:
    """The default of an option, or of an option in a section: ("transformer", "num_heads"). Raises LookupError if the
    constructor has no such option."""
    parameter, inner = parameters_of(plugin, (), "")[0][path[0]], path[1:]
    nested = nested_plugins(parameter.annotation)
    if inner and nested:
        return _default_of(nested[0], inner)
    value = parameter.default
    for name in inner:
        if not hasattr(value, name):
            raise LookupError(name)
        value = getattr(value, name)
    return value
