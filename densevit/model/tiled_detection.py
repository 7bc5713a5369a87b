"""Detection in overlapping windows: runs windows in batches, moves their boxes into the image and merges these."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from densevit.config import InferenceSection
from densevit.errors import PluginError
from densevit.interfaces import Batch, Head, Predictions
from densevit.layers.padding import padded
from densevit.layers.precision import in_float32
from densevit.model.box_merging import merge_boxes
from densevit.model.head_inference import moves_with_box
from densevit.model.sliding_window import Size, Window, crop_windows, starts, window_batches
from densevit.model.test_time_augmentation import MultiHeadModel
from densevit.targets.types import TargetTypes

BOX_KEYS = ("boxes", "scores", "labels")


@runtime_checkable
class SupportsMaxPredictions(Protocol):
    """A box head with a maximum number of objects per image, also when windows are merged."""

    max_predictions: int


def predictions(
    model: MultiHeadModel, batch: Batch, options: InferenceSection, heads: Sequence[str]
) -> dict[str, list[Predictions]]:
    """The predictions of `heads`, one per image, in original pixels, merged over the windows.

    Predicts an image that fits into a window in one pass.
    """
    images = zip(batch["images"], batch["targets"], strict=True)
    results = [_image_predictions(model, image, target, options, heads) for image, target in images]
    return {name: [by_head[name] for by_head in results] for name in heads}


def _image_predictions(
    model: MultiHeadModel, image: Tensor, target: Mapping[str, Any], options: InferenceSection, heads: Sequence[str]
) -> dict[str, Predictions]:
    """The predictions of one padded image (3, H, W) by head."""
    h, w = map(int, target["size"])
    assert options.window_sides is not None and options.strides is not None
    (height, width), stride = options.window_sides, options.strides
    crop = (min(height, h), min(width, w))
    tops, lefts = starts(h, height, stride[0]), starts(w, width, stride[1])
    windows = [Window(top, left, False) for top in tops for left in lefts]
    is_single = len(windows) == 1
    grid = model.backbone.input_size or (
        (image.shape[1], image.shape[2]) if is_single else padded(crop, model.size_divisor)
    )
    sizes = {"size": crop, "original_size": target["original_size"] if is_single else crop}

    parts: dict[str, list[Predictions]] = {name: [] for name in heads}
    for chunk in window_batches(windows, options.batch_size):
        images, padding_mask = crop_windows(image[:, :h, :w], chunk, crop, grid)
        targets = [sizes] * len(chunk)
        outputs = model({"images": images, "padding_mask": padding_mask, "targets": targets}, heads)
        for name in heads:
            parts[name] += model.heads[name].predict(in_float32(outputs[name]), targets)
        del outputs  # before the next chunk is computed
    if is_single:
        return {name: windowed[0] for name, windowed in parts.items()}
    overlap = (height - stride[0], width - stride[1])
    return {name: _merged(model, name, windowed, windows, crop, target, overlap) for name, windowed in parts.items()}


def _merged(
    model: MultiHeadModel,
    name: str,
    parts: Sequence[Predictions],
    windows: Sequence[Window],
    crop: Size,
    target: Mapping[str, Any],
    overlap: Size,
) -> Predictions:
    """Merges the predictions of an image's windows, in window pixels, into predictions in original pixels.

    Runs on the CPU: the number of agreeing pairs depends on the data and would synchronise a GPU often.
    """
    _check(model.heads[name], name, parts[0])
    values = {key: torch.cat([window_predictions[key] for window_predictions in parts]).cpu() for key in parts[0]}
    boxes = values["boxes"].float()  # half precision is too coarse for large images
    corners = boxes.new_tensor([(left, top, left, top) for top, left, _ in windows])
    frames = corners + boxes.new_tensor([0, 0, crop[1], crop[0]])
    window_of = torch.repeat_interleave(
        torch.tensor([len(window_predictions["boxes"]) for window_predictions in parts])
    )
    h, w = map(int, target["size"])
    H, W = map(int, target["original_size"])
    merged = merge_boxes(
        boxes + corners[window_of], values["scores"], values["labels"], window_of, frames, (h, w), overlap
    )
    scale = boxes.new_tensor([W / w, H / h] * 2)
    head = model.heads[name]
    most = head.max_predictions if isinstance(head, SupportsMaxPredictions) else None
    kept = slice(most)  # per image and per window; sorted by score
    return {
        **{key: value[merged.rows[kept]] for key, value in values.items()},
        "boxes": (merged.boxes[kept] * scale).minimum(boxes.new_tensor([W, H] * 2)),
    }


def _check(head: Head, name: str, prediction: Predictions) -> None:
    """Raises PluginError unless the keys of a prediction are boxes, scores, labels and values per object that are the
    same in each window of the image."""
    lacking = [key for key in BOX_KEYS if key not in prediction]
    types = TargetTypes(head.target_types)
    unknown = [key for key in prediction if key != "boxes" and (key not in types or not moves_with_box(types[key]))]
    if lacking or unknown:
        problem = f"lack {', '.join(lacking)}" if lacking else f"have {', '.join(unknown)}"
        raise PluginError(
            f"heads.{name} ({type(head).__name__}): its predictions {problem}; windows can merge boxes, scores, "
            "labels and values per object that do not depend on the image's geometry. Fix: set "
            f"heads.{name}.inference.window=null."
        )
