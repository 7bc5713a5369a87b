"""Weights of timm and torchvision that configs name: names and shapes are compared on the meta device."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from densevit.config import Config

if TYPE_CHECKING:
    from densevit.weights.checkpoint_io import Checkpoint


def compare(config: Config) -> list[str]:
    """Loads the backbone's weights into the config's model, as a training does, and returns what was compared.

    Raises WeightsError for other names or shapes, and for models that the library has not.
    """
    from densevit.interfaces import Class  # late: they import torch
    from densevit.model import build_from_architecture
    from densevit.weights.pretrained import load_pretrained

    source = config.backbone.weights or ""
    if source.partition(":")[0] not in ("timm", "torchvision") or not find_spec(source.partition(":")[0]):
        return []
    sections = config.model_copy(deep=True)
    for section in (sections, *sections.heads.values()):
        section.weights = None
    classes = dict.fromkeys(sections.heads, tuple(Class(f"class {i}", i, (i, i, i), thing=i < 4) for i in range(6)))
    with meta():
        model = build_from_architecture(sections.architecture, classes, pretrained=False)
        load_pretrained(model, sections, {source: checkpoint_of(source)})
    return [source]


@contextmanager
def meta() -> Iterator[None]:
    """New tensors have names and shapes only."""
    import torch

    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)  # nothing to copy, torch warns of it
        yield


def checkpoint_of(source: str) -> "Checkpoint":
    """What `weights.hub` reads, of a model without weights."""
    import torch

    from densevit.weights import hub
    from densevit.weights.checkpoint_io import Checkpoint

    with pytest.MonkeyPatch.context() as patch:
        if source.startswith("timm:"):
            import timm

            create = timm.create_model
            patch.setattr(timm, "create_model", lambda name, pretrained, **_: create(name))
            patch.setattr(hub, "timm_arguments", lambda *_: {})
            published = hub.fetch(source)
            return Checkpoint(published.weights, source, {}, published.metadata)
        from torchvision import models

        patch.setattr(hub, "_length", lambda _: 0)
        patch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: None)
        published = hub.fetch(source)  # raises for names that are none
        state = models.get_model(source.partition(":")[2].partition("/")[0]).state_dict()
        return Checkpoint(state, source, {}, published.metadata)
