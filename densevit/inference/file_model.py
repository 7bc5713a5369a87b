"""A model that is an exported file: the file computes the outputs, and the heads make the predictions from them."""

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
from densevit.interfaces import Backbone, Batch, Encoding, Head, Outputs, Predictions, Size, Targets
from densevit.model import DenseModel
from densevit.model.build import create_head
from densevit.model.exported_outputs import predict_exported, predicts_exported
from densevit.weights import model_file


class RecordedEvaluation(NamedTuple):
    """The metrics HEAD/METRIC of a model and of its file. data: the data that they were evaluated on; None: unknown."""

    model: Mapping[str, float]
    file: Mapping[str, float]
    data: str | None

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> "RecordedEvaluation":
        """From the entry `evaluation` of a header."""
        model, file = ({k: math.nan if v is None else v for k, v in values[key].items()} for key in ("model", "file"))
        return cls(model, file, values["data"])

    def as_json(self) -> dict[str, Any]:
        """The entry `evaluation` of a header; metrics that are not finite are null."""
        model, file = ({k: float(v) if math.isfinite(v) else None for k, v in own.items()} for own in self[:2])
        return {"model": model, "file": file, "data": self.data}


class FileModel(DenseModel):
    """An exported file with the interface of a model, for prediction and evaluation.

    Its heads have the options and classes of the exported ones and random weights; they make predictions from the
    file's outputs by `predict_exported`. file: the file that `open_file` opened. sections: those of the exported
    model, which have the channels of its images; None: RGB of 8 bits.
    """

    def __init__(self, file: ExportedFile, heads: Mapping[str, Head], sections: ModelSections | None = None) -> None:
        postprocess: Mapping[str, Any] | None = file.header.get("postprocess")
        for name, head in heads.items():
            if postprocess is None and not predicts_exported(head):
                raise ConfigError(
                    f"{file.path}: heads.{name} ({type(head).__name__}) makes no predictions from the outputs of a "
                    "file. Fix: implement predict_exported(exported, targets), see docs/own-head.md."
                )
        super().__init__(BackboneInFile(file, sections), heads, sections=sections)
        self.postprocess, self.file = postprocess, file
        self.resizes = bool(file.header["resize"])
        self.eval()

    @property
    def recorded_evaluation(self) -> "RecordedEvaluation | None":
        """The evaluation that `densevit.export` wrote into the header; None if there is none."""
        found = self.file.header.get("evaluation")
        return None if found is None else RecordedEvaluation.of_json(found)

    @property
    def thresholds(self) -> dict[str, float]:
        """The score threshold of each head inside a file with post-processing; empty for others."""
        return {} if self.postprocess is None else dict(self.postprocess["thresholds"])

    def fingerprint(self) -> str:
        """The fingerprint of the file, which has the weights, in place of `DenseModel.fingerprint`."""
        digest = hashlib.blake2b(digest_size=8)
        with self.file.path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
        return digest.hexdigest()

    def forward(
        self, batch: Batch, heads: Collection[str] | None = None, head_targets: Any = None
    ) -> dict[str, Outputs]:
        """The outputs of the file by head and name, on images of one `size`, without their padding."""
        if self.training:
            raise DensevitError(f"{self.file.path}: an exported file cannot be trained.")
        height, width = self._size(batch["targets"])
        images = batch["images"][..., :height, :width]
        found = self.file.run(np.ascontiguousarray(images.cpu().numpy()), **self._inputs(batch["targets"]))
        outputs = {}
        for name in self.heads if heads is None else heads:
            prefix = f"{name}/" if len(self.heads) > 1 else ""
            own = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
            outputs[name] = {key: torch.from_numpy(np.array(value)).to(images.device) for key, value in own.items()}
        return outputs

    def predictions(self, outputs: Mapping[str, Outputs], targets: list[Targets]) -> dict[str, list[Predictions]]:
        """The predictions of each head from the file's outputs, as `DenseModel.predictions` returns them."""
        if self.postprocess is not None:  # the outputs are the predictions of one image
            return {name: [dict(own)] for name, own in outputs.items()}
        found: dict[str, list[Predictions]] = {}
        for name, own in outputs.items():
            found[name] = predict_exported(self.heads[name], own, targets)
        return found

    @torch.no_grad()
    def infer(
        self, batch: Batch, inference: Mapping[str, InferenceSection] | None = None
    ) -> dict[str, list[Predictions]]:
        """The predictions of a batch, as `DenseModel.infer` returns them. Images are run one by one: their maps need
        much memory. The file's precision is its own, also within autocast.
        """
        if not all(options.single_pass for options in (inference or {}).values()):
            raise ConfigError(
                f"{self.file.path}: an exported file predicts an image in one pass, without windows, flips and scales. "
                "Fix: leave these options out, or use the model that was exported."
            )
        found: dict[str, list[Predictions]] = {name: [] for name in self.heads}
        for i, target in enumerate(batch["targets"]):
            image, mask = batch["images"][i : i + 1], batch["padding_mask"][i : i + 1]
            with torch.autocast(image.device.type, enabled=False), torch.autocast("cpu", enabled=False):
                one = self({"images": image, "padding_mask": mask, "targets": [target]})
                for name, (prediction,) in self.predictions(one, [target]).items():
                    found[name].append(prediction)
        return found

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: a runtime runs the file."""

    def _inputs(self, targets: list[Targets]) -> dict[str, np.ndarray]:
        """The inputs of a file with post-processing beside the images, with which it returns all objects."""
        if self.postprocess is None:
            return {}
        inputs = {THRESHOLDS: np.zeros(len(self.thresholds), np.float32)} if self.thresholds else {}
        if not self.resizes:
            inputs[ORIGINAL_SIZE] = np.array([int(side) for side in targets[0]["original_size"]])
        return inputs

    def _size(self, targets: list[Targets]) -> Size:
        """The size of the images of a batch. Raises DensevitError if the file does not take it."""
        sizes = {(int(target["size"][0]), int(target["size"][1])) for target in targets}
        (size,) = sizes
        if self.file.batch not in (None, len(targets)):
            raise DensevitError(f"{self.file.path}: takes {self.file.batch} images at once; there are {len(targets)}.")
        if self.file.size not in (None, size):
            assert self.file.size is not None
            fixed, given = ("x".join(map(str, sides)) for sides in (self.file.size, size))
            raise DensevitError(
                f"{self.file.path}: takes images of {fixed} pixels only, and this one has {given} pixels after the "
                f"resizing of evaluation. Fix: export with --resize (ONNX), so that the file resizes images itself."
            )
        return size


class BackboneInFile(Backbone):
    """What a file knows about its backbone. It computes no features."""

    max_last_blocks = 10**6  # heads that run blocks are in the file, too

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
            f"{self.path}: an exported file gives predictions only, no features and no losses. Fix: if "
            "heads.NAME.evaluation is null, name an evaluator: heads.NAME.evaluation.name=..."
        )

    def encode(self, images: Tensor, counts: Collection[int], features: bool) -> Encoding:
        """Raises DensevitError: a file has no tokens for `TokenBackbone`."""
        return Encoding(self(images), {})


def build(file: ExportedFile, trust: Collection[str] = ()) -> tuple[FileModel, ModelSections]:
    """Builds the model of a file, and the config in its header, or the sections of a model without one.

    trust: the argument of `load`. Raises WeightsError if the header lacks what the heads are built from.
    """
    path, header = file.path, file.header
    entries = header.get("model")
    if not entries:
        raise WeightsError(
            f"{path}: has no config from which predictions could be made: its model was built from modules in Python. "
            "Fix: build the model with densevit.create_model."
        )
    described = model_file.described(entries, str(path), trust)
    heads = {}
    for name, head in described.sections.heads.items():
        taken = header["heads"][name]
        classes = described.classes[name]
        heads[name] = create_head(head.name, taken["channels"], taken["strides"], classes, **head.options)
    model = FileModel(file, heads, described.sections)
    model.licences = described.licences
    model.score_thresholds = {**described.score_thresholds, **model.thresholds}
    return model, described.sections


def predictor_of(file: ExportedFile, predictor: Predictor) -> Predictor:
    """The predictor of a file that was exported from this predictor, which need not have a config."""
    model = FileModel(file, copy.deepcopy(dict(predictor.heads)), predictor.model.sections)
    model.score_thresholds, model.training_data = predictor.score_thresholds, predictor.model.training_data
    sections = None if predictor.sections is None else configs.single_pass(predictor.sections)
    return Predictor(model, sections, resize=None if model.resizes else predictor.replaced_resize)
