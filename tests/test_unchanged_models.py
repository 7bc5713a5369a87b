"""A call leaves the model that it gets as it found it: one walk over all public callables that take a model."""

import inspect
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.interfaces import Batch
from densevit.model import DenseModel, InferenceModel
from densevit.model.tensor_batches import as_batch
from tests.checkpoints.conftest import use
from tests.checkpoints.hub_server import hub_server
from tests.inference.own_parts import Halves, Labels
from tests.small_models import FourMaps


class Dropped(FourMaps):
    """Draws random numbers in training mode, and fails if `fails` is set."""

    fails = False

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.fails:
            raise RuntimeError("the backbone fails")
        return [nn.functional.dropout(x, 0.1, self.training) for x in super().forward(images)]


class Scheduled(Labels):
    """Has a state of the training's progress, as EoMT."""

    def __init__(self, channels: Any, strides: Any, classes: Any) -> None:
        super().__init__(channels, strides, classes)
        self.register_buffer("share", torch.full((2,), 0.25), persistent=False)
        self.progress = 0.25

    def set_progress(self, progress: float) -> None:
        self.progress = progress
        self.share.fill_(progress)


def subject() -> DenseModel:
    """A model within a training: with gradients, frozen parameters, modules in evaluation mode, hooks and a cache."""
    torch.manual_seed(0)
    model = densevit.create_model(
        Dropped, {"x": Scheduled, "y": Labels}, {"x": ["left", "right"], "y": ["left", "right"]}
    )
    model = model.with_resize(DefaultTransforms(64))
    model.train()
    model.backbone.norm.eval()
    model.heads["y"].layers[0].eval()
    model.backbone.layers[1].weight.requires_grad_(False)
    model.backbone.register_forward_hook(keep)
    model.heads["x"].register_forward_pre_hook(keep_inputs)
    torch.stack([*model.loss(images(), labels()).values()]).sum().backward()
    model.cache = Reader(model)
    return model


def keep(module: nn.Module, inputs: Any, outputs: Any) -> None:
    """A user's hook."""


def keep_inputs(module: nn.Module, inputs: Any) -> None:
    """A user's hook."""


class Reader:
    """A user's cache."""

    def __init__(self, model: DenseModel) -> None:
        self.backbone = model.backbone

    def __call__(self, images: Tensor) -> list[Tensor]:
        return self.backbone(images)


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)


def labels() -> Tensor:
    return torch.zeros(2, 64, 64, dtype=torch.uint8)


# ---- what is compared ----

KINDS = (
    "parameters", "gradients", "requires_grad", "buffers", "modes", "hooks", "attributes", "cache", "random states",
    "grad mode",
)  # fmt: skip
SEPARATE = {"_parameters", "_buffers", "_modules", "training", "cache"}


class Same:
    """Equals another one of the same objects, or of equal numbers and texts; keeps them, so that ids stay unique."""

    def __init__(self, *objects: Any) -> None:
        self.objects = objects
        self.values = [x if isinstance(x, int | float | str) else id(x) for x in objects]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.values == other.values


def state(model: DenseModel) -> dict[str, dict[str, Any]]:
    """What a call could change, by kind and name."""
    parts: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        parts["parameters"][name] = (Same(parameter), parameter.detach().clone())
        parts["gradients"][name] = (Same(gradient), None if gradient is None else gradient.clone())
        parts["requires_grad"][name] = parameter.requires_grad
    for name, buffer in model.named_buffers():
        parts["buffers"][name] = buffer.clone()
    for name, module in model.named_modules():
        parts["modes"][name] = module.training
        for key, value in vars(module).items():
            if "hooks" in key:
                parts["hooks"][f"{name}.{key}"] = Same(*(value or {}).values())
            elif key not in SEPARATE:
                parts["attributes"][f"{name}.{key}"] = (Same(value), set(value) if isinstance(value, set) else None)
        parts["attributes"][f"{name}.children"] = Same(*module.children())
    parts["cache"][""] = Same(model.cache)
    numpy_state: Any = np.random.get_state()
    parts["random states"] |= {"torch": torch.get_rng_state(), "random": random.getstate()}
    parts["random states"]["numpy"] = (numpy_state[1].tolist(), *numpy_state[2:])
    parts["grad mode"][""] = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    return parts


def equal(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return before.dtype == after.dtype and torch.equal(before, after)
    if type(before) is tuple and type(after) is tuple:
        return len(before) == len(after) and all(map(equal, before, after))
    return bool(before == after)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of what differs, by kind."""
    differing = {}
    for kind, values in before.items():
        names = [x for x in {**values, **after[kind]} if not equal(values.get(x), after[kind].get(x))]
        if names:
            differing[kind] = names
    return differing


# ---- the public callables that take a model ----

_MODEL = re.compile(r"\b(DenseModel|InferenceModel|Backbone|Head|Neck|Method|Module)\b")


def takes_a_model(function: Any) -> bool:
    """By the annotations of its parameters; one without a type takes a model if it is named so."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # exceptions
        return False
    return any(_MODEL.search(str(x.annotation)) or (x.name == "model" and x.annotation is Any) for x in parameters)


def public_functions() -> list[str]:
    """The public functions and classes that take a model."""
    return [name for name in densevit.__all__ if callable(x := getattr(densevit, name)) and takes_a_model(x)]


def public_attributes(functions: bool) -> list[str]:
    """The public methods of models, or their other attributes."""
    names = dict.fromkeys([*vars(InferenceModel), *vars(DenseModel)])
    public = [name for name in names if not name.startswith("_")]
    is_function = {name: inspect.isfunction(inspect.getattr_static(DenseModel, name)) for name in public}
    return [f"model.{name}" for name in public if is_function[name] == functions]


class Call(NamedTuple):
    """How the walk calls a name. changes: the kinds that the call may change, for this purpose."""

    call: Callable[[DenseModel, Path], Any]
    changes: tuple[str, ...] = ()
    purpose: str = ""


AS_MODULE = "runs the model in its mode, as `nn.Module` does"
RAISE = ("prelabel",)  # without predictions
PIXELS = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
DATA = Halves(3)
PROTOCOL = {
    "probes": {"patches": {"name": "patch_retrieval", "grid": "input"}},
    "data": {"name": "scenes", "image_size": [64, 64], "batch_size": 2, "transforms": "resize", "train_length": 3,
             "val_length": 2, "num_workers": 0},
}  # fmt: skip


def fit(model: DenseModel, folder: Path) -> None:
    keys: dict[str, Any] = {"max_steps": 1, "lr": 1e-3, "batch_size": 2, "num_workers": 0, "accelerator": "cpu"}
    densevit.fit(model, train=DATA, val=DATA, run_dir=folder / "run", precision="32", **keys)
    assert len({part.training for part in model.modules()}) == 1


def probe(model: DenseModel, folder: Path) -> None:
    from densevit_probes.protocols import Protocol  # late: it imports Lightning

    for backbone in (model.backbone, {"name": model.backbone}):
        densevit.probe(backbone, Protocol.of(PROTOCOL, "own", "test"), device="cpu")


def push(model: DenseModel, folder: Path) -> None:
    with hub_server() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_x")
        use(hub.address, folder / "cache", patch)
        densevit.push_to_hub(model, "ann/own")


def load_again(model: DenseModel, folder: Path) -> None:
    densevit.save(model, folder / "m.safetensors")
    densevit.load(folder / "m.safetensors", model=model)


def batch(model: DenseModel) -> Batch:
    return as_batch(images(), model, labels())


def read(model: DenseModel, call: str) -> None:
    """Calls a method with the batch's targets and outputs of another model of the same parts."""
    other = subject()
    targets = batch(other)["targets"]
    with torch.random.fork_rng(devices=[]):
        values = other(batch(other))
    getattr(model, call)(values, targets)


CALLS: dict[str, Call] = {
    "DenseModel": Call(lambda model, _: DenseModel(model.backbone, dict(model.heads))),
    "DenseModule": Call(lambda model, _: densevit.DenseModule(model, {"lr": 1e-3})),
    "Method": Call(lambda model, _: densevit.Method(model)),
    "Run": Call(lambda model, folder: densevit.Run(folder, model)),
    "create_method": Call(lambda model, _: densevit.create_method("supervised", model)),
    "create_model": Call(
        lambda model, _: densevit.create_model(model.backbone, {"x": "setr"}, ["a"]),
        ("modes", "attributes", "random states"),
        "builds a model of the backbone, with random weights of the head, in training mode",
    ),
    "create_optimizer": Call(lambda model, _: densevit.create_optimizer(model, lr=0.1)),
    "evaluate": Call(lambda model, _: densevit.evaluate(model, DATA)),
    "export": Call(lambda model, folder: densevit.export(model, folder / "m.onnx", quiet=True)),
    "fit": Call(fit, ("parameters", "gradients", "buffers", "modes", "attributes"), "trains the model"),
    "inspect_model": Call(lambda model, _: densevit.inspect_model(model, PIXELS)),
    "load": Call(load_again, ("modes", "attributes"), "loads weights and what belongs to them, in evaluation mode"),
    "prelabel": Call(lambda model, folder: densevit.prelabel(folder, model, folder / "a.json")),
    "probe": Call(probe),
    "push_to_hub": Call(push),
    "save": Call(lambda model, folder: densevit.save(model, folder / "m.safetensors")),
    "model.blank_images": Call(lambda model, _: model.blank_images(2, (64, 64))),
    "model.compile": Call(lambda model, _: model.compile(backend="eager"), ("attributes",), "compiles the blocks"),
    "model.encode": Call(lambda model, _: model.encode(batch(model), ["x"]), ("buffers", "random states"), AS_MODULE),
    "model.features": Call(lambda model, _: model.features(images()), ("buffers", "random states"), AS_MODULE),
    "model.fingerprint": Call(lambda model, _: model.fingerprint()),
    "model.forward": Call(lambda model, _: model(batch(model)), ("buffers", "random states"), AS_MODULE),
    "model.head_inputs": Call(
        lambda model, _: model.head_inputs("x", [torch.zeros(2, 8, 16, 16)], images()[:, 0] > 255)
    ),
    "model.infer": Call(lambda model, _: model.infer(batch(model))),
    "model.iterate": Call(lambda model, _: next(iter(model.iterate([PIXELS] * 20, batch_size=1)))),
    "model.loss": Call(lambda model, _: model.loss(images(), labels()), ("buffers", "random states"), AS_MODULE),
    "model.loss_context": Call(lambda model, _: model.loss_context([batch(model)["targets"]])),
    "model.losses_of": Call(lambda model, _: read(model, "losses_of")),
    "model.neck_images": Call(lambda model, _: model.neck_images(images(), images()[:, 0] > 255)),
    "model.normalise": Call(lambda model, _: model.normalise(images(), images()[:, 0] > 255)),
    "model.padded_size": Call(lambda model, _: model.padded_size((50, 70))),
    "model.plugin_name": Call(lambda model, _: model.plugin_name("x")),
    "model.predict": Call(lambda model, _: model.predict([PIXELS] * 3, inference={"flip": True})),
    "model.predictions": Call(lambda model, _: read(model, "predictions")),
    "model.save": Call(lambda model, folder: model.save(folder / "m.safetensors")),
    "model.to_empty": Call(
        lambda model, _: model.to_empty(device="cpu"),
        ("parameters", "gradients", "buffers", "attributes"),
        "empties all tensors",
    ),
    "model.train": Call(lambda model, _: model.train(), ("modes",), "sets the modes"),
    "model.with_config": Call(lambda model, _: model.with_config(model.sections)),
    "model.with_heads": Call(lambda model, _: model.with_heads(["x"])),
    "model.with_inference": Call(lambda model, _: model.with_inference({"flip": True})),
    "model.with_resize": Call(lambda model, _: model.with_resize(DefaultTransforms(32))),
}


CALLS |= {
    name: Call(lambda model, _, name=name: getattr(model, name.removeprefix("model.")))
    for name in public_attributes(functions=False)
}
SLOW = ("export", "fit", "probe")


def test_the_walk_calls_every_public_callable_that_takes_a_model() -> None:
    expected = {*public_functions(), *public_attributes(functions=True), *public_attributes(functions=False)}
    assert expected - CALLS.keys() == set(), "These take a model. Fix: add how to call them to CALLS."
    assert CALLS.keys() - expected == set(), "These are not public. Fix: remove them from CALLS."


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fails", [False, True], ids=["works", "fails"])
@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.integration if x in SLOW else ()) for x in CALLS])
def test_a_call_leaves_the_model_as_it_is(name: str, fails: bool, tmp_path: Path) -> None:
    """Also if the backbone fails."""
    call, kinds, _ = CALLS[name]
    model = subject()
    model.backbone.fails = fails
    before = state(model)
    try:
        call(model, tmp_path)
    except (RuntimeError, densevit.DensevitError):
        assert fails or name in RAISE
    differing = changed(before, state(model))
    assert {kind: names for kind, names in differing.items() if kind not in kinds} == {}
