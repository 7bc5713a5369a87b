"""Sets the options of another project's checkpoint in the model that its weights are loaded into."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from densevit import registry
from densevit.config import BackboneSection, HeadSection, ModelSections
from densevit.config.values import with_value
from densevit.errors import DensevitError, WeightsError, one_line
from densevit.model import DenseModel, rebuild
from densevit.registry.options import GIVEN, default_of
from densevit.weights.foreign_checkpoint import TranslatedCheckpoint
from densevit.weights.key_mapping import option_of
from densevit.weights.state import part

Path = tuple[str, ...]  # of an option in a section: ("transformer", "num_heads")

_RESERVED = BackboneSection.model_fields.keys() | HeadSection.model_fields.keys()
_ABSENT = object()  # in place of a value


class PartWeights(NamedTuple):
    """The weights of a part of a model.

    key: the key of the part's section: "backbone", "heads.NAME" or "heads.NAME.neck". theirs: the key of that section
    in what the layout describes. complete: whether a head has weights of the same checkpoint as the backbone. adapted:
    whether a head replaces tensors of weights with other options (`SupportsReplacedTensors`): they are no mistake then.
    """

    key: str
    theirs: str
    checkpoint: TranslatedCheckpoint
    complete: bool = False
    adapted: bool = False

    @property
    def group(self) -> str:
        """The group of the part's plugin."""
        return {"backbone": "backbones", "neck": "necks"}.get(self.key.rpartition(".")[2], "heads")


def set_layout_options(
    model: DenseModel, sections: ModelSections, weights: Sequence[PartWeights]
) -> dict[str, list[str]]:
    """Sets the options with which the authors' code computes, where the user has set none, in a model and its sections.

    These are the project defaults of the layout and the options that tensors do not determine; of a head, all that the
    layout describes; of a backbone whose tensors would be resized, such as a position table, also all that it
    describes.
    A changed model is built again, with random weights; it remains the same object.
    Returns notes by the key of the part: each option that is set, and each of the user's that differs.
    Raises WeightsError if the model cannot be built with the options.
    """
    notes: dict[str, list[str]] = {}
    changed: dict[str, dict[str, Any]] = {}
    for one in weights:
        section = _section(model.sections or sections, one.key)
        if one.checkpoint.layout is None or section is None:
            continue
        options, plugin = dict(section.options), registry.load(one.group, section.name)
        for path, value, listed in _implied(one, section.name, model):
            try:
                default = default_of(plugin, GIVEN[one.group], path)
            except LookupError:  # this plugin has no such option
                continue
            given = option_of(options, ".".join(path), _ABSENT)
            here, there = (default if x is _ABSENT else x for x in (given, value))
            if _equal(here, there) or (given is not _ABSENT and not listed):
                continue
            name, why = ".".join((one.key, *path)), _why(one, path)
            if given is not _ABSENT or model.sections is None:
                warning = "" if why == _ASSUMED or one.adapted else "Warning: "
                note = f"{warning}{name} is {_shown(here)}; {why} {_shown(there)}."
            else:
                options = _with(options, path, there)
                changed.setdefault(one.key, {})[path[0]] = options[path[0]]
                note = f"{name} is {_shown(there)} in place of {_shown(here)}: {why} it."
            notes.setdefault(one.key, []).append(note)
    if changed:
        _build_again(model, changed, weights)
    return notes


def _implied(weights: PartWeights, plugin: str, model: DenseModel) -> Iterator[tuple[Path, Any, bool]]:
    """Yields the options of the authors' model, with their values, and whether the layout has them among its project
    defaults or as options that tensors do not determine. plugin: the name of our part's. _ABSENT: its default.
    """
    layout = weights.checkpoint.layout
    assert layout is not None
    try:
        section = option_of(weights.checkpoint.describe(), weights.theirs)
    except WeightsError:  # incomplete, which `weights_allow` permits
        return
    if not isinstance(section, Mapping):
        return
    described = dict(_leaves({key: value for key, value in section.items() if key not in _RESERVED}))
    prefix, of_backbone = f"{weights.theirs}.", weights.group == "backbones"
    own = layout.options
    names = [f"backbone.{name}" if "." not in name else name for name in own.project_defaults]
    listed = {name.removeprefix(prefix) for name in (*names, *own.unsaved) if name.startswith(prefix)}
    if of_backbone and weights.complete:
        listed |= {name for name in own.runtime if (name,) in described}
    for name in sorted(listed):
        path = tuple(name.split("."))
        if path in described or (name in own.project_defaults and name not in own.runtime):
            yield path, described.get(path, _ABSENT), True
    if section.get("name") != plugin or (of_backbone and not _resizes(model.backbone, weights.checkpoint.tensors)):
        return
    for path, value in described.items():
        if ".".join(path) not in listed and not (of_backbone and path[0] in own.runtime):
            yield path, value, False


def _resizes(backbone: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have other shapes in the backbone."""
    own = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    return any(tensor.shape != own.get(name, tensor.shape) for name, tensor in part(state, "backbone.").items())


_ASSUMED = "these weights are assumed to have"


def _why(weights: PartWeights, path: Path) -> str:
    layout = weights.checkpoint.layout
    assert layout is not None
    name = ".".join((weights.theirs, *path))
    if name in weights.checkpoint.options:
        return "these weights were trained with"
    return _ASSUMED if name in layout.options.unsaved else f"{layout.name} computes with"


def _build_again(model: DenseModel, changed: Mapping[str, dict[str, Any]], weights: Sequence[PartWeights]) -> None:
    """Sets the changed options by the key of their part, in the model and its sections."""
    sections = model.sections
    assert sections is not None
    for key, options in changed.items():
        for name, value in options.items():
            sections = with_value(sections, (*key.split("."), name), value)
    try:
        rebuild(model, sections)
    except DensevitError as error:
        layouts = {one.checkpoint.layout.name for one in weights if one.key in changed and one.checkpoint.layout}
        raise WeightsError(
            f"The model cannot be built with the options of {' and '.join(sorted(layouts))}, whose weights it loads: "
            f"{one_line(error)} Fix: set this option in the config, or the others as those weights have them."
        ) from error


def _section(sections: ModelSections, key: str) -> Any:
    """The section of a part; None if there is none."""
    if key == "backbone":
        return sections.backbone
    _, name, *neck = key.split(".")
    return sections.heads[name].neck if neck else sections.heads[name]


def _leaves(section: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields the options of a section and of the sections in it."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _with(options: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """The options with another value of one of them."""
    key, *inner = path
    return {**options, key: _with(options.get(key) or {}, tuple(inner), value) if inner else value}


def _equal(here: Any, there: Any) -> bool:
    """Whether two options are equal; lists of a config and tuples are."""
    here, there = (tuple(value) if isinstance(value, list) else value for value in (here, there))
    return bool(here == there)


def _shown(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)
