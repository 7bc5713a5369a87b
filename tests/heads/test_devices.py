"""Heads, losses and evaluators on a simulated accelerator: no mixed devices and no synchronisation."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from densevit import config as configs
from densevit.config import Config
from densevit.data.build import Data, build_data
from densevit.interfaces import Backbone, Batch
from densevit.layers import table_cache
from densevit.losses.context import LossContext
from densevit.model import DenseModel
from densevit.training.loop.evaluators import build_evaluators
from densevit.weights.building import build_model
from tests.strict_device import DEVICE, Accelerator, host, moved

pytestmark = pytest.mark.integration

BASE: dict[str, Any] = {
    "backbone": {"name": f"{__name__}:Convolutions"},
    "data": {
        "name": "scenes", "train_length": 4, "val_length": 2, "image_size": 64, "batch_size": 2, "num_workers": 0,
    },
    "optim": {"lr": 1e-3},
    "trainer": {"max_epochs": 1, "precision": "32", "accelerator": "cpu", "log_every": 1},
}  # fmt: skip
BACKBONES: dict[str, dict[str, Any]] = {  # of heads that need another one, and one with windows
    "segformer": {"name": "swin", "variant": "nano", "window_size": 4, "stem": "conv"},
    **{f"eomt-{task}": {"name": "vit", "variant": "nano"} for task in ("panoptic", "instance", "semantic")},
}
DETECTION = {
    "name": "dab_detr", "num_queries": 8, "classification": "mal",
    "transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 32},
    "extensions": {"stride": 8, "fusion_blocks": 1, "denoising": 1, "dense_loss": 1.0},
}  # fmt: skip
SURFACES = {
    "name": "setr", "decoder": "mla", "width": 16, "branch_width": 8, "auxiliary": [], "norm": "batch",
    "class_weights": "balanced",
}  # fmt: skip
PLAIN = {
    "name": "detr", "num_queries": 4,
    "transformer": {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 16,
                    "dropout": 0.0},
}  # fmt: skip
DEFORMABLE = {
    "name": "deformable_detr", "num_queries": 4,
    "transformer": {"width": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 16,
                    "dropout": 0.0},
}  # fmt: skip
RTDETR = {
    **DEFORMABLE, "name": "rtdetr", "contrastive_denoising": 4,
    "encoder": {"width": 16, "feedforward": 16, "expansion": 0.5},
}  # fmt: skip
PANOPTIC = {
    "name": "detr_panoptic", "detr": {"num_queries": 16, "transformer": PLAIN["transformer"]}, "threshold": 0.0,
}  # fmt: skip
MASK2FORMER = {
    "num_queries": 8, "transformer": {"width": 32, "num_heads": 2, "decoder_layers": 2, "feedforward": 16},
    "pixel_decoder": {"layers": 1, "feedforward": 16}, "num_points": 64,
}  # fmt: skip
EOMT = {"num_queries": 8, "num_blocks": 2, "num_points": 64}
DPT = {"name": "dpt", "width": 8}
HEADS: dict[str, dict[str, Any]] = {
    "detr": PLAIN,
    "detr-learned-positions": {**PLAIN, "positions": "learned"},
    "dab-detr": {**PLAIN, "name": "dab_detr", "extensions": {"denoising": 2}},
    "dab-detr-all-options": {
        **DETECTION, "extensions": {**DETECTION["extensions"], "position_bias": True, "two_stage": True},
    },
    "ddq": {**PLAIN, "name": "ddq", "fusion_blocks": 1},
    "deformable-detr": DEFORMABLE,
    "deformable-detr-two-stage": {**DEFORMABLE, "box_refinement": True, "two_stage": True},
    "dino": {
        **DEFORMABLE,
        "name": "dino",
        "classification": "varifocal",
        "contrastive_denoising": 4,
    },
    "rtdetr": RTDETR,
    "dfine": {
        **RTDETR, "name": "dfine", "fusion_blocks": 1, "num_points": [2, 1, 3], "training_layers": 1, "layer_scale": 2,
    },
    "rtdetr-discrete": {**RTDETR, "sampling": "discrete", "num_points": [2, 1, 3]},
    "one-stage": {"name": "one_stage", "width": 16, "fusion_blocks": 1},
    "fcos": {"name": "fcos", "width": 64},
    "segmenter": {"name": "segmenter", "width": 16, "num_heads": 2, "dropout": 0.0},
    "detr-panoptic": PANOPTIC,
    "detr-panoptic-frozen": {**PANOPTIC, "freeze_detector": True},
    "mask2former-panoptic": {"name": "mask2former", **MASK2FORMER},
    "mask2former-instance": {"name": "mask2former_instance", **MASK2FORMER},
    "mask2former-options": {
        "name": "mask2former_instance", **MASK2FORMER, "pixel_decoder": {"layers": 1, "fusion_blocks": 1},
        "semantic_loss": 2.0,
    },
    "mask2former-semantic": {"name": "mask2former_semantic", **MASK2FORMER},
    "eomt-panoptic": {"name": "eomt", **EOMT},
    "eomt-instance": {"name": "eomt_instance", **EOMT},
    "eomt-semantic": {"name": "eomt_semantic", **EOMT},
    "segformer": {"name": "segformer", "width": 16, "dropout": 0.0},
    "upernet": {"name": "upernet", "width": 16, "auxiliary_width": 16, "dropout": 0.0},
    "setr-naive": {"name": "setr", "decoder": "naive", "width": 16, "auxiliary": [1]},
    "setr-pup": {"name": "setr", "decoder": "pup", "width": 16, "auxiliary": []},
    "setr-mla": SURFACES,
    "dpt-relative": DPT,
    "dpt-relative-gradient": {**DPT, "loss_weights": {"gradient": 1.0, "trimmed": 0.0}},
    **{f"dpt-{output}": {**DPT, "output": output, "max_depth": 60.0} for output in ("sigmoid", "bins", "inverse")},
    "dpt-softplus": {**DPT, "output": "softplus", "loss_weights": {"l1": 1.0, "gradient": 0.5}},
    "dpt-segmentation": {"name": "dpt_segmentation", "width": 8, "dropout": 0.0},
}  # fmt: skip
# Of the matching costs, and of the ids of segments in panoptic and label maps, back to the CPU.
TRANSFERS = {
    "detr": 1, "detr-learned-positions": 1, "dab-detr": 1, "dab-detr-all-options": 1, "ddq": 1, "deformable-detr": 1,
    "deformable-detr-two-stage": 2, "dino": 2, "rtdetr": 2, "rtdetr-discrete": 2, "dfine": 1,
    "detr-panoptic": 2, "detr-panoptic-frozen": 2, "mask2former-panoptic": 2,
    "mask2former-instance": 1, "mask2former-options": 1, "mask2former-semantic": 2,
    "eomt-panoptic": 2, "eomt-instance": 1, "eomt-semantic": 2,
}  # fmt: skip
# torchvision's losses index by lists and masks and read counts: they wait for the device. Its box coder copies numbers
# to the device in each forward pass of faster_rcnn: that head is not among HEADS.
WAITING = {"fcos"}

Setup = tuple[DenseModel, Data, Config]


class Convolutions(Backbone):
    """One convolution per feature: a simulated accelerator takes a millisecond for each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (16, 32, 48, 64), (4, 8, 16, 32)
        sizes = zip((3, *self.channels), self.channels, (4, 2, 2, 2), strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(inputs, outputs, k, k) for inputs, outputs, k in sizes)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        return [x := stage(x) for stage in self.stages]


@pytest.fixture(scope="module", params=HEADS)
def built(request: pytest.FixtureRequest) -> Setup:
    """A model with one head of HEADS, and its data. Read only."""
    torch.manual_seed(0)
    head = HEADS[request.param]
    panoptic = "panoptic" in request.param
    masks = panoptic or head["name"] in ("mask2former_instance", "eomt_instance")
    data = {**BASE["data"], "masks": masks, "panoptic": panoptic}
    backbone = BACKBONES.get(request.param, BASE["backbone"])
    config = configs.from_mapping({**BASE, "backbone": backbone, "heads": {request.param: head}, "data": data})
    loaded = build_data(config)
    return build_model(config, loaded.classes), loaded, config


@pytest.fixture
def setup(built: Setup, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """`built`, with a copy of the model."""
    monkeypatch.setattr(table_cache, "_CACHE", {})  # other tests may have cached tables of the same device, meta
    return copy.deepcopy(built[0]), *built[1:]


def batches(data: Data) -> list[Batch]:
    """Labelled, half labelled and unlabelled batches."""
    labelled = next(iter(data.train_loader()))
    bare = [{key: target[key] for key in ("image_id", "size", "original_size")} for target in labelled["targets"]]
    half = [labelled["targets"][0], *bare[1:]]
    return [{**labelled, "targets": targets} for targets in (labelled["targets"], half, bare)]  # type: ignore[typeddict-item]


def on_accelerator(batch: Batch) -> Batch:
    targets = [
        {key: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for key, value in target.items()}
        for target in batch["targets"]
    ]
    return {
        "images": batch["images"].to(DEVICE),
        "padding_mask": batch["padding_mask"].to(DEVICE),
        "targets": targets,
    }


@pytest.mark.parametrize("targets_on", ["accelerator", "cpu"])
def test_a_training_step_mixes_no_devices_and_synchronises_only_for_matching(setup: Setup, targets_on: str) -> None:
    """Also without float64, which Apple GPUs lack."""
    model, data, config = setup
    [name] = config.heads
    if targets_on == "cpu" and not any(kind in name for kind in ("detr", "ddq", "dino")):
        return  # maps are as large as images and are copied with them
    if name in WAITING:
        pytest.skip("torchvision's losses wait for the device")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for batch in batches(data):
        model.load_state_dict(state)
        torch.manual_seed(1)
        expected = model.train().loss(model(batch), batch["targets"], LossContext())
        reference = copy.deepcopy(model)
        reference.load_state_dict(state)
        accelerator = Accelerator(torch.float64)
        with accelerator:
            moved(reference)
            there = on_accelerator(batch)
            if targets_on == "cpu":
                there["targets"] = batch["targets"]
            accelerator.waits.clear()
            torch.manual_seed(1)
            losses = reference.loss(reference(there), there["targets"], LossContext())
            torch.stack(list(losses.values())).sum().backward()
            some = any("boxes" in target for target in batch["targets"])
            assert dict(accelerator.waits) == ({"to the CPU": TRANSFERS[name]} if name in TRANSFERS and some else {})
        for key, value in expected.items():
            torch.testing.assert_close(host(losses[key]).detach(), value.detach(), rtol=1e-4, atol=1e-4)


def test_losses_under_fp16_autocast_are_finite(setup: Setup) -> None:
    """Logits of several hundred: fp16 overflows in exponentials and squares."""
    model, data, _ = setup
    model.train()
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.mul_(4)
    for batch in batches(data):
        with torch.autocast("cpu", torch.float16):
            losses = model.loss(model(batch), batch["targets"])
        assert all(torch.isfinite(value) for value in losses.values()), losses
        torch.stack(list(losses.values())).sum().backward()


def test_accelerator_predictions_are_evaluated_with_cpu_ground_truth(setup: Setup) -> None:
    model, data, config = setup
    [batch, *_] = list(data.val_loader())
    model.eval()
    expected, evaluators = model.infer(batch), build_evaluators(model, config, data.val)
    found_by = build_evaluators(model, config, data.val)
    truths = [target["truth"] for target in batch["targets"]]
    for name, evaluator in evaluators.items():
        evaluator.update(expected[name], truths)
    with torch.no_grad(), Accelerator(torch.float64):
        moved(model)
        found = model.infer(on_accelerator(batch))
        for name, evaluator in found_by.items():
            evaluator.update(found[name], truths)
            assert evaluator.compute() == pytest.approx(evaluators[name].compute(), abs=1e-4, nan_ok=True)
    for name in found.keys() - evaluators.keys():
        for own, other in zip(found[name], expected[name], strict=True):
            for key, value in other.items():
                torch.testing.assert_close(host(own[key]), value, rtol=1e-4, atol=1e-3)


def test_a_forward_pass_under_fake_tensors_stays_on_its_device(setup: Setup) -> None:
    model, data, _ = setup
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    fakes = [tree_map_only(torch.Tensor, mode.from_tensor, batch) for batch in batches(data)]
    for part in model.modules():
        for own in (part._parameters, part._buffers):
            own.update({k: None if v is None else mode.from_tensor(v.detach()) for k, v in own.items()})
    with mode:
        for part in model.modules():
            for own in (part._parameters, part._buffers):
                own.update({k: None if v is None else v.to("cuda") for k, v in own.items()})
        for fake in fakes:
            batch = tree_map_only(torch.Tensor, lambda x: x.to("cuda"), fake)
            for outputs in model.train()(batch).values():
                tensors = [x for x in tree_leaves(dict(outputs)) if isinstance(x, torch.Tensor)]
                assert tensors and all(x.device.type == "cuda" for x in tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_step_synchronises_only_for_matching(setup: Setup, recwarn: pytest.WarningsRecorder) -> None:
    model, data, config = setup
    [name] = config.heads
    if name in WAITING:
        pytest.skip("torchvision's losses wait for the device")
    batch = batches(data)[1]
    model.cuda().train()
    there: Any = {key: batch[key].cuda() for key in ("images", "padding_mask")}  # type: ignore[literal-required]
    targets = [{k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in batch["targets"]]
    for step in range(2):  # the first one chooses kernels
        torch.cuda.set_sync_debug_mode("warn" if step else "default")
        recwarn.clear()
        warnings.simplefilter("always")  # also several of one line
        losses = model.loss(model({**there, "targets": targets}), targets)
        torch.stack(list(losses.values())).sum().backward()
    torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in recwarn if "synchroniz" in str(warning.message)]
    assert len(waits) == TRANSFERS.get(name, 0), waits
