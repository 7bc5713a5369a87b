"""Weights that configs name, loaded on the meta device: names and shapes are compared, and nothing is downloaded."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from densevit.config import Config

if TYPE_CHECKING:
    import torch

    from densevit.model import DenseModel
    from densevit.weights.checkpoint_io import Checkpoint

RELEASED = Path(__file__).parents[1] / "weights/released"


def compare(config: Config) -> list[str]:
    """Loads the weights that a config names into its model on the meta device, as a training does.

    Returns the sources that were compared. Raises WeightsError for other names or shapes.
    """
    from densevit.weights.pretrained import load_pretrained  # late: it imports torch

    sections = config.model_copy(deep=True)
    found: dict[str, Checkpoint] = {}
    for section in (sections, sections.backbone, *sections.heads.values()):
        if section.weights is not None and section.weights not in found:
            checkpoint = checkpoint_of(section.weights)
            if checkpoint is not None:
                found[section.weights] = checkpoint
        section.weights = section.weights if section.weights in found else None
    if found:
        with meta():
            load_pretrained(model_on_meta(sections), sections, found)
    return [*found]


@contextmanager
def meta() -> Iterator[None]:
    """New tensors have names and shapes only."""
    import torch

    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.Module, "load_state_dict", lambda *_, **__: None
        )  # nothing to copy, which torch warns of
        yield


def model_on_meta(sections: Config) -> "DenseModel":
    """The model of a config, for the same classes in all heads. Without weights that a constructor downloads."""
    from densevit.interfaces import Class
    from densevit.model import build_from_architecture

    classes = tuple(Class(f"class {i}", i, (i, i, i), thing=i < 4) for i in range(6))
    with meta():
        return build_from_architecture(sections.architecture, dict.fromkeys(sections.heads, classes), pretrained=False)


def checkpoint_of(source: str) -> "Checkpoint | None":
    """The names and shapes of weights; None if they are not known without a download."""
    from densevit.weights.checkpoint_io import Checkpoint, read

    kind, _, name = source.partition(":")
    if kind in ("timm", "torchvision"):
        return Checkpoint(*of_library(kind, source)) if find_spec(kind) else None
    if kind == "package":
        return read(source) if find_spec(name.partition("/")[0]) else None
    state = released(Path(source).stem)
    return None if state is None else Checkpoint(state, source)


def of_library(kind: str, source: str) -> "tuple[Mapping[str, torch.Tensor], str, dict[str, str], dict]":
    """Weights of timm and torchvision, as `weights.hub` reads them, of their models without weights."""
    import torch

    from densevit.weights import hub

    with meta(), pytest.MonkeyPatch.context() as patch:
        if kind == "timm":
            import timm

            create = timm.create_model
            patch.setattr(timm, "create_model", lambda name, pretrained, **_: create(name))
            patch.setattr(hub, "timm_arguments", lambda *_: {})
            published = hub.fetch(source)
            return published.weights, source, {}, published.metadata
        from torchvision import models

        name = source.partition(":")[2].partition("/")[0]
        patch.setattr(hub, "_length", lambda _: 0)
        patch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: None)
        published = hub.fetch(source)  # raises for names that are none
        return models.get_model(name).state_dict(), source, {}, published.metadata


def released(stem: str) -> "dict[str, torch.Tensor] | None":
    """The tensors of a released file by the list of their names: `detr-r50-e632da11` by `detr_r50.txt`."""
    import torch

    plain = stem.replace("-", "_").lower()
    files = [file for file in RELEASED.glob("*.txt") if plain.startswith(file.stem.replace("-", "_").lower())]
    if not files:
        return None
    lines = max(files, key=lambda file: len(file.stem)).read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    shapes = {key: "" if key.endswith("num_batches_tracked") else shape for key, shape in rows}
    sides = {key: [int(side) for side in re.findall(r"\d+", shape)] for key, shape in shapes.items()}
    return {key: torch.empty(shape, device="meta") for key, shape in sides.items()}
