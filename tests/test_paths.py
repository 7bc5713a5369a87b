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
from densevit.paths import user_path

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


def refused(call: Callable[[], object], file: Path) -> None:
    """The call is refused because of a file in the home folder, which the error names."""
    with pytest.raises((DensevitError, OSError)) as error:
        call()
    assert str(file) in f"{error.value} {getattr(error.value, 'filename', '')}"


def writes(call: Callable[[], object], file: Path) -> None:
    call()
    assert file.exists()


def predicted(home: Path) -> densevit.Predictor:
    """A model whose predictions are in `found`."""
    model = predictor()
    (home / "found" / "predict.json").write_text(json.dumps({"model": "a", "weights": model.fingerprint}))
    return model


FUNCTIONS: dict[str, Callable[[Path], object]] = {
    "benchmark.out": lambda home: refused(
        lambda: densevit.benchmark(["~/config.yaml"], out="~/image.png"), home / "image.png"
    ),
    "convert_dataset.source": lambda home: refused(
        lambda: densevit.convert_dataset("yolo", "~/none", "~/out"), home / "none"
    ),
    "convert_dataset.out": lambda home: refused(lambda: densevit.convert_dataset("yolo", "~", "~/full"), home / "full"),
    "create_backbone.weights": lambda _: densevit.create_backbone(**BACKBONE, weights="~/model.safetensors"),
    "create_model.backbone": lambda _: densevit.create_model(Path("~/config.yaml"), classes=["a"]),
    "create_model.weights": lambda _: densevit.create_model(BACKBONE, HEADS, ["a", "b"], weights="~/model.safetensors"),
    "diagnose.source": lambda home: refused(lambda: densevit.diagnose("~/full"), home / "full"),
    "diagnose.page": lambda home: writes(
        lambda: densevit.diagnose("~/config.yaml", images=1, page="~/page.html"), home / "page.html"
    ),
    "evaluate.model": lambda home: refused(lambda: densevit.evaluate("~/full"), home / "full"),
    "evaluate.data": lambda home: refused(lambda: densevit.evaluate(predictor(), "~/bad.yaml"), home / "bad.yaml"),
    "export.path": lambda home: refused(lambda: densevit.export(predictor(), "~/image.png/a.onnx"), home / "image.png"),
    "fit.config": lambda home: refused(lambda: densevit.fit("~/bad.yaml"), home / "bad.yaml"),
    "fit.run_dir": lambda home: refused(lambda: densevit.fit("~/config.yaml", run_dir="~/full"), home / "full"),
    "fit.resume": lambda home: refused(lambda: densevit.fit(resume="~/full"), home / "full"),
    "inspect.model": lambda home: refused(lambda: densevit.inspect("~/full", "~/image.png"), home / "full"),
    "inspect.image": lambda _: densevit.inspect(predictor(), "~/image.png"),
    "load.source": lambda _: densevit.load("~/model.safetensors"),
    "report.runs": lambda home: refused(lambda: densevit.report("~/none"), home / "none"),
    "report.out": lambda home: writes(lambda: densevit.report("~/run", "~/page.html"), home / "page.html"),
    "save.path": lambda home: writes(lambda: densevit.save(predictor(), "~/a.safetensors"), home / "a.safetensors"),
    "write_prelabels.predictions": lambda home: refused(
        lambda: densevit.write_prelabels("~/none", predictor(), "~/a.json"), home / "none"
    ),
    "write_prelabels.out": lambda home: writes(
        lambda: densevit.write_prelabels("~/found", predicted(home), "~/a.json"), home / "a.json"
    ),
}
METHODS: dict[str, Callable[[Path], object]] = {
    "predict": lambda _: predictor().predict("~/image.png"),
    "predict, a list": lambda _: predictor().predict(["~/image.png", Path("~/image.png")]),
    "predict, a pattern": lambda _: [*predictor().predict("~/*.png")],
    "Result.save": lambda home: writes(lambda: result().save("~/a.png"), home / "a.png"),
    "Result.write_ply": lambda home: writes(lambda: result().write_ply("~/a.ply", 10.0), home / "a.ply"),
    "Diagnosis.write_page": lambda home: writes(
        lambda: densevit.Diagnosis("a").write_page("~/a.html"), home / "a.html"
    ),
    "Inspection.save": lambda home: writes(
        lambda: densevit.inspect(predictor(), "~/image.png").save("~/a"), home / "a" / "inspect.html"
    ),
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_functions_expand_the_home_folder(name: str, home: Path) -> None:
    {**FUNCTIONS, **METHODS}[name](home)
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
    assert named | {"inspect.image"} == FUNCTIONS.keys()


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


def test_an_unknown_user_is_no_error(home: Path) -> None:
    assert user_path("~/a") == home / "a" and user_path("~nobody-here/a") == Path("~nobody-here/a")
