"""A model of an exported file: the file computes the outputs, the heads convert them to predictions."""

import copy
import hashlib
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from densevit import config as configs
from densevit.config import InferenceSection, ModelSections
from densevit.errors import ConfigError, DensevitError, WeightsError
from densevit.inference.predictor import Predictor
from densevit.inference.runtimes import ORIGINAL_SIZE, THRESHOLDS, ExportedFile
from densevit.interfaces import Backbone, Batch, Encoding, Head, Outputs, Predictions, Size, Targets, Transforms
from densevit.model import DenseModel
from densevit.model.exported_outputs import predict_exported, predicts_exported
from densevit.model.model_factory import create_head
from densevit.weights import model_file


class RecordedEvaluation(NamedTuple):
    """Metrics HEAD/METRIC of a model and of its exported file. data: the data of the evaluation; None: unknown."""

    model: Mapping[str, float]
    file: Mapping[str, float]
    data: str | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RecordedEvaluation":
        """Reads the entry `evaluation` of a header."""
        model, file = ({k: math.nan if v is None else v for k, v in values[key].items()} for key in ("model", "file"))
        return cls(model, file, values["data"])

    def as_json(self) -> dict[str, Any]:
        """The entry `evaluation` of a header, with null for metrics that are not finite."""
        model, file = ({k: float(v) if math.isfinite(v) else None for k, v in metrics.items()} for metrics in self[:2])
        return {"model": model, "file": file, "data": self.data}


class FileModel(DenseModel):
    """An exported file with the interface of a model, for prediction and evaluation.

    Its heads have the options and classes of the exported heads and random weights; `predict_exported` converts the
    file's outputs to predictions. file: the result of `open_file`. sections: the sections of the exported model, with
    the channels of its images; None: 8-bit RGB.
    """

    def __init__(self, file: ExportedFile, heads: Mapping[str, Head], sections: ModelSections | None = None) -> None:
        postprocess: Mapping[str, Any] | None = file.header.get("postprocess")
        for name, head in heads.items():
            if postprocess is None and not predicts_exported(head):
                raise ConfigError(
                    f"{file.path}: heads.{name} ({type(head).__name__}) cannot convert the outputs of a "
                    "file to predictions. Fix: implement predict_exported(exported, targets), see docs/own-head.md."
                )
        super().__init__(FileBackbone(file, sections), heads, sections=sections)
        self.postprocess, self.file = postprocess, file
        self.resizes = bool(file.header["resize"])
        self.eval()

    @property
    def recorded_evaluation(self) -> "RecordedEvaluation | None":
        """The evaluation in the header; None if there is none."""
        values = self.file.header.get("evaluation")
        return None if values is None else RecordedEvaluation.from_json(values)

    @property
    def thresholds(self) -> dict[str, float]:
        """The score threshold of each head inside a file with post-processing; empty without."""
        return {} if self.postprocess is None else dict(self.postprocess["thresholds"])

    def fingerprint(self) -> str:
        """A hash of the file, which contains the weights."""
        digest = hashlib.blake2b(digest_size=8)
        with self.file.path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
        return digest.hexdigest()

    def forward(
        self, batch: Batch, heads: Collection[str] | None = None, head_targets: Any = None
    ) -> dict[str, Outputs]:
        """Runs the file on images of one `size`, without padding. Returns outputs by head and name."""
        if self.training:
            raise DensevitError(f"{self.file.path}: an exported file cannot be trained.")
        height, width = self._size(batch["targets"])
        images = batch["images"][..., :height, :width]
        values = self.file.run(np.ascontiguousarray(images.cpu().numpy()), **self._inputs(batch["targets"]))
        outputs = {}
        for name in self.heads if heads is None else heads:
            prefix = f"{name}/" if len(self.file.header["heads"]) > 1 else ""
            head_outputs = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            outputs[name] = {
                key: torch.from_numpy(np.array(value)).to(images.device) for key, value in head_outputs.items()
            }
        return outputs

    def predictions(self, outputs: Mapping[str, Outputs], targets: list[Targets]) -> dict[str, list[Predictions]]:
        """`DenseModel.predictions` from the file's outputs."""
        if self.postprocess is not None:  # the outputs are the predictions of one image
            return {name: [dict(values)] for name, values in outputs.items()}
        return {name: predict_exported(self.heads[name], values, targets) for name, values in outputs.items()}

    @torch.no_grad()
    def infer(
        self,
        batch: Batch,
        inference: Mapping[str, InferenceSection] | None = None,
        references: Mapping[str, Transforms] | None = None,
    ) -> dict[str, list[Predictions]]:
        """`DenseModel.infer` from the file's outputs. Images run one by one, since their maps need much memory. The
        precision is the file's, also within autocast.
        """
        if not all(options.single_pass for options in (inference or {}).values()):
            raise ConfigError(
                f"{self.file.path}: an exported file predicts an image in one pass, without windows, flips and scales. "
                "Fix: leave these options out, or use the exported model."
            )
        with torch.autocast(batch["images"].device.type, enabled=False), torch.autocast("cpu", enabled=False):
            results = [
                super(FileModel, self).infer(
                    {"images": image[None], "padding_mask": mask[None], "targets": [target]}, inference, references
                )
                for image, mask, target in zip(batch["images"], batch["padding_mask"], batch["targets"], strict=True)
            ]
        return {name: [by_head[name][0] for by_head in results] for name in self.heads}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: a runtime executes the file."""

    def _inputs(self, targets: list[Targets]) -> dict[str, np.ndarray]:
        """Inputs other than the images, with which a file with post-processing returns all objects."""
        if self.postprocess is None:
            return {}
        inputs = {THRESHOLDS: np.zeros(len(self.thresholds), np.float32)} if self.thresholds else {}
        if not self.resizes:
            inputs[ORIGINAL_SIZE] = np.array([int(side) for side in targets[0]["original_size"]])
        return inputs

    def _size(self, targets: list[Targets]) -> Size:
        """The size of a batch's images. Raises DensevitError if the model file does not take the batch."""
        sizes = {(int(target["size"][0]), int(target["size"][1])) for target in targets}
        (size,) = sizes
        if self.file.batch not in (None, len(targets)):
            raise DensevitError(f"{self.file.path}: takes {self.file.batch} images at once; there are {len(targets)}.")
        if self.file.size not in (None, size):
            assert self.file.size is not None
            fixed, actual = ("x".join(map(str, sides)) for sides in (self.file.size, size))
            raise DensevitError(
                f"{self.file.path}: takes images of {fixed} pixels only, and this one has {actual} pixels after the "
                f"evaluation transform. Fix: export with --resize (ONNX), so that the file resizes images itself."
            )
        return size


class FileBackbone(Backbone):
    """Metadata of an exported file's backbone; `forward` raises."""

    max_last_blocks = 10**6  # the file contains heads that run blocks

    def __init__(self, file: ExportedFile, sections: ModelSections | None) -> None:
        super().__init__()
        if sections is not None and sections.backbone.channels is not None:  # the file normalises
            self.mean = self.std = (1.0,) * len(sections.backbone.channels.names)
        self.path, values = file.path, file.header["backbone"]
        self.channels, self.strides = tuple(values["channels"]), tuple(values["strides"])
        fixed = file.header["input_size"]
        self.input_size = None if fixed is None or file.header["resize"] else (fixed[0], fixed[1])

    def forward(self, images: Tensor) -> list[Tensor]:
        raise DensevitError(
            f"{self.path}: an exported file computes predictions only, no features and no losses. Fix: if "
            "heads.NAME.evaluation is null, name an evaluator: heads.NAME.evaluation.name=..."
        )

    def encode(self, images: Tensor, counts: Collection[int], features: bool) -> Encoding:
        """Raises DensevitError: a file returns no tokens for `TokenBackbone`."""
        return Encoding(self(images), {})


def build(file: ExportedFile, trust: bool = False) -> tuple[FileModel, ModelSections]:
    """Builds the model of a file. Returns it and the config in its header, or the sections of a model without one.

    trust: the parameter of `load`. Raises WeightsError if the header lacks the model's sections.
    """
    path, header = file.path, file.header
    entries = header.get("model")
    if not entries:
        raise WeightsError(
            f"{path}: contains no config, which predictions need: its model was built from modules in Python. "
            "Fix: build the model with densevit.create_model."
        )
    described = model_file.described(entries, str(path), trust)
    heads = {}
    for name, head in described.sections.heads.items():
        taken = header["heads"][name]
        classes = described.classes[name]
        heads[name] = create_head(head.name, taken["channels"], taken["strides"], classes, **head.options)
    model = FileModel(file, heads, described.sections)
    model.licences, model.reference_data = described.licences, described.reference_data
    model.score_thresholds = {**described.score_thresholds, **model.thresholds}
    return model, described.sections


def predictor_of(file: ExportedFile, predictor: Predictor) -> Predictor:
    """Returns a predictor that runs the exported file of `predictor`. It has a config only if `predictor` has one."""
    model = FileModel(file, copy.deepcopy(dict(predictor.heads)), predictor.model.sections)
    model.score_thresholds, model.training_data, model.reference_data = (
        predictor.score_thresholds,
        predictor.model.training_data,
        predictor.model.reference_data,
    )
    sections = None if predictor.sections is None else configs.single_pass(predictor.sections)
    return Predictor(model, sections, resize=None if model.resizes else predictor.replaced_resize)
