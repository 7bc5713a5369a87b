"""Inspects a model on one image: positions and attention of its backbone and heads."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densevit.data.io.channel_files import as_rgb
from densevit.data.loading.batch_sampler import collate
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.errors import DensevitError
from densevit.inference.array_inputs import as_sample
from densevit.inference.model_loading import load
from densevit.layers.unchanged import evaluation_mode
from densevit.model import DenseModel, unwrapped
from densevit.paths import user_path
from densevit_workbench.inspection import attention_measures, inspection_page
from densevit_workbench.inspection.inspection_results import InspectionFields, ObjectAttention
from densevit_workbench.inspection.parts import InspectedPart
from densevit_workbench.inspection.recording import recorded_attention

MOST_OBJECTS = 8


class Inspection(InspectionFields):
    """Positions and attention of a model on one image. Parts that the model does not have are None or empty.

    image: (H, W, 3) uint8, resized and padded as model input; non-RGB channels as drawn. point: the query's (y, x), as
    fractions of the image. similarity: (H, W, H, W), cosine similarity of positions. layers: attention of the backbone.
    distances: mean attention distances in pixels by layer, (heads,) each. objects: detected objects by head. figures:
    figures of inspectors, by part of the model.

    Example:
        >>> inspection = densevit.inspect_model("runs/setr_vit", "examples/coffee.jpg", at=(300, 200))
        >>> inspection.layers[0].name
        'blocks.0.attention'
    """

    def save(self, folder: str | Path) -> list[Path]:
        """Writes PNG files, `inspect.json` and `inspect.html`, and returns the files."""
        target = user_path(folder)
        target.mkdir(parents=True, exist_ok=True)
        numbers = target / "inspect.json"
        numbers.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        return [*inspection_page.write(self, target), numbers]


@torch.no_grad()
def inspect_model(
    model: str | Path | DenseModel,
    image: Any,
    at: tuple[float, float] | None = None,
    inspectors: Sequence[str] = (),
) -> Inspection:
    """Computes positions and attention of a model on one image, by layer and for each detected object.

    model: a model, or an argument of `load`. image: a path, URL, bytes, PIL image, array or tensor. at: the query's
    (x, y) in pixels of the image; None: the centre. inspectors: names or `module:Class` of inspectors whose figures are
    added to the figures of the inspectors of backbone and heads.
    Raises DensevitError for a point outside of the image, DataError for an image that cannot be read, PluginError for
    an inspector that fails.

    Example:
        >>> inspection = densevit.inspect_model("runs/setr_vit", "examples/coffee.jpg")
        >>> inspection.distances["blocks.0.attention"].ndim
        1
    """
    dense = load(model) if isinstance(model, str | Path) else unwrapped(model, "inspect_model")
    sample = as_sample(image, 0, dense.channels)
    height, width = sample["targets"]["original_size"]
    if at is not None and not (0 <= at[0] < width and 0 <= at[1] < height):
        raise DensevitError(
            f"inspect: the point {at[0]:g},{at[1]:g} is outside of the image of {width} x {height} pixels."
        )
    if dense.resize is not None:
        sample = EvaluationTransform(dense.resize)(sample)
    batch = collate([sample], dense.padding, channels=dense.channels)
    shown = as_rgb(batch["images"][0].permute(1, 2, 0).numpy(), dense.channels)
    inner = sample["image"].shape[1:]  # without padding
    share = (0.5, 0.5) if at is None else (at[1] / height, at[0] / width)
    point = (share[0] * inner[0] / shown.shape[0], share[1] * inner[1] / shown.shape[1])
    inspection = Inspection(shown, point)

    device = dense.mean.device
    for key in ("images", "padding_mask"):
        batch[key] = batch[key].to(device)
    backbone = InspectedPart("backbone", dense.backbone, inspectors)
    heads = {name: InspectedPart(f"heads.{name}", head, inspectors) for name, head in dense.heads.items()}
    with evaluation_mode(dense), recorded_attention(dense) as recorded, ExitStack() as hooks:
        for part in (backbone, *heads.values()):
            for handle in part.hooks():
                hooks.callback(handle.remove)
        outputs = dense(batch)
        predictions = dense.predictions(outputs, batch["targets"])

    embeddings = backbone.positions()
    inspection.similarity = None if embeddings is None else attention_measures.position_similarity(embeddings.cpu())
    inspection.layers = backbone.attention(recorded, inspection.size)
    inspection.distances = {
        layer.name: attention_measures.mean_attention_distance(layer, inspection.size) for layer in inspection.layers
    }
    objects, lowest = {}, dense.default_thresholds
    for name, head in heads.items():
        maps = head.objects(recorded, outputs[name], inspection.size)
        if maps is not None:
            scale = (inner[0] / height, inner[1] / width)
            objects[name] = _objects(maps.cpu(), predictions[name][0], dense.classes[name], scale, lowest[name])
    inspection.objects = objects
    figures = {backbone.name: backbone.figures(recorded, {}, shown)}
    figures |= {head.name: head.figures(recorded, outputs[name], shown) for name, head in heads.items()}
    for name in inspectors:
        if not any(by_inspector[name] for by_inspector in figures.values()):
            raise DensevitError(f"inspect: the inspector {name!r} shows nothing of this model.")
    inspection.figures = {
        part: [figure for group in by_inspector.values() for figure in group] for part, by_inspector in figures.items()
    }
    return inspection


def _objects(
    maps: Tensor, predicted: Mapping[str, Tensor], classes: Sequence[Any], scale: tuple[float, float], lowest: float
) -> list[ObjectAttention]:
    """At most MOST_OBJECTS objects with scores of at least `lowest`; without any, the best object."""
    scores = predicted["scores"].tolist()
    chosen = [i for i in range(len(scores)) if scores[i] >= lowest][:MOST_OBJECTS] or [*range(len(scores))][:1]
    objects = []
    for i in chosen:
        x1, y1, x2, y2 = predicted["boxes"][i].tolist()
        box = (x1 * scale[1], y1 * scale[0], x2 * scale[1], y2 * scale[0])
        label = int(predicted["labels"][i])
        objects.append(ObjectAttention(classes[label].name, label, scores[i], box, maps[i]))
    return objects
