"""`~` in every path of a public function and of a command."""

import functools
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.config import load
from densevit.errors import DensevitError
from densevit.model import DenseModel
from densevit_batch.image_listing import find_images
from densevit_batch.model_joining import join, read_part, save_heads
from densevit_workbench.doctor.diagnosis import Diagnosis
from densevit_workbench.inspection.model_inspection import Inspection
from tests.written_files import write_texts

BACKBONE, HEADS = {"name": "swin", "variant": "nano", "window_size": 4}, {"x": {"name": "setr", "width": 8}}
SCENES = {"name": "scenes", "train_length": 2, "val_length": 2, "image_size": 64, "batch_size": 2}


@functools.cache
def predictor() -> DenseModel:
    return densevit.create_model(BACKBONE, HEADS, ["a", "b"])


def result() -> densevit.Result:
    return densevit.Result(np.zeros((8, 8, 3), np.uint8), (8, 8), {"x": {"depth": torch.ones(8, 8)}}, {})


@pytest.fixture
def home(tmp_path: Path, environment: Callable[..., None], inside: Callable[[Path], None]) -> Path:
    """The home folder, with an image, a model, a run, predictions, configs and a folder that is not empty."""
    environment(HOME=tmp_path, USERPROFILE=tmp_path)
    inside(tmp_path / "..")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "image.png")
    (tmp_path / "list.txt").write_text("~/image.png\n~/*.png\n")
    densevit.save(predictor(), tmp_path / "model.safetensors")
    save_heads(join([read_part(tmp_path / "model.safetensors")]), tmp_path / "heads.safetensors")
    values = {"backbone": BACKBONE, "heads": HEADS, "data": SCENES, "trainer": {"max_steps": 1}}
    image, found = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}, {"image_id": 1, "bbox": [0, 0, 4, 4]}
    files = {
        "config.yaml": values,
        "child.yaml": {"base": "~/config.yaml"},
        "data.yaml": SCENES,
        "bad.yaml": {"unknown": 1},
        "run/config.yaml": values,
        "run/metrics.json": {"x/mIoU": 0.5},
        "found/images.json": [image],
        "found/x/predictions.json": [{**found, "category_id": 1, "score": 0.9}],
        "full/file": {},
    }
    return write_texts(tmp_path, {name: json.dumps(content) for name, content in files.items()})


def prelabel() -> None:
    """With predictions of this model in `found`."""
    model = predictor()
    (Path.home() / "found" / "predict.json").write_text(json.dumps({"model": "a", "weights": model.fingerprint()}))
    densevit.prelabel("~/found", model, "~/a.json")


# Calls that are refused because of a file in the home folder, which the error names; that write one; that read one.
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "BatchPredictor.model": (lambda: densevit.BatchPredictor("~/full")([np.zeros((8, 8, 3), np.uint8)]), "full"),
    "DenseDataModule.data": (lambda: densevit.DenseDataModule("~/bad.yaml"), "bad.yaml"),
    "benchmark.out": (lambda: densevit.benchmark(["~/config.yaml"], out="~/image.png"), "image.png"),
    "build_data.data": (lambda: densevit.build_data("~/bad.yaml"), "bad.yaml"),
    "convert_dataset.source": (lambda: densevit.convert_dataset("yolo", "~/none", "~/out"), "none"),
    "convert_dataset.out": (lambda: densevit.convert_dataset("yolo", "~", "~/full"), "full"),
    "create_dataset.root": (lambda: densevit.create_dataset("coco", root="~/none"), "none"),
    "doctor.source": (lambda: densevit.doctor("~/full"), "full"),
    "evaluate.model": (lambda: densevit.evaluate("~/full"), "full"),
    "evaluate.data": (lambda: densevit.evaluate(predictor(), "~/bad.yaml"), "bad.yaml"),
    "export.path": (lambda: densevit.export(predictor(), "~/image.png/a.onnx"), "image.png"),
    "fit.config": (lambda: densevit.fit("~/bad.yaml"), "bad.yaml"),
    "fit.run_dir": (lambda: densevit.fit("~/config.yaml", run_dir="~/full"), "full"),
    "fit.resume": (lambda: densevit.fit(resume="~/full"), "full"),
    "inspect_model.model": (lambda: densevit.inspect_model("~/full", "~/image.png"), "full"),
    "probe.backbone": (lambda: densevit.probe("~/none.yaml", "quick"), "none.yaml"),
    "probe.data": (lambda: densevit.probe("pixels", "quick", "~/none.yaml"), "none.yaml"),
    "push_to_hub.model": (lambda: densevit.push_to_hub("~/full", "a/b"), "full"),
    "report.runs": (lambda: densevit.report("~/none"), "none"),
    "prelabel.predictions": (lambda: densevit.prelabel("~/none", predictor(), "~/a.json"), "none"),
}
WRITTEN: dict[str, tuple[Callable[[], object], str]] = {
    "doctor.page": (lambda: densevit.doctor("~/config.yaml", images=1, page="~/page.html"), "page.html"),
    "report.out": (lambda: densevit.report("~/run", "~/page.html"), "page.html"),
    "save.path": (lambda: densevit.save(predictor(), "~/a.safetensors"), "a.safetensors"),
    "DenseModel.save": (lambda: predictor().save("~/b.safetensors"), "b.safetensors"),
    "prelabel.out": (prelabel, "a.json"),
    "Result.save": (lambda: result().save("~/a.png"), "a.png"),
    "Result.write_ply": (lambda: result().write_ply("~/a.ply", 10.0), "a.ply"),
    "Diagnosis.write_page": (lambda: Diagnosis("a").write_page("~/a.html"), "a.html"),
    "Inspection.save": (lambda: densevit.inspect_model(predictor(), "~/image.png").save("~/a"), "a/inspect.html"),
}
READ: dict[str, Callable[[], object]] = {
    "create_backbone.weights": lambda: densevit.create_backbone(**BACKBONE, weights="~/model.safetensors"),
    "create_model.backbone": lambda: densevit.create_model(Path("~/config.yaml"), classes=["a"]),
    "create_model.weights": lambda: densevit.create_model(BACKBONE, HEADS, ["a", "b"], weights="~/model.safetensors"),
    "inspect_model.image": lambda: densevit.inspect_model(predictor(), "~/image.png"),
    "load.source": lambda: densevit.load("~/model.safetensors"),
    "load.backbone": lambda: densevit.load("~/heads.safetensors", backbone="~/model.safetensors"),
    "Run.path": lambda: densevit.Run(Path("~/run")).metrics["x/mIoU"],
}

# Images in the home folder, as each form of input names it. Results are drawn, which reads the file again.
DRAWN: dict[str, Callable[[str], Iterable[densevit.Result | None]]] = {
    "a text": lambda home: [predictor().predict(f"{home}/image.png")],
    "a path": lambda home: [predictor().predict(Path(home, "image.png"))],
    "a list": lambda home: predictor().predict([f"{home}/image.png", Path(home, "image.png")]),
    "a tuple": lambda home: predictor().predict((f"{home}/image.png", Path(home, "image.png"))),
    "a folder": lambda home: predictor().predict(home),
    "a pattern": lambda home: predictor().predict(f"{home}/*.png"),
    "a stream": lambda home: [x.result for x in predictor().iterate(iter([f"{home}/image.png"]))],
    "found files": lambda home: [x.result for x in predictor().iterate(find_images([home, f"{home}/*.png"]))],
    "a list file": lambda home: [x.result for x in predictor().iterate(find_images([f"{home}/list.txt"]))],
    "Result.image": lambda home: [
        densevit.Result(f"{home}/image.png", (40, 40), {"x": {"depth": torch.ones(40, 40)}}, {})
    ],
}

CONFIGS: dict[str, Callable[[], object]] = {
    "a run": lambda: load("~/run"),
    "base of a file": lambda: load("~/child.yaml"),
    "base of a mapping": lambda: load({"base": "~/config.yaml"}),
    "a section file": lambda: load("~/config.yaml", ["data=~/data.yaml"]),
    "weights": lambda: load(
        {"weights": "~/model.safetensors", "heads": HEADS, "data": SCENES, "trainer": {"max_steps": 1}}
    ),
}

RETURNED = ("Benchmark", "Exported", "Report")  # by functions, which expand paths


IMPORT_LIGHTNING = ("DenseDataModule.data",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.integration) if name in IMPORT_LIGHTNING else name
        for name in [*REFUSED, *WRITTEN, *READ, *CONFIGS]
    ],
)
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
        (READ | CONFIGS)[name]()
    assert not (Path.cwd() / "~").exists()


@pytest.mark.parametrize("name", DRAWN)
def test_results_of_images_in_the_home_folder_are_drawn(name: str, home: Path) -> None:
    drawn = [[(str(x.path), x.draw().tobytes()) for x in DRAWN[name](folder) if x] for folder in ("~", str(home))]
    assert drawn[0] and drawn[0] == drawn[1]


def test_every_path_of_a_public_function_is_in_the_list() -> None:
    public = {name: getattr(densevit, name) for name in densevit.__all__}
    public |= {"Diagnosis": Diagnosis, "Inspection": Inspection}  # results of public functions
    named = {
        f"{name}.{parameter.name}"
        for name, value in public.items()
        if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, Exception))
        for parameter in inspect.signature(value).parameters.values()
        if "Path" in str(parameter.annotation) and name not in RETURNED
    }
    methods = {
        f"{name}.{method}"
        for name, value in public.items()
        if inspect.isclass(value)
        for method, function in vars(value).items()
        if inspect.isfunction(function) and not method.startswith("_")
        if "Path" in str([parameter.annotation for parameter in inspect.signature(function).parameters.values()])
    }
    called_by_run = {"Method.training_data"}  # with its folder
    assert (named | methods | {"inspect_model.image", "create_dataset.root"}) - called_by_run == {
        *(*REFUSED, *WRITTEN, *READ, "Result.image", "Result.path")
    }
