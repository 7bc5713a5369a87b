"""Resolves the sections of a model before it is built: weights set what the user left open."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from densevit.config import BackboneSection, ModelSections
from densevit.config.values import with_value
from densevit.interfaces import RGB, Class
from densevit.layouts.state_dicts import part
from densevit.model import DenseModel, build_from_sections
from densevit.model.meta_device import built_on_meta
from densevit.model.stem_channels import adapted_state, has_new_filters, stem_tensors
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.checkpoint_io import read
from densevit.weights.sources import is_published, sources
from densevit.weights.translated_checkpoint import ResolvedCheckpoint, TranslatedCheckpoint, native


class Resolved(NamedTuple):
    """Resolved sections, and the weights that they name.

    checkpoints: the checkpoints by source. notes: pairs of a section's key and a sentence on an option that its weights
    set.
    """

    sections: ModelSections
    checkpoints: Mapping[str, TranslatedCheckpoint]
    notes: Sequence[tuple[str, str]]


def read_files(sections: ModelSections, kept: Callable[[str], str] = str) -> dict[str, Checkpoint]:
    """Reads the weights files that the sections name, by source; published weights, which may need a download, are left
    out. kept: the file to read for a source. Raises WeightsError."""
    return {source: read(kept(source)) for source in sources_of(sections) if not is_published(source)}


def resolve(
    sections: ModelSections,
    classes: Mapping[str, Sequence[Class]],
    checkpoints: Mapping[str, Checkpoint] = MappingProxyType({}),
) -> Resolved:
    """Completes a model's sections with the values that their pretrained weights imply.

    Sets options so that the model computes as the code that trained the weights (`Source.resolve`); mean and std; and
    `adapted_stem`, the tensors of first layers that are adapted to other channels. Keeps values that are set, and
    changes neither its arguments nor the random state.
    To choose the values, compares the checkpoints' tensor names and shapes with those of the model, which is built on
    the meta device.

    classes: each head's classes. checkpoints: weights that are already read, by source, as from `read_files`.
    """
    model = built_on_meta(lambda: build_from_sections(sections, classes, pretrained=False))
    translated, notes = dict[str, TranslatedCheckpoint](), list[tuple[str, str]]()
    for source, key in sources_of(sections).items():
        fix_hint = f"{key}=FILE, where FILE is a file or folder downloaded elsewhere"
        sections, translated[source], lines = _resolved(
            checkpoints.get(source) or read(source, fix_hint), sections, model
        )
        notes += lines
    first = sections.weights or sections.backbone.source
    backbone, texts = _images_of(sections.backbone, model, translated[first] if first else None)
    notes += [("backbone", line) for line in texts]
    return Resolved(with_value(sections, ("backbone",), backbone), translated, notes)


def _resolved(checkpoint: Checkpoint, sections: ModelSections, model: DenseModel) -> ResolvedCheckpoint:
    """A checkpoint of densevit, or else what the first source makes of it."""
    foreign = sources() if checkpoint.header.get("format") != "densevit" else ()
    resolved = (plugin.resolve(checkpoint, sections, model) for plugin in foreign)
    return next(filter(None, resolved), None) or ResolvedCheckpoint(sections, native(checkpoint))


def sources_of(sections: ModelSections) -> dict[str, str]:
    """The weights that the sections name, each with the first config key that names them."""
    named = {"weights": sections.weights, "backbone.weights": sections.backbone.source}
    named |= {f"heads.{name}.weights": section.weights for name, section in sections.heads.items()}
    named |= {f"heads.{name}.neck.weights": x.neck.weights for name, x in sections.heads.items() if x.neck}
    keys: dict[str, str] = {}
    for key, source in named.items():
        if source:
            keys.setdefault(source, key)
    return keys


def _images_of(
    section: BackboneSection, model: DenseModel, checkpoint: TranslatedCheckpoint | None
) -> tuple[BackboneSection, list[str]]:
    """Returns the backbone's section and notes on its changes. Sets mean and std to those of the weights, unless the
    weights were trained on channels other than the images', `black_padding` to theirs, and `adapted_stem` to the first
    layers that are adapted to the images' channels. checkpoint: None: the backbone's constructor loads the weights, or
    there are none."""
    names, lines = model.channels.names, list[str]()
    update: dict[str, Any] = {}
    if checkpoint is None:
        loads = section.options.get("pretrained") is True and has_new_filters(RGB.names, names)
        stem = stem_tensors(section) if loads else []
    else:
        state, adapted = adapted_state(part(checkpoint.tensors, "backbone."), section, checkpoint.channels)
        stem = [name for name in checkpoint.adapted_stem if name in state]
        stem += [name for name, saved in adapted.items() if has_new_filters(saved, names)]
        for key in ("mean", "std"):
            current, rgb = getattr(model.backbone, key), () if getattr(section, key) else (RGB.names,)  # by name
            saved = getattr(checkpoint, key) if checkpoint.channels in (names, *rgb) else None
            trained = saved and model.channels.per_channel(saved)
            if trained is None or all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(trained, current, strict=True)):
                continue
            if getattr(section, key) is not None:
                lines.append(
                    f"Warning: backbone.{key} stays {[*current]}; these weights were trained with {[*trained]}."
                )
                continue
            update[key] = trained
            lines.append(
                f"backbone.{key} is {[*trained]}, as these weights were trained with, in place of {[*current]}."
            )
        if checkpoint.black_padding and section.black_padding is None:
            update["black_padding"] = True
            lines.append("backbone.black_padding is true, as these weights were trained with, in place of false.")
        elif checkpoint.black_padding and not section.black_padding:
            lines.append("Warning: backbone.black_padding stays false; these weights were trained with true.")
        if stem:
            lines.append(f"Trained like heads, for new channels: backbone.{', backbone.'.join(stem)}.")
    update["adapted_stem"] = tuple(dict.fromkeys((*section.adapted_stem, *stem)))
    return section.model_copy(update=update), lines
