"""Training methods with modules of their own, several views, and a backbone without heads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import densevit
from densevit.config.values import with_value
from densevit.data.data_builder import build_data
from densevit.inference.model_loading import load
from densevit.training.loop.unused_parameters import freeze_unused
from tests.built_models import build_model
from tests.training.own_methods import Denoising, Teacher, config
from tests.training.runs import assert_same, checkpoint

# ---- views ----


def test_a_batch_has_the_first_views_and_then_the_others() -> None:
    made = with_value(config(), ("data", "num_workers"), 1)
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


# ---- parameters ----


def test_parameters_unused_by_a_method_are_frozen_for_several_processes() -> None:
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


# ---- runs ----


SURFACES = {"heads": {"surfaces": {"name": "setr", "decoder": "naive", "width": 8, "auxiliary": [], "norm": "group"}}}


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_the_model_that_a_method_names_is_validated_and_saved(tmp_path: Path) -> None:
    made = config(Teacher, {"evaluations": 1}, **SURFACES)
    run = densevit.fit(made, run_dir=tmp_path / "run")
    content, saved = checkpoint(run.path), load_file(run.path / "model.safetensors")
    state = content["state_dict"]
    assert all(torch.equal(x, state[f"method.teacher.{name}"]) for name, x in saved.items())
    assert not torch.equal(saved["backbone.convolution.weight"], state["model.backbone.convolution.weight"])
    trained = sum(len(group["params"]) for group in content["optimizer_states"][0]["param_groups"])
    assert trained == len([*build_model(made, build_data(made).train).parameters()])  # not those of the teacher
    assert densevit.evaluate(run.path) == pytest.approx(run.metrics, rel=1e-6, nan_ok=True)
    for source in (run.path, run.path / "checkpoints" / "last.ckpt"):  # as the start of a training, too
        assert_same(load(source, trust=True).state_dict(), saved)
