"""Training methods with modules of their own, several views, and a backbone without heads."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

import densevit
from densevit.config import Config, from_mapping
from densevit.data.build import build_data
from densevit.errors import ConfigError, DataError, PluginError, WeightsError
from densevit.inference.loading import load
from densevit.interfaces import Backbone, Batch, Losses, Method
from densevit.losses.context import LossContext
from densevit.training.loop.unused_parameters import freeze_unused
from densevit.training.run.config_checks import check_model
from densevit.weights.building import build_model
from tests.training.run.test_signals import child
from tests.training.runs import recorded

METHODS_THAT_CALL_THE_BACKBONE: dict[str, dict[str, Any]] = {
    "simmim": {},
    "mae": {"width": 32, "depth": 1, "num_heads": 2},
    "dino": {"local_crops": 0, "prototypes": 16},
    "moco_v3": {"hidden": 8, "width": 8},
    "feature_distillation": {"teacher": {"name": "vit", "variant": "nano"}},
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")


class Pixels(Backbone):
    """A feature of stride 1 and its norm; `unused` gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (4,), (1,)
        self.convolution, self.norm, self.unused = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.norm(self.convolution(images)).relu()]


class Denoising(Method):
    """Removes noise, and predicts the features of a moving average of the backbone on the other view."""

    views = 2

    def __init__(self, model: Any, noise: float = 0.1) -> None:
        super().__init__(model)
        self.noise, self.decoder, self.unused = noise, nn.Conv2d(4, 3, 1), nn.Linear(1, 1)
        self.teacher = copy.deepcopy(model.backbone).requires_grad_(False)
        self.register_buffer("updates", torch.tensor(0))

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        [other] = batch["other_views"]
        first, second = (model.normalise(view["images"], view["padding_mask"]) for view in (batch, other))
        [features] = model.backbone(first + self.noise * torch.randn_like(first))
        [teacher] = self.teacher(second)
        return {
            "denoising": (self.decoder(features) - first).square().mean(),
            "teacher": (features.mean((2, 3)) - teacher.mean((2, 3))).square().mean(),
        }

    def after_step(self, model: Any) -> None:
        self.updates += 1
        for own, other in zip(self.teacher.parameters(), model.backbone.parameters(), strict=True):
            own.lerp_(other, 0.5)

    def validation_losses(self, model: Any, batch: Batch) -> Tensor:
        pixels = model.normalise(batch["images"], batch["padding_mask"])
        return (self.decoder(model.backbone(pixels)[0]) - pixels).square().mean((1, 2, 3))


class Silent(Method):
    """Has no validation loss."""

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        return {"mean": model.backbone(model.normalise(batch["images"], batch["padding_mask"]))[0].square().mean()}


class Bare(Method):
    """Returns a tensor in place of a dict."""

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Any:
        return model.backbone(model.normalise(batch["images"], batch["padding_mask"]))[0].mean((1, 2, 3))


class Cropped(Silent):
    """Trains on the top left quarter of each image, with the config's augmentation."""

    def transform(self, configured: Any) -> Any:
        def quarter(sample: Any, rng: Any, types: Any) -> Any:
            _, height, width = sample["image"].shape
            image, targets = sample["image"], {"image_id": sample["targets"]["image_id"]}
            return configured({"image": image[:, : height // 2, : width // 2], "targets": targets}, rng, types)

        return quarter


class Multicrop(Silent):
    """Four views: the config's, the same with inverted colours, and two crops of it."""

    views = 4

    def transform(self, configured: Any) -> Any:
        def views(sample: Any, rng: Any, types: Any) -> Any:
            weak = configured(sample, rng, types)
            image, targets = weak["image"], weak["targets"]
            crops = [image[:, top : top + 16, :width] for top, width in ((0, 16), (int(rng.integers(1, 4)), 8))]
            ids = {key: targets[key] for key in ("image_id", "original_size")}
            small = [{"image": crop, "targets": {**ids, "size": (*crop.shape[1:],)}} for crop in crops]
            return [weak, {"image": 255 - image, "targets": targets}, *small]

        return views


class Teacher(Silent):
    """Validates and saves a moving average of the model."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.teacher = copy.deepcopy(model).requires_grad_(False)

    def saved_model(self, model: Any) -> Any:
        return self.teacher

    def after_step(self, model: Any) -> None:
        for own, other in zip(self.teacher.parameters(), model.parameters(), strict=True):
            own.lerp_(other, 0.25)


class Loaded(Silent):
    """Has a frozen teacher that its constructor loads."""

    loaded = ("teacher",)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.teacher = nn.Linear(2, 2).requires_grad_(False)
        nn.init.constant_(self.teacher.weight, 3.0)
        self.scale = nn.Parameter(torch.tensor(1.0))


def config(method: type[Method] = Denoising, trainer: dict[str, Any] | None = None, **sections: Any) -> Config:
    values: dict[str, Any] = {
        "backbone": {"name": f"{__name__}:Pixels"},
        "heads": {},
        "method": {"name": f"{method.__module__}:{method.__name__}"},
        "data": {
            "name": "scenes", "image_size": 32, "batch_size": 2, "num_workers": 0, "train_length": 6, "val_length": 3,
        },
        "optim": {"lr": 1e-2},
        "trainer": {"max_steps": 4, "precision": "32", "accelerator": "cpu", "log_every": 1} | (trainer or {}),
    }  # fmt: skip
    return from_mapping(values | sections)


# ---- views ----


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_has_the_first_views_and_then_the_others(num_workers: int) -> None:
    made = config()
    made.data.num_workers = num_workers
    plain, data = build_data(made), build_data(made)
    data.use(Denoising(build_model(made, {})))
    for one, batch in zip(plain.train_loader(), data.train_loader(), strict=True):
        [other] = batch["other_views"]
        ids = [target["image_id"] for target in one["targets"]]
        assert [[target["image_id"] for target in view["targets"]] for view in (batch, other)] == [ids, ids]
        assert torch.equal(batch["images"], one["images"])  # the first views are those of a training with one
        for a, b in zip(batch["images"], other["images"], strict=True):
            assert a.shape != b.shape or not torch.equal(a, b)
        assert other["padding_mask"].shape == (2, *other["images"].shape[2:])


def test_views_are_the_same_after_resuming_within_an_epoch() -> None:
    data = build_data(config())
    data.use(Denoising(build_model(config(), {})))
    loader, resumed = data.train_loader(), data.train_loader()
    stream = iter(loader)
    next(stream)
    resumed.load_state_dict(loader.state_dict())
    for batch, other in zip(stream, resumed, strict=True):
        for view, same in zip((batch, *batch["other_views"]), (other, *other["other_views"]), strict=True):
            assert torch.equal(view["images"], same["images"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_transform_can_make_all_views_of_one_geometry_or_of_several_sizes(num_workers: int) -> None:
    """Weak and strong colours of one crop, and two small crops. Each is padded to its own size."""
    made = config(Multicrop)
    made.data.num_workers = num_workers
    data = build_data(made)
    data.use(Multicrop(build_model(made, {})))
    for batch in data.train_loader():
        strong, *crops = batch["other_views"]
        inverted = torch.where(batch["padding_mask"][:, None], 0, 255 - batch["images"])
        assert torch.equal(strong["images"], inverted) and len(batch["images"]) == 2
        for one, other in zip(batch["targets"], strong["targets"], strict=True):
            assert len(one["boxes"]) and torch.equal(one["boxes"], other["boxes"])
        assert [crop["images"].shape for crop in crops] == [(2, 3, 32, 32)] * 2  # a multiple of 32
        assert [[t["size"] for t in crop["targets"]] for crop in crops] == [[(16, 16)] * 2, [(16, 8)] * 2]
        assert not torch.equal(crops[0]["images"], crops[1]["images"])


def test_a_wrong_number_of_views_is_an_error() -> None:
    data = build_data(config(Multicrop))
    method = Multicrop(build_model(config(), {}))
    method.views = 3
    data.use(method)
    with pytest.raises(DataError, match=r"returned 4 views of an image; its `views` is 3\. Fix: "):
        next(iter(data.train_loader()))


def test_all_views_are_moved_to_the_device() -> None:
    from densevit.training.loop.dense_module import DenseModule

    data = build_data(config(Multicrop))
    data.use(Multicrop(build_model(config(), {})))
    module = DenseModule(build_model(config(), {}))
    batch = module.transfer_batch_to_device(next(iter(data.train_loader())), torch.device("meta"), 0)
    for view in (batch, *batch["other_views"]):
        assert view["images"].device.type == view["padding_mask"].device.type == "meta"
    assert all(target["boxes"].device.type == "meta" for target in batch["other_views"][0]["targets"])


def test_a_method_changes_the_training_transform_only() -> None:
    made = config(Cropped)
    plain, data = build_data(made), build_data(made)
    for _ in range(2):  # that of the method before has no effect
        data.use(Cropped(build_model(made, {})))
    [size] = {target["original_size"] for target in next(iter(plain.train_loader()))["targets"]}
    [half] = {target["original_size"] for target in next(iter(data.train_loader()))["targets"]}
    assert half == (size[0] // 2, size[1] // 2)
    batches = zip(plain.val_loader(), data.val_loader(), strict=True)
    assert all(torch.equal(one["images"], other["images"]) for one, other in batches)


# ---- parameters ----


def test_parameters_unused_by_a_method_are_frozen_for_several_processes() -> None:
    model = build_model(config(), {})
    method = Denoising(model)
    state = {name: x.clone() for part in (model, method) for name, x in part.state_dict().items()}
    random_state = torch.get_rng_state()
    unused = freeze_unused(model, method)
    assert sorted(unused) == [
        "backbone.unused.bias", "backbone.unused.weight", "method.unused.bias", "method.unused.weight",
    ]  # fmt: skip
    frozen = {
        name for name, p in nn.ModuleDict({"model": model, "method": method}).named_parameters() if not p.requires_grad
    }
    teacher = {f"method.teacher.{name}" for name, _ in method.teacher.named_parameters()}
    assert frozen == {name.replace("backbone", "model.backbone") for name in unused} | teacher
    for name, x in [*model.state_dict().items(), *method.state_dict().items()]:
        assert torch.equal(x, state[name]), name
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_trainer_of_ones_own_freezes_parameters_unused_by_the_method() -> None:
    import pytorch_lightning as lightning

    from densevit.training.loop.dense_module import DenseModule

    model = build_model(config(), {})
    module = DenseModule(model, method=Denoising(model))
    module.trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    module.setup("fit")
    assert not model.backbone.unused.weight.requires_grad and not module.method.unused.weight.requires_grad
    assert model.backbone.norm.weight.requires_grad and module.method.decoder.weight.requires_grad


def test_averaged_maps_need_heads() -> None:
    made = config(inference={"flip": True})
    with pytest.raises(ConfigError, match=r"inference\.flip=true averages dense maps, but this model has no heads\."):
        check_model(made, build_data(made), build_model(made, {}))


def test_parameters_of_a_method_have_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optim = {"lr": 0.01, "backbone_lr": 0.001, "lr_factors": {"method.decoder.*": 10}}
    run = densevit.fit(config(optim=optim), run_dir=tmp_path / "run")
    printed = " ".join(capsys.readouterr().out.split())
    for row in ("backbone.* 1-3 0.001", "method.decoder.* 0.1 15", "method.unused.* 0.01 2", "method.teacher.* frozen"):
        assert row in printed, row
    optimizer = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert {group["initial_lr"] for group in optimizer["param_groups"]} == {0.1, 0.01, 0.001}
    with pytest.raises(ConfigError, match=r"optim\.lr_factors.*method\.encoder"):
        densevit.fit(config(optim={"lr_factors": {"method.encoder.*": 10}}), run_dir=tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


# ---- runs ----


@pytest.mark.integration
@linux
@pytest.mark.parametrize("ema", [None, 0.5])
def test_killed_run_continues_exactly(ema: float | None, tmp_path: Path) -> None:
    """Decoder, teacher and its counter, noise and views."""
    from tests.training.own_callbacks import Quit

    made = config(trainer={"max_steps": 7, "checkpoint_every": 2, "accumulate": 2, "ema": ema})
    processes = [
        child(lambda: densevit.fit(made, run_dir=tmp_path / "whole")),
        child(lambda: densevit.fit(made, run_dir=tmp_path / "killed", callbacks=[Quit(5)])),
    ]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 9]
    process = child(lambda: densevit.fit(resume=tmp_path / "killed"))
    process.join(120)
    assert process.exitcode == 0
    whole, killed = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "killed")
    )
    assert whole["state_dict"]["method.updates"] == 7  # once for each optimiser step
    for key in ("state_dict", "current_model_state")[: 1 if ema is None else 2]:
        assert whole[key].keys() == killed[key].keys() >= {"method.decoder.weight", "method.teacher.norm.running_mean"}
        assert all(torch.equal(x, killed[key][name]) for name, x in whole[key].items())
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for read in (recorded, lambda run: (run / "metrics.json").read_text()):
        assert read(folders[0]) == read(folders[1])


def test_resuming_with_another_decoder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = densevit.fit(config(), run_dir=tmp_path / "run")
    original = Denoising.__init__

    def wider(self: Denoising, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.decoder = nn.Conv2d(4, 3, 3, padding=1)

    monkeypatch.setattr(Denoising, "__init__", wider)
    with pytest.raises(
        WeightsError, match=r"method\.decoder\.weight has shape \(3, 4, 1, 1\); the model has \(3, 4, 3,"
    ):
        densevit.fit(resume=run.path)


def test_moving_average_includes_the_method_and_is_what_is_validated(tmp_path: Path) -> None:
    made = config(trainer={"max_steps": 5, "ema": 0.8, "evaluate_every": 0.99})
    run = densevit.fit(made, run_dir=tmp_path / "run")
    state = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    average, current = state["state_dict"], state["current_model_state"]
    key = "method.decoder.weight"
    assert not torch.equal(average[key], current[key])
    assert torch.equal(average["method.unused.weight"], current["method.unused.weight"])
    model = build_model(made, {}).eval()
    method = Denoising(model).eval()
    module = nn.ModuleDict({"model": model, "method": method})
    module.load_state_dict(average)
    with torch.no_grad():
        losses = [method.validation_losses(model, batch) for batch in build_data(made).val_loader()]
    assert run.metrics == {"method/loss": pytest.approx(float(torch.cat(losses).mean()), rel=1e-6)}
    saved = load_file(run.path / "model.safetensors")
    assert {f"model.{name}" for name in saved} == {name for name in average if name.startswith("model.")}
    assert all(torch.equal(x, average[f"model.{name}"]) for name, x in saved.items())


def test_without_validation_loss_the_latest_weights_are_saved(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    run = densevit.fit(config(Silent), run_dir=tmp_path / "run")
    assert not [str(warning.message) for warning in recwarn if "not defined" in str(warning.message)]
    assert json.loads((run.path / "metrics.json").read_text()) == {}
    saved = load_file(run.path / "model.safetensors")
    state = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {name.removeprefix("model.") for name in state}
    assert all(torch.equal(x, state[f"model.{name}"]) for name, x in saved.items())
    assert "or its method has no validation loss" in (run.path / "report.html").read_text()
    printed = capsys.readouterr().out
    assert f"{__name__}:Pixels, method {__name__}:Silent, 0.00 M trained parameters" in printed
    assert "visualizations" not in printed


SURFACES = {"heads": {"surfaces": {"name": "setr", "decoder": "naive", "width": 8, "auxiliary": [], "norm": "group"}}}


def test_the_model_that_a_method_names_is_validated_and_saved(tmp_path: Path) -> None:
    made = config(Teacher, {"evaluate_every": 0.99}, **SURFACES)
    run = densevit.fit(made, run_dir=tmp_path / "run")
    checkpoint = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    state, saved = checkpoint["state_dict"], load_file(run.path / "model.safetensors")
    assert all(torch.equal(x, state[f"method.teacher.{name}"]) for name, x in saved.items())
    assert not torch.equal(saved["backbone.convolution.weight"], state["model.backbone.convolution.weight"])
    trained = sum(len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"])
    assert trained == len([*build_model(made, build_data(made).train).parameters()])  # not those of the teacher
    assert densevit.evaluate(run.path) == pytest.approx(run.metrics, rel=1e-6, nan_ok=True)
    for source in (run.path, run.path / "checkpoints" / "last.ckpt"):  # as the start of a training, too
        loaded = load(source, trust=[__name__]).model.state_dict()
        assert loaded.keys() == saved.keys() and all(torch.equal(x, saved[name]) for name, x in loaded.items())


def test_the_saved_model_must_be_part_of_the_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Teacher, "saved_model", lambda self, model: copy.deepcopy(model))
    with pytest.raises(PluginError, match=r"method Teacher: its saved_model returned a DenseModel; .* Fix: create it"):
        densevit.fit(config(Teacher), run_dir=tmp_path / "run")


def test_a_loaded_teacher_is_in_no_checkpoint_and_not_averaged(tmp_path: Path) -> None:
    made = config(Loaded, {"max_steps": 2, "ema": 0.5})
    run = densevit.fit(made, run_dir=tmp_path / "run")
    checkpoint = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    for key in ("state_dict", "current_model_state"):
        assert [name for name in checkpoint[key] if name.startswith("method.")] == ["method.scale"]
    run = densevit.fit(resume=run.path, overrides=["trainer.max_steps=4"])
    assert torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    method = Loaded(None)
    nn.init.constant_(method.teacher.weight, 5.0)
    method.load_state_dict({"scale": torch.tensor(2.0)})
    assert method.scale == 2 and (method.teacher.weight == 5).all()


def test_wrong_losses_are_an_error_with_what_was_found(tmp_path: Path) -> None:
    expected = r"method Bare: training_step returned float32 \(2,\); a dict of scalar tensors is expected"
    with pytest.raises(PluginError, match=expected):
        densevit.fit(config(Bare), run_dir=tmp_path / "run")


def test_a_trainer_of_ones_own_uses_the_method_without_labels(tmp_path: Path) -> None:
    import pytorch_lightning as lightning

    from densevit.training.callbacks.progress import ProgressLines
    from densevit.training.loop.data_module import DenseDataModule
    from densevit.training.loop.dense_module import DenseModule

    for split, count in (("train", 6), ("val", 3)):
        (tmp_path / split).mkdir()
        for i in range(count):
            pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
    model = build_model(config(), {})
    module = DenseModule(model, {"lr": 1e-2}, method=Denoising(model))
    data = DenseDataModule({"name": "images", "root": str(tmp_path), "image_size": 16, "batch_size": 2})
    lines = ProgressLines(Console(quiet=True))
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[lines], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 6 and module.method.updates == 6
    assert lines.images == 12  # images are counted once, not views
    with torch.no_grad():
        losses = [module.method.validation_losses(model.eval(), batch) for batch in data.val_dataloader()]
    assert module.metrics == {"method/loss": pytest.approx(float(torch.cat(losses).mean()), rel=1e-6)}


@pytest.mark.integration
@pytest.mark.parametrize("name", ["supervised", *METHODS_THAT_CALL_THE_BACKBONE])
def test_every_method_is_compiled_or_says_that_it_is_not(name: str) -> None:
    """With `model.compile()`, as a run calls it, and a backend that counts graphs."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    heads = {"x": {"name": "setr", "width": 8}} if name == "supervised" else {}
    classes = {"x": ["a", "b"]} if heads else {}
    model = densevit.create_model({"name": "vit", "variant": "nano"}, heads, classes).model.train()
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model.compile(backend=count)
    method = densevit.create_method(name, model, **METHODS_THAT_CALL_THE_BACKBONE.get(name, {})).train()
    view = {
        "images": torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8),
        "padding_mask": torch.zeros(2, 64, 64, dtype=torch.bool),
        "targets": [
            {
                "image_id": i,
                "size": (64, 64),
                "original_size": (64, 64),
                "semantic": torch.ones(64, 64, dtype=torch.uint8),
            }
            for i in range(2)
        ],
    }
    batch: Any = view | ({"other_views": [view] * (method.views - 1)} if method.views > 1 else {})
    method.training_step(model, batch, LossContext())
    assert bool(graphs) == method.compiled
