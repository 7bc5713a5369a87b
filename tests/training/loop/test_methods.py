"""Training methods with modules of their own, several views, and a backbone without heads."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import densevit
from densevit.config.values import with_value
from densevit.data.data_builder import build_data
from densevit.errors import ConfigError, DataError, PluginError, WeightsError
from densevit.inference.model_loading import load
from densevit.losses.context import LossContext
from densevit.training.loop.unused_parameters import freeze_unused
from densevit.training.run.config_checks import check_model
from densevit.weights.pretrained_models import build_model
from tests.training.own_methods import Denoising, Multicrop, Silent, Teacher, config
from tests.training.process_groups import child, linux
from tests.training.runs import assert_same, assert_same_run, checkpoint, weights

# ---- views ----


def test_a_batch_has_the_first_views_and_then_the_others_also_after_resuming_within_an_epoch() -> None:
    made = with_value(config(), ("data", "num_workers"), 1)
    plain, data = build_data(made), build_data(made)
    data.use(Denoising(build_model(made, {})))
    loader, resumed = data.train_loader(), data.train_loader()
    batches = []
    for one, batch in zip(plain.train_loader(), loader, strict=True):
        if not batches:
            resumed.load_state_dict(loader.state_dict())
        batches.append(batch)
        [other] = batch["other_views"]
        ids = [target["image_id"] for target in one["targets"]]
        assert [[target["image_id"] for target in view["targets"]] for view in (batch, other)] == [ids, ids]
        assert torch.equal(batch["images"], one["images"])  # the first views are those of a training with one
        for a, b in zip(batch["images"], other["images"], strict=True):
            assert a.shape != b.shape or not torch.equal(a, b)
        assert other["padding_mask"].shape == (2, *other["images"].shape[2:])
    for batch, other in zip(batches[1:], resumed, strict=True):
        for view, same in zip((batch, *batch["other_views"]), (other, *other["other_views"]), strict=True):
            assert torch.equal(view["images"], same["images"])


def test_a_transform_can_make_all_views_of_one_geometry_or_of_several_sizes() -> None:
    """Weak and strong colours of one crop, and two small crops. Each is padded to its own size."""
    from densevit.training.loop.dense_module import DenseModule

    plain, data = build_data(config(Multicrop)), build_data(config(Multicrop))
    method = Multicrop(build_model(config(), {}))
    for _ in range(2):  # that of the method before has no effect
        data.use(method)
    for one, other in zip(plain.val_loader(), data.val_loader(), strict=True):
        assert torch.equal(one["images"], other["images"])
    for batch in data.train_loader():
        strong, *crops = batch["other_views"]
        inverted = torch.where(batch["padding_mask"][:, None], 0, 255 - batch["images"])
        assert torch.equal(strong["images"], inverted) and len(batch["images"]) == 2
        for one, other in zip(batch["targets"], strong["targets"], strict=True):
            assert len(one["boxes"]) and torch.equal(one["boxes"], other["boxes"])
        assert [crop["images"].shape for crop in crops] == [(2, 3, 32, 32)] * 2  # a multiple of 32
        assert [[t["size"] for t in crop["targets"]] for crop in crops] == [[(16, 16)] * 2, [(16, 8)] * 2]
        assert not torch.equal(crops[0]["images"], crops[1]["images"])
    module = DenseModule(build_model(config(), {}))
    moved = module.transfer_batch_to_device(batch, torch.device("meta"), 0)
    for view in (moved, *moved["other_views"]):
        assert view["images"].device.type == view["padding_mask"].device.type == "meta"
    assert all(target["boxes"].device.type == "meta" for target in moved["other_views"][0]["targets"])
    method.views = 3
    data.use(method)
    with pytest.raises(DataError, match=r"returned 4 views of an image; its `views` is 3\. Fix: "):
        next(iter(data.train_loader()))


# ---- parameters ----


def test_parameters_unused_by_a_method_are_frozen_for_several_processes() -> None:
    import pytorch_lightning as lightning

    from densevit.training.loop.dense_module import DenseModule

    model = build_model(config(), {})
    method = Denoising(model)
    both = nn.ModuleDict({"model": model, "method": method})
    random_state = torch.get_rng_state()
    unused = freeze_unused(model, method)
    parts = [("backbone", model.backbone), ("method", method)]
    assert sorted(unused) == [f"{name}.unused.{kind}" for name, _ in parts for kind in ("bias", "weight")]
    frozen = {name for name, p in both.named_parameters() if not p.requires_grad}
    teacher = {f"method.teacher.{name}" for name, _ in method.teacher.named_parameters()}
    assert frozen == {name.replace("backbone", "model.backbone") for name in unused} | teacher
    assert torch.equal(torch.get_rng_state(), random_state)
    other = DenseModule(model := build_model(config(), {}), method=Denoising(model))
    other.trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    other.setup("fit")  # in a Trainer of one's own
    assert not model.backbone.unused.weight.requires_grad and model.backbone.norm.weight.requires_grad


# ---- runs ----

OPTIM = {"lr": 0.01, "backbone_lr": 0.001, "lr_factors": {"method.decoder.*": 10}}
STEPS: dict[str, Any] = {"max_steps": 7, "checkpoint_every": 2, "accumulate": 2, "ema": 0.8, "evaluate_every": 0.99}


@pytest.mark.integration
@linux
def test_killed_run_continues_exactly_and_its_average_is_validated(tmp_path):
    """Decoder, teacher and its counter, noise and views. The method's parameters have rates."""
    from tests.training.own_callbacks import Quit

    made = config(trainer=STEPS, optim=OPTIM)
    process = child(lambda: densevit.fit(made, run_dir=tmp_path / "killed", callbacks=[Quit(5)]))
    process.join(120)
    assert process.exitcode == 9
    killed = densevit.fit(resume=tmp_path / "killed")
    whole = densevit.fit(made, run_dir=tmp_path / "whole")
    assert_same_run(whole.path, killed.path)
    rates = " ".join((whole.path / "log.txt").read_text().split())
    for row in (r"backbone\.\S+ 0\.001", r"method\.decoder\.\S+ 0\.1", r"method\.unused\.\S+ 0\.01", r"\S+ frozen"):
        assert re.search(row, rates), rates

    content = checkpoint(whole.path)
    assert {group["initial_lr"] for group in content["optimizer_states"][0]["param_groups"]} == {0.1, 0.01, 0.001}
    average, current = content["state_dict"], content["current_model_state"]
    assert average["method.updates"] == 7  # once for each optimiser step
    assert not torch.equal(average["method.decoder.weight"], current["method.decoder.weight"])
    assert torch.equal(average["method.unused.weight"], current["method.unused.weight"])
    model = build_model(made, {}).eval()
    method = Denoising(model).eval()
    nn.ModuleDict({"model": model, "method": method}).load_state_dict(average)
    assert whole.metrics == {"method/loss": pytest.approx(mean_loss(method, model, build_data(made)), rel=1e-6)}
    saved = load_file(whole.path / "model.safetensors")
    assert saved and all(torch.equal(x, average[f"model.{name}"]) for name, x in saved.items())


def mean_loss(method: Any, model: Any, data: Any) -> float:
    """Over the validation images."""
    with torch.no_grad():
        losses = [method.validation_losses(model.eval(), batch) for batch in data.val_loader()]
    return float(torch.cat(losses).mean())


@pytest.mark.integration
def test_without_validation_loss_the_latest_weights_are_saved(tmp_path: Path, recwarn: Any) -> None:
    run = densevit.fit(config(Silent), run_dir=tmp_path / "run")
    assert not [str(warning.message) for warning in recwarn if "not defined" in str(warning.message)]
    assert run.metrics == {} and "or its method has no validation loss" in (run.path / "report.html").read_text()
    saved, latest = load_file(run.path / "model.safetensors"), weights(run.path)
    assert saved and all(torch.equal(x, latest[f"model.{name}"]) for name, x in saved.items())


SURFACES = {"heads": {"surfaces": {"name": "setr", "decoder": "naive", "width": 8, "auxiliary": [], "norm": "group"}}}


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_the_model_that_a_method_names_is_validated_and_saved(tmp_path: Path) -> None:
    made = config(Teacher, {"evaluate_every": 0.99}, **SURFACES)
    run = densevit.fit(made, run_dir=tmp_path / "run")
    content, saved = checkpoint(run.path), load_file(run.path / "model.safetensors")
    state = content["state_dict"]
    assert all(torch.equal(x, state[f"method.teacher.{name}"]) for name, x in saved.items())
    assert not torch.equal(saved["backbone.convolution.weight"], state["model.backbone.convolution.weight"])
    trained = sum(len(group["params"]) for group in content["optimizer_states"][0]["param_groups"])
    assert trained == len([*build_model(made, build_data(made).train).parameters()])  # not those of the teacher
    assert densevit.evaluate(run.path) == pytest.approx(run.metrics, rel=1e-6, nan_ok=True)
    for source in (run.path, run.path / "checkpoints" / "last.ckpt"):  # as the start of a training, too
        assert_same(load(source, trust=True).model.state_dict(), saved)


@pytest.mark.integration
def test_wrong_methods_are_errors_with_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(inference={"flip": True})
    with pytest.raises(ConfigError, match=r"inference\.flip=true averages dense maps, but this model has no heads\."):
        check_model(made, build_data(made), build_model(made, {}))
    run = densevit.fit(config(), run_dir=tmp_path / "run")
    monkeypatch.setattr(Denoising, "kernel", 3)
    with pytest.raises(WeightsError, match=r"method\.decoder\.weight has shape \(3, 4, 1, 1\); .* \(3, 4, 3, 3\)"):
        densevit.fit(resume=run.path)
    monkeypatch.setattr(Silent, "training_step", lambda self, model, *_: model.backbone.convolution.bias)
    monkeypatch.setattr(Teacher, "saved_model", lambda self, model: copy.deepcopy(model))
    for wrong, error, message in (
        (config(optim={"lr_factors": {"method.encoder.*": 10}}), ConfigError, r"optim\.lr_factors.*method\.encoder"),
        (
            config(Silent),
            PluginError,
            r"method Silent: training_step returned float32 \(4,\); a dict of scalar tensors",
        ),
        (config(Teacher), PluginError, r"method Teacher: its saved_model returned a DenseModel; .* Fix: create it"),
    ):
        with pytest.raises(error, match=message):
            densevit.fit(wrong, run_dir=tmp_path / wrong.method.name.partition(":")[2])


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "options"), [("supervised", {}), ("simmim", {}), ("mae", {"width": 32, "depth": 1, "num_heads": 2})]
)
def test_every_method_runs_the_compiled_blocks(name: str, options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    heads = {"x": {"name": "setr", "width": 8}} if name == "supervised" else {}
    model = densevit.create_model({"name": "vit", "variant": "nano"}, heads, {"x": ["a", "b"]} if heads else {}).model
    graphs: list[Any] = []
    model.train().compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    method = densevit.create_method(name, model, **options).train()
    target = {"size": (64, 64), "original_size": (64, 64), "semantic": torch.ones(64, 64, dtype=torch.uint8)}
    view = {
        "images": torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8),
        "padding_mask": torch.zeros(2, 64, 64, dtype=torch.bool),
        "targets": [{"image_id": i, **target} for i in range(2)],
    }
    batch: Any = view | ({"other_views": [view] * (method.views - 1)} if method.views > 1 else {})
    method.training_step(model, batch, LossContext())
    assert graphs
