"""The types of config keys: which mappings are sections, and which texts can name a class."""

import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Union, get_args, get_origin

from densevit.config.data_schema import DataSection, FinalPhase
from densevit.config.values import BY_NAME, PLUGIN_NAME, SOURCE, ConfigType, Section
from densevit.errors import PluginError
from densevit.registry import PLUGIN_GROUPS, option_types
from densevit.registry.importing import MODULE_CLASS
from densevit.registry.plugin_options import inner_types


def type_in(annotation: Any, key: str, values: Mapping[str, Any]) -> Any:
    """The type of a key in a mapping of the type `annotation`; Any if unknown. values: the mapping's values. For an
    option of a plugin, the plugin is imported."""
    section = section_type(annotation)
    if section is FinalPhase and key not in section.model_fields:
        section = DataSection  # whose keys it changes
    if section is not None and key in section.model_fields:
        field = section.model_fields[key]
        return Annotated[(field.annotation, None, *field.metadata)]
    if section is not None:
        option: Any = Any
        with suppress(PluginError):
            group = next((part for part in parts(annotation) if part in PLUGIN_GROUPS), "")
            option = option_types(group, values.get("name")).get(key, Any)
        return Annotated[option, PLUGIN_NAME]  # text in an option may name a plugin
    for part in parts(annotation):
        if get_origin(part) is dict:
            return get_args(part)[1]
        if (inner := inner_types(part)) is not None:
            return Annotated[inner.get(key, Any), PLUGIN_NAME]
    return Any


def merges(annotation: Any) -> bool:
    """Whether a mapping of this type is merged with the mapping that it overrides, instead of replacing it."""
    return bool(section_type(annotation)) or any(
        part == BY_NAME or inner_types(part) is not None for part in parts(annotation)
    )


def section_type(annotation: Any) -> type[Section] | None:
    """The class of a section of this type; None for other types."""
    classes = (part for part in parts(annotation) if isinstance(part, type) and get_origin(part) is None)
    return next((part for part in classes if issubclass(part, Section)), None)  # Python 3.10: list[str] is a type


def named_classes(values: Any, annotation: Any) -> set[str]:
    """The texts `module:Class` in nested values of the type `annotation`, where the type is a plugin's name or unknown.
    Imports installed plugins for the types of their options, and no `module:Class`."""
    if isinstance(values, str):
        annotations = [*parts(annotation, inside=True)]
        is_name = SOURCE not in annotations and any(
            part in (Any, PLUGIN_NAME) or section_type(part) for part in annotations
        )
        return {values} if is_name and MODULE_CLASS.fullmatch(values) else set()
    items: list[tuple[Any, Any]] = []
    if isinstance(values, Mapping) and (section_type(annotation) or BY_NAME in parts(annotation)):
        installed = values if ":" not in str(values.get("name")) else {}
        named = {key: value for key, value in values.items() if named_classes([key, value], PLUGIN_NAME)}
        items = [(item, type_in(annotation, key, installed)) for key, value in named.items() for item in (key, value)]
    elif isinstance(values, Mapping | list | tuple):
        inner = PLUGIN_NAME if SOURCE in parts(annotation, inside=True) else annotation  # a source is a text alone
        items = [(item, inner) for item in (*values, *(values.values() if isinstance(values, Mapping) else ()))]
    return set().union(*(named_classes(*item) for item in items))


def parts(annotation: Any, inside: bool = False) -> Iterator[Any]:
    """A type, its metadata, and the members of unions. inside: also the types in containers."""
    annotation = next(
        (part.annotation for part in getattr(annotation, "__metadata__", ()) if isinstance(part, ConfigType)),
        annotation,
    )
    yield annotation
    if inside or get_origin(annotation) in (Annotated, Union, types.UnionType):
        for part in get_args(annotation):
            yield from parts(part, inside)
