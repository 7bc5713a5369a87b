"""Metres stay metres at every image size: in exported files, and in every kind of model."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np
import pytest

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.model import DenseModel, InferenceModel
from tests.inference.zoomed_models import FOCAL, IMAGE, TYPES, check, predicted, write_model

FILES: list[tuple[str, int | None, dict[str, Any]]] = [  # suffix, evaluation size if not the training's, options
    (".onnx", None, {"canvas": (96, 128)}),
    (".onnx", 96, {"postprocess": True}),
    (".onnx", 96, {"resize": True}),
    (".onnx", 96, {"resize": True, "postprocess": True}),
    (".pt2", 96, {}),
]


@pytest.mark.integration
@pytest.mark.parametrize(("suffix", "side", "options"), FILES)
def test_exported_files(tmp_path, suffix, side, options):
    write_model(tmp_path / "run", TYPES)
    predictor = densevit.load(tmp_path / "run")
    predictor = predictor.with_resize(DefaultTransforms(side)) if side else predictor
    path = densevit.export(predictor, tmp_path / f"file{suffix}", quiet=True, **options).path
    file = densevit.load(path, trust=True)
    for size in (None, 90, (40, 96)):
        check(predicted(file, image_size=size))
    if options.get("resize"):  # also for other programs
        focal = np.array([FOCAL], np.float32)
        outputs = file.file.run(np.ascontiguousarray(IMAGE.transpose(2, 0, 1)[None]), focal=focal)
        check({key: {key: outputs[f"{key}/{key}"]} for key in TYPES})


def subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_kind_of_model_undoes_zooms():
    """A class that replaces `infer` passes the references on, or returns predictions that were converted before."""
    commands = metadata.entry_points(group="densevit.commands")
    for package in map(importlib.import_module, {command.module.partition(".")[0] for command in commands}):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    replaced = [
        cls
        for cls in [DenseModel, *subclasses(InferenceModel)]
        if "infer" in vars(cls) and cls.__module__.startswith("densevit")
    ]
    assert {cls.__name__ for cls in replaced} >= {"DenseModel", "Engine"}
    for cls in replaced:
        source = inspect.getsource(vars(cls)["infer"])
        assert "references" in inspect.signature(vars(cls)["infer"]).parameters
        assert re.search(r"at_reference_size\((?:.|\n)*references", source) or "stored" in source, cls
