"""`~` in every path of a public function and of a command."""

import argparse
import functools
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit import cli, registry
from densevit.errors import DensevitError
from densevit.weights import model_file
from densevit.weights.model_joining import join, read_part

BACKBONE, HEADS = {"name": "swin", "variant": "nano", "window_size": 4}, {"x": {"name": "setr", "width": 8}}
SCENES = {"name": "scenes", "train_length": 2, "val_length": 2, "image_size": 64, "batch_size": 2}


@functools.cache
def predictor() -> densevit.Predictor:
    return densevit.create_model(BACKBONE, HEADS, ["a", "b"])


def result() -> densevit.Result:
    return densevit.Result(np.zeros((8, 8, 3), np.uint8), (8, 8), {"x": {"depth": torch.ones(8, 8)}}, {})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, with an image, a model, a run, predictions, configs and a folder that is not empty."""
    monkeypatch.setenv("USERPROFILE" if sys.platform == "win32" else "HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "..")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "image.png")
    densevit.save(predictor(), tmp_path / "model.safetensors")
    model_file.save_heads(join([read_part(tmp_path / "model.safetensors")]), tmp_path / "heads.safetensors")
    values = {"backbone": BACKBONE, "heads": HEADS, "data": SCENES, "trainer": {"max_steps": 1}}
    image, found = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}, {"image_id": 1, "bbox": [0, 0, 4, 4]}
    files = {
        "config.yaml": values,
        "bad.yaml": {"unknown": 1},
        "run/config.yaml": values,
        "run/metrics.json": {"x/mIoU": 0.5},
        "found/images.json": [image],
        "found/x/predictions.json": [{**found, "category_id": 1, "score": 0.9}],
        "full/file": {},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def write_prelabels() -> None:
    """With predictions of this model in `found`."""
    model = predictor()
    (Path.home() / "found" / "predict.json").write_text(json.dumps({"model": "a", "weights": model.fingerprint}))
    densevit.write_prelabels("~/found", model, "~/a.json")


# Calls that are refused because of a file in the home folder, which the error names; that write one; that read one.
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "benchmark.out": (lambda: densevit.benchmark(["~/config.yaml"], out="~/image.png"), "image.png"),
    "convert_dataset.source": (lambda: densevit.convert_dataset("yolo", "~/none", "~/out"), "none"),
    "convert_dataset.out": (lambda: densevit.convert_dataset("yolo", "~", "~/full"), "full"),
    "diagnose.source": (lambda: densevit.diagnose("~/full"), "full"),
    "evaluate.model": (lambda: densevit.evaluate("~/full"), "full"),
    "evaluate.data": (lambda: densevit.evaluate(predictor(), "~/bad.yaml"), "bad.yaml"),
    "export.path": (lambda: densevit.export(predictor(), "~/image.png/a.onnx"), "image.png"),
    "fit.config": (lambda: densevit.fit("~/bad.yaml"), "bad.yaml"),
    "fit.run_dir": (lambda: densevit.fit("~/config.yaml", run_dir="~/full"), "full"),
    "fit.resume": (lambda: densevit.fit(resume="~/full"), "full"),
    "inspect.model": (lambda: densevit.inspect("~/full", "~/image.png"), "full"),
    "report.runs": (lambda: densevit.report("~/none"), "none"),
    "write_prelabels.predictions": (lambda: densevit.write_prelabels("~/none", predictor(), "~/a.json"), "none"),
}
WRITTEN: dict[str, tuple[Callable[[], object], str]] = {
    "diagnose.page": (lambda: densevit.diagnose("~/config.yaml", images=1, page="~/page.html"), "page.html"),
    "report.out": (lambda: densevit.report("~/run", "~/page.html"), "page.html"),
    "save.path": (lambda: densevit.save(predictor(), "~/a.safetensors"), "a.safetensors"),
    "write_prelabels.out": (write_prelabels, "a.json"),
    "Result.save": (lambda: result().save("~/a.png"), "a.png"),
    "Result.write_ply": (lambda: result().write_ply("~/a.ply", 10.0), "a.ply"),
    "Diagnosis.write_page": (lambda: densevit.Diagnosis("a").write_page("~/a.html"), "a.html"),
    "Inspection.save": (lambda: densevit.inspect(predictor(), "~/image.png").save("~/a"), "a/inspect.html"),
}
READ: dict[str, Callable[[], object]] = {
    "create_backbone.weights": lambda: densevit.create_backbone(**BACKBONE, weights="~/model.safetensors"),
    "create_model.backbone": lambda: densevit.create_model(Path("~/config.yaml"), classes=["a"]),
    "create_model.weights": lambda: densevit.create_model(BACKBONE, HEADS, ["a", "b"], weights="~/model.safetensors"),
    "inspect.image": lambda: densevit.inspect(predictor(), "~/image.png"),
    "load.source": lambda: densevit.load("~/model.safetensors"),
    "load.backbone": lambda: densevit.load("~/heads.safetensors", backbone="~/model.safetensors"),
    "Predictor.predict": lambda: predictor().predict(["~/image.png", Path("~/image.png")]),
    "Predictor.predict, a pattern": lambda: [*predictor().predict("~/*.png")],
}


@pytest.mark.parametrize("name", [*REFUSED, *WRITTEN, *READ])
def test_functions_expand_the_home_folder(name: str, home: Path) -> None:
    if name in REFUSED:
        call, file = REFUSED[name]
        with pytest.raises((DensevitError, OSError)) as error:
            call()
        assert str(home / file) in f"{error.value} {getattr(error.value, 'filename', '')}"
    elif name in WRITTEN:
        call, file = WRITTEN[name]
        call()
        assert (home / file).exists()
    else:
        READ[name]()
    assert not (Path.cwd() / "~").exists()


def test_every_path_of_a_public_function_is_in_the_list() -> None:
    functions = {name: getattr(densevit, name) for name in densevit.__all__}
    named = {
        f"{name}.{parameter.name}"
        for name, function in functions.items()
        if inspect.isfunction(function)
        for parameter in inspect.signature(function).parameters.values()
        if "Path" in str(parameter.annotation)
    }
    assert named | {"inspect.image"} == {name for name in (*REFUSED, *WRITTEN, *READ) if name[0].islower()}


def test_commands_expand_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of a command's arguments. Those that are texts, as MODEL, are read by the functions above."""
    for name in registry.find("commands"):
        module, parser = cli.command(name)
        arguments, expected = name.split(), set()
        for action in parser._actions:
            if action.type is Path:
                expected.add(action.dest)
            if action.type is Path or (action.required and not isinstance(action, argparse._HelpAction)):
                value = str(next(iter(action.choices))) if action.choices else "~/file"
                arguments += [*action.option_strings[:1], value]
        given: list[argparse.Namespace] = []
        monkeypatch.setattr(module, "run", lambda args, given=given: given.append(args) or 0)
        assert cli.main(arguments) == 0
        for key in expected:
            assert getattr(given[0], key) in (home / "file", [home / "file"]), f"{name}: {key}"
