"""Models inside of wrappers: all public functions that take a model x all wrappers."""

import copy
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import densevit
from densevit.errors import DensevitError
from densevit.interfaces import as_classes
from densevit.model import DenseModel, unwrapped
from tests.counted_dataset import CountedDataset
from tests.small_models import NAIVE


class Images(CountedDataset):
    """An image with a label map."""

    classes: ClassVar[Any] = {"segmentation": as_classes(["road", "sky"])}
    provides = ("semantic",)

    def sizes(self) -> Any:
        return np.full((1, 2), 32)

    def __getitem__(self, index: int) -> Any:
        image = torch.arange(3 * 32 * 32, dtype=torch.int).view(3, 32, 32).remainder(256).to(torch.uint8)
        return {"image": image, "targets": {"image_id": index, "semantic": (image[0] > 128).byte()}}


def scaled(model: DenseModel, factor: float) -> DenseModel:
    """A copy with other weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= factor
    return other


def averaged(model: DenseModel) -> nn.Module:
    """The average of half of the weights and one and a half of them."""
    wrapper = AveragedModel(scaled(model, 0.0))
    for factor in (0.5, 1.5):
        wrapper.update_parameters(scaled(model, factor))
    return wrapper


def in_fabric(model: DenseModel) -> nn.Module:
    from lightning_fabric import Fabric  # late: it takes seconds to import

    return Fabric(accelerator="cpu", devices=1).setup(model)


WRAPPERS: dict[str, Callable[[DenseModel], nn.Module]] = {
    "DataParallel": DataParallel,
    "DistributedDataParallel": DistributedDataParallel,
    "AveragedModel": averaged,
    "torch.compile": torch.compile,
    "Fabric": in_fabric,
    "DenseModule": lambda model: densevit.DenseModule(model),
    "two": lambda model: torch.compile(DataParallel(model)),
}


class Doors:
    """Each public function that takes a model, and what depends on the model in its result."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def path(self) -> Path:
        self.count += 1
        return self.folder / str(self.count)

    def save(self, model: Any) -> Any:
        densevit.save(model, file := self.path().with_suffix(".safetensors"))
        return densevit.load(file).fingerprint()

    def load(self, model: Any) -> Any:
        return densevit.load(self.folder / "other.safetensors", model=model).fingerprint()

    def run(self, model: Any) -> Any:
        return densevit.Run(self.folder / "run", model).model.fingerprint()

    def evaluate(self, model: Any) -> Any:
        return densevit.evaluate(model, Images())

    def inspect_model(self, model: Any) -> Any:
        return densevit.inspect_model(model, Images()[0]["image"]).layers[0].weights.tolist()

    def export(self, model: Any) -> Any:
        with pytest.raises(DensevitError) as error:  # before it traces, which takes seconds
            densevit.export(model, self.path().with_suffix(".pt2"), canvas=(33, 33))
        return str(error.value)

    def fit(self, model: Any) -> Any:
        keys = {"max_steps": 1, "batch_size": 1, "num_workers": 0, "run_dir": self.path(), "precision": "32"}
        run = densevit.fit(model, train=Images(), val=Images(), **keys)
        return run.model.fingerprint()

    def densemodule(self, model: Any) -> Any:
        return densevit.DenseModule(model).model.fingerprint()

    def create_method(self, model: Any) -> Any:
        return densevit.create_method("mean_teacher", model).teacher.fingerprint()

    def create_optimizer(self, model: Any) -> Any:
        groups = densevit.create_optimizer(model, lr=0.1).param_groups
        return [parameter.tolist() for group in groups for parameter in group["params"]]

    def prelabel(self, model: Any) -> Any:
        with pytest.raises(DensevitError) as error:  # without predictions, or of another model
            densevit.prelabel(self.folder / "predicted", model, self.path())
        return str(error.value)

    def push_to_hub(self, model: Any) -> Any:
        with pytest.raises(DensevitError) as error:  # before it connects
            densevit.push_to_hub(model, "ann/model", benchmarks={"segmentation/mIoU": "ann"})
        return str(error.value)


def takes_model(public: Any) -> bool:
    """Whether a public function has a parameter of a model."""
    if isinstance(public, type) and issubclass(public, BaseException):
        return False
    kinds = [str(parameter.annotation) for parameter in inspect.signature(public).parameters.values()]
    return any(model in kind for kind in kinds for model in ("DenseModel", "InferenceModel"))


DOORS = [name for name, value in vars(Doors).items() if inspect.isfunction(value) and name not in ("__init__", "path")]
SLOW = ("fit",)


def test_each_public_function_that_takes_a_model_is_a_door() -> None:
    assert {name.lower() for name in densevit.__all__ if takes_model(getattr(densevit, name))} == {*DOORS}


@pytest.fixture(scope="module")
def model() -> DenseModel:
    torch.manual_seed(0)
    built = densevit.create_model({"name": "vit", "variant": "nano"}, NAIVE, ["road", "sky"]).eval()
    return built.bfloat16().float()  # averages are exact


@pytest.fixture
def doors(model: DenseModel, tmp_path: Path) -> Doors:
    other = scaled(model, 0.5)
    densevit.save(other, tmp_path / "other.safetensors")
    (tmp_path / "run").mkdir()
    densevit.save(other, tmp_path / "run" / "model.safetensors")
    (tmp_path / "predicted").mkdir()
    (tmp_path / "predicted" / "predict.json").write_text(json.dumps({"weights": model.fingerprint()}))
    return Doors(tmp_path)


@pytest.fixture
def process() -> Iterator[None]:
    """One process of distributed training."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "door", [pytest.param(name, marks=[pytest.mark.integration] * (name in SLOW)) for name in DOORS]
)
def test_every_door_takes_the_model_inside_of_every_wrapper(door: str, model: DenseModel, doors: Doors, process: None):
    """AveragedModel: the averaged weights."""
    result_of = getattr(doors, door)
    torch.manual_seed(0)
    expected = result_of(copy.deepcopy(model))
    for wrap in WRAPPERS.values():
        torch.manual_seed(0)
        assert result_of(wrap(copy.deepcopy(model))) == expected, wrap


@pytest.mark.parametrize("wrong", [nn.Linear(1, 1), DataParallel(nn.Linear(1, 1))], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("door", DOORS)
def test_another_object_is_an_error_with_the_fix(door: str, wrong: nn.Module, doors: Doors):
    message = rf"the model is a {type(wrong).__name__}; .*Fix: pass the DenseModel itself"
    if door in ("export", "prelabel", "push_to_hub"):
        assert re.search(message, getattr(doors, door)(wrong))
        return
    with pytest.raises(DensevitError, match=message):
        getattr(doors, door)(wrong)


@pytest.mark.parametrize("door", ["save", "load", "evaluate", "inspect_model"])
def test_a_model_without_values_is_an_error(door: str, model: DenseModel, doors: Doors):
    with pytest.raises(DensevitError, match=rf"{door}: the model is on the meta device, .* Fix: build it outside"):
        getattr(doors, door)(copy.deepcopy(model).to("meta"))


def test_a_module_of_a_teacher_is_saved_as_the_teacher_and_trained_as_the_student(model: DenseModel):
    method = densevit.create_method("mean_teacher", model)
    module = densevit.DenseModule(model, method=method)
    assert unwrapped(module, "save") is method.teacher is not model
    assert densevit.DenseModule(module).model is model
