"""A file that may be somebody else's imports installed plugins only; other classes that it names need trust."""

import copy
import functools
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.config.values import with_value
from densevit.errors import ConfigError
from densevit.interfaces import Class
from densevit.model import DenseModel
from densevit.weights import model_file
from tests.built_models import build_model
from tests.registry.test_classes_in_files import write
from tests.training.runs import without_report

pytestmark = pytest.mark.integration

CLASSES = {"surfaces": (Class("floor", 1, (0, 0, 9)), Class("wall", 2, (1, 0, 9)))}
VALUES: dict[str, Any] = {
    "backbone": {"name": "resnet", "depth": 18},
    "heads": {"surfaces": {"name": "setr", "neck": {"name": "fpn", "width": 8}}},
    "data": {"name": "scenes", "image_size": 64, "batch_size": 2, "num_workers": 0, "train_length": 2, "val_length": 1},
    "trainer": {"max_steps": 1, "accelerator": "cpu", "precision": "32"},
}
IMAGE = np.zeros((32, 32, 3), np.uint8)

# Subclasses of built-in plugins: the tensors of a model are those of VALUES.
SOURCE = """
    import os
    import pytorch_lightning, torch
    from densevit.data.transforms.default import DefaultTransforms
    from densevit.evaluation.miou import SemanticSegmentation
    from densevit.training.loop.supervised_method import Supervised
    from densevit_backbones.resnet import ResNet
    from densevit_heads.setr import Setr
    from densevit_necks.fpn import FPN
    from densevit_scenes.dataset import Scenes

    class Net(ResNet): pass
    class Head(Setr): pass
    class Neck(FPN): pass
    class Data(Scenes): pass
    class Evaluator(SemanticSegmentation): pass
    class Resizing(DefaultTransforms): pass
    class Method(Supervised): pass
    class Adam(torch.optim.Adam): pass
    class Callback(pytorch_lightning.Callback): pass
    class Logger(pytorch_lightning.loggers.CSVLogger): pass
    def schedule(step, steps): return 1.0
"""
NAMED: dict[str, Any] = {
    "backbone.name": "payload:Net",
    "heads.surfaces.name": "payload:Head",
    "heads.surfaces.neck.name": "payload:Neck",
    "data.transforms": "payload:Resizing",
    "data.name": "payload:Data",
    "heads.surfaces.evaluation.name": "payload:Evaluator",
    "method.name": "payload:Method",
    "optim.name": "payload:Adam",
    "optim.schedule": "payload:schedule",
    "trainer.callbacks": ["payload:Callback"],
    "trainer.loggers": [{"name": "payload:Logger"}],
}
"""By the key of the config that names them."""


@pytest.fixture(autouse=True)
def payload(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the module `payload`. Trainings write no reports, which take time."""
    (cwd / "payload.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", os.getcwd())])
    with without_report():
        yield cwd
    sys.modules.pop("payload", None)


@functools.cache
def model() -> DenseModel:
    """That of VALUES, with random weights."""
    return build_model(configs.from_mapping(VALUES), {"segmentation": CLASSES["surfaces"]})


def naming(given: dict[str, Any]) -> Path:
    """A model file with these values, by their keys, in its header's config."""
    values = configs.from_mapping(VALUES).model_dump()
    for key, value in given.items():
        values = with_value(values, key.split("."), value)
    return write(Path(), values, model())


def on_the_path(folder: Path) -> None:
    """Makes the module importable from elsewhere than the working directory, as an installed one is."""
    (folder / "site").mkdir()
    (folder / "payload.py").rename(folder / "site" / "payload.py")
    sys.path.insert(0, str(folder / "site"))


@contextmanager
def refuses(file: object, name: str) -> Iterator[None]:
    """What is done in this context is refused, because the file names a class, which is not imported."""
    with pytest.raises(ConfigError) as error:
        yield
    assert str(error.value).startswith(f"{file}: {name!r} is named in this file") and "trust=True" in str(error.value)
    assert "payload" not in sys.modules and os.getcwd() not in sys.path


@pytest.mark.parametrize("key", NAMED)
def test_class_that_a_model_file_names_is_not_imported(key, payload):
    file = naming({key: NAMED[key]})
    on_the_path(payload)  # importable is not trusted
    [name] = re.findall(r"payload:\w+", str(NAMED[key]))
    for read in (densevit.load, model_file.load):
        with refuses(file, name):
            read(file)
    if key == "backbone.name":
        with refuses(file, name):
            configs.load({"weights": str(file), "heads": {}, "data": {"name": "scenes"}})


def test_all_classes_of_a_trusted_file_are_imported(payload):
    """From the working directory too."""
    predictor = densevit.load(naming(NAMED), trust=True)
    assert type(predictor.backbone).__module__ == "payload" and predictor.predict(IMAGE)
    densevit.evaluate(predictor)
    densevit.fit(predictor.config)


def test_name_in_an_option_of_a_plugin_is_not_imported(payload, install):
    """A plugin that builds another one, by a name that is an option of type str."""
    source = """
        import densevit
from densevit.config.values import with_value
        class Outer(densevit.Backbone):
            def __init__(self, inner: str, others: tuple[str, ...] = ()):
                super().__init__()
                self.inner = densevit.create_backbone(others[0] if others else inner, depth=18)
    """
    install("outer", "[densevit.backbones]\nouter = outer_net:Outer\n", {"outer_net.py": source})
    on_the_path(payload)
    for options in ({"inner": "payload:Net"}, {"inner": "resnet", "others": ["payload:Net"]}):
        with refuses(file := naming({"backbone": {"name": "outer", **options}}), "payload:Net"):
            densevit.load(file)


def test_lightning_checkpoint_imports_no_module(payload):
    file = naming({"backbone.name": "payload:Net"})
    state = {f"model.{key}": value for key, value in load_file(file).items()}
    content = {"pytorch-lightning_version": "2.6", "state_dict": state, "densevit": model_file.read(file)[1]}
    torch.save(content, "theirs.ckpt")
    on_the_path(payload)
    with refuses("theirs.ckpt", "payload:Net"):
        densevit.load("theirs.ckpt")
    assert type(densevit.load("theirs.ckpt", trust=True).backbone).__module__ == "payload"


def forget() -> None:
    """As in another process."""
    sys.modules.pop("payload", None)
    sys.path[:] = [entry for entry in sys.path if entry != os.getcwd()]


def test_own_run_needs_no_trust_but_its_model_file_does(payload, capsys):
    """A run with classes of the module in the working directory, trained there."""
    values = copy.deepcopy(VALUES)
    values["backbone"]["name"], values["data"]["name"] = "payload:Net", "payload:Data"
    values["optim"] = {"name": "payload:Adam"}
    run = densevit.fit(values, run_dir=payload / "mine").path
    Image.fromarray(IMAGE).save("image.png")
    for arguments in (
        ["evaluate", str(run), "data.batch_size=2"],
        ["predict", str(run), "image.png", "--out", "predictions"],
        ["train", "--resume", str(run), "trainer.max_steps=2"],
    ):
        forget()
        assert main(arguments) == 0, capsys.readouterr().err
    forget()
    with refuses(run / "model.safetensors", "payload:Adam"):
        densevit.load(run / "model.safetensors")
    assert type(densevit.load(run).backbone).__module__ == "payload"


COMMANDS = {
    "evaluate": ["theirs.safetensors", "data.batch_size=2"],
    "predict": ["theirs.safetensors", "image.png", "--out", "out"],
    "export": ["theirs.safetensors", "--out", "out.pt2"],
    "data prelabel": ["theirs.safetensors", "out", "labels.json"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_imports_a_module_only_with_trust(name, payload, capsys):
    Image.fromarray(IMAGE).save("image.png")
    naming({"backbone.name": "payload:Net"})
    on_the_path(payload)
    command = [*name.split(), *COMMANDS[name]]
    assert main(command) == 2
    assert "theirs.safetensors: 'payload:Net' is named in this file" in capsys.readouterr().err
    assert "payload" not in sys.modules
    if name != "export":  # slow
        main([*command, "--trust"])
        assert "payload" in sys.modules and "is named in" not in capsys.readouterr().err


def test_predicting_needs_no_path_of_the_header(payload):
    """Those of the training: its data and its weights, which do not exist here; they need no trust."""
    weights = dict.fromkeys(("weights", "backbone.weights", "heads.surfaces.weights"), str(payload / "secret.pth"))
    data = {"name": "coco", "root": str(payload / "secret"), "image_size": 64}
    predictor = densevit.load(naming({"data": data, **weights}))
    predictor.predict(IMAGE)
    densevit.save(predictor, "copy.safetensors")
