"""The engine of an exported file: the file computes the outputs, the heads convert them to predictions."""

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densevit.channels import RGB
from densevit.config import ModelSections
from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import ConfigError, DensevitError, WeightsError
from densevit.evaluation.recorded import RecordedEvaluation
from densevit.interfaces import Backbone, Batch, Head, Outputs, Predictions, Size, Targets, Transforms
from densevit.losses.depth import focal_of
from densevit.model import DenseModel, InferenceModel, create_head
from densevit.model.duplicate_boxes import without_duplicates
from densevit.model.head_inference import inference_of
from densevit.model.meta_device import built_on_meta
from densevit.model.nan_check import has_nan
from densevit.model.training_record import TrainingRecord
from densevit.model.zoom import at_reference_size
from densevit.weights import model_file
from densevit_export.exported_outputs import predict_exported, predicts_exported
from densevit_export.header import single_pass
from densevit_export.runtimes import FOCAL, ORIGINAL_SIZE, THRESHOLDS, ExportedFile


class Engine(InferenceModel):
    """Runs an exported file on the CPU, for prediction and evaluation.

    file: the result of `open_file`. heads: the exported heads; their weights are not used: `predict_exported` converts
    the file's outputs to predictions. sections: the sections of the exported model.
    """

    def __init__(self, file: ExportedFile, heads: Mapping[str, Head], sections: ModelSections) -> None:
        self.file, self.heads, self.sections = file, heads, sections
        self.postprocess: Mapping[str, Any] | None = file.header.get("postprocess")
        for name, head in heads.items():
            if self.postprocess is None and not predicts_exported(head):
                raise ConfigError(
                    f"{file.path}: heads.{name} ({type(head).__name__}) cannot convert the outputs of a "
                    "file to predictions. Fix: implement predict_exported(exported, targets), see docs/own-head.md."
                )
        self.resizes = bool(file.header["resize"])
        self.replaced_resize = DefaultTransforms(None) if self.resizes else None  # images keep their size
        self.backbone, values, fixed = Backbone(), file.header["backbone"], file.header["input_size"]
        self.backbone.channels, self.backbone.strides = tuple(values["channels"]), tuple(values["strides"])
        self.backbone.input_size = None if fixed is None or self.resizes else (fixed[0], fixed[1])
        self.channels = (sections and sections.backbone.channels) or RGB
        self.classes = {name: head.classes for name, head in heads.items()}
        self.target_types = {name: head.target_types for name, head in heads.items()}
        self.training_data = sections.data
        self.reference_data, self.licences, self.score_thresholds = {}, {}, {}
        self.training_record = TrainingRecord()
        self.inference = inference_of(self, sections)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises DensevitError: a file computes predictions only."""
        raise DensevitError(
            f"{self.file.path}: an exported file computes predictions only, no features and no losses. Fix: if "
            "heads.NAME.evaluation is null, name an evaluator: heads.NAME.evaluation.name=..."
        )

    def save(self, path: str | Path) -> None:
        """Raises WeightsError: a file has no weights."""
        raise WeightsError(f"{self.file.path}: an exported file has no weights to save. Fix: save the model itself.")

    @property
    def recorded_evaluation(self) -> "RecordedEvaluation | None":
        """The evaluation in the header; None if there is none."""
        values = self.file.header.get("evaluation")
        return None if values is None else RecordedEvaluation.from_json(values)

    @property
    def thresholds(self) -> dict[str, float]:
        """The default score threshold of each head of a file with post-processing; empty without."""
        return {} if self.postprocess is None else dict(self.postprocess["thresholds"])

    def fingerprint(self) -> str:
        """A hash of the file, which contains the weights."""
        digest = hashlib.blake2b(digest_size=8)
        with self.file.path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
        return digest.hexdigest()

    @torch.no_grad()
    def infer(self, batch: Batch, references: Mapping[str, Transforms] | None = None) -> dict[str, list[Predictions]]:
        """`DenseModel.infer` from the file's outputs. Images run one by one, since their maps need much memory. The
        precision is the file's, also within autocast.
        """
        if not all(options.single_pass for options in self.inference.values()):
            raise ConfigError(
                f"{self.file.path}: an exported file predicts an image in one pass, without windows, flips and scales. "
                "Fix: leave these options out, or use the exported model."
            )
        results: dict[str, list[Predictions]] = {name: [] for name in self.heads}
        with torch.autocast("cpu", enabled=False):
            for image, target in zip(batch["images"].cpu(), batch["targets"], strict=True):
                for name, predictions in self._predictions(self._outputs(image, target), target).items():
                    results[name].append(predictions)
        return at_reference_size(
            without_duplicates(results, self.inference),
            batch["targets"],
            self.target_types,
            self.references if references is None else references,
        )

    def _outputs(self, image: torch.Tensor, target: Targets) -> dict[str, Outputs]:
        """Runs the file on an image (C, h, w), without its padding. Returns outputs by head and name."""
        height, width = self._size(target)
        values = self.file.run(np.ascontiguousarray(image[None, :, :height, :width].numpy()), **self._inputs(target))
        outputs = {}
        for name in self.heads:
            prefix = f"{name}/" if len(self.file.header["heads"]) > 1 else ""
            head_outputs = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            outputs[name] = {key: torch.from_numpy(np.array(value)) for key, value in head_outputs.items()}
            for key, value in outputs[name].items():
                if has_nan(value):
                    raise WeightsError(
                        f"{self.file.path}: heads.{name}: output {prefix + key!r} is NaN for image "
                        f"{target.get('image_id', 0)!r}. Fix: predict with the model of the file, which names the "
                        "first layer with NaN; export it in float32 if layers overflow in float16."
                    )
        return outputs

    def _predictions(self, outputs: Mapping[str, Outputs], target: Targets) -> dict[str, Predictions]:
        """The predictions of an image from the file's outputs."""
        if self.postprocess is not None:  # the outputs are the predictions
            return {name: dict(values) for name, values in outputs.items()}
        return {name: predict_exported(self.heads[name], values, [target])[0] for name, values in outputs.items()}

    def _inputs(self, target: Targets) -> dict[str, np.ndarray]:
        """Inputs other than the image, with which a file with post-processing returns all objects."""
        inputs = {THRESHOLDS: np.zeros(len(self.thresholds), np.float32)} if self.thresholds else {}
        if self.canonical_focals:
            inputs[FOCAL] = np.array([float(focal_of(target))], np.float32)
        if self.postprocess is not None and not self.resizes:
            inputs[ORIGINAL_SIZE] = np.array([int(side) for side in target["original_size"]])
        return inputs

    def _size(self, target: Targets) -> Size:
        """The size of an image. Raises DensevitError if the file does not take it."""
        size = (int(target["size"][0]), int(target["size"][1]))
        if self.file.batch not in (None, 1):
            raise DensevitError(f"{self.file.path}: takes {self.file.batch} images at once; there are 1.")
        if self.file.size not in (None, size):
            assert self.file.size is not None
            fixed, actual = ("x".join(map(str, sides)) for sides in (self.file.size, size))
            raise DensevitError(
                f"{self.file.path}: takes images of {fixed} pixels only, and this one has {actual} pixels after the "
                f"evaluation transform. Fix: export with --resize (ONNX), so that the file resizes images itself."
            )
        canvas = None if self.resizes else self.file.header.get("canvas")
        if canvas is not None and (size[0] > canvas[0] or size[1] > canvas[1]):
            most, actual = ("x".join(map(str, sides)) for sides in (canvas, size))
            raise DensevitError(
                f"{self.file.path}: takes images of at most {most} pixels; this one has {actual} pixels after the "
                "evaluation transform. Fix: resize it, or predict with the exported model."
            )
        return size


def build(file: ExportedFile, trust: bool = False) -> Engine:
    """Builds the engine of a file from its header.

    trust: allows a .pt2 file, which PyTorch unpickles.
    """
    header = file.header
    described = model_file.described(header["model"], str(file.path), trust)

    def heads() -> dict[str, Head]:
        return {
            name: create_head(
                head.name,
                header["heads"][name]["channels"],
                header["heads"][name]["strides"],
                described.classes[name],
                **head.options,
            ).eval()
            for name, head in described.sections.heads.items()
        }

    engine = Engine(file, built_on_meta(heads), described.sections)
    engine.licences, engine.reference_data = described.licences, described.reference_data
    engine.training_record = described.training_record
    engine.score_thresholds = {**described.score_thresholds, **engine.thresholds}
    return engine


def engine_of(file: ExportedFile, model: DenseModel) -> Engine:
    """The engine of the exported file of a model, with its data and resizing."""
    heads = {name: copy.deepcopy(head).to("meta").eval() for name, head in model.heads.items()}
    engine = Engine(file, heads, single_pass(model.sections))
    engine.channels = model.channels
    for name in ("score_thresholds", "training_data", "reference_data", "training_record"):
        setattr(engine, name, getattr(model, name))
    engine.replaced_resize = engine.replaced_resize or model.replaced_resize
    return engine
