"""A run that is interrupted goes on to the weights, averages and metrics of one that is not, to the last bit."""

import pytest

from densevit import config as configs
from tests.training.runs import TINY, assert_same_run, checkpoint, interrupted_after, resume, train

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_drawings")]
SHORT = ["trainer.max_epochs=null", "trainer.max_steps=3", "trainer.evaluations=1"]
VIT = "backbone={name: vit, variant: nano, image_size: 64, weights: random, drop_path: 0.0"
CASES: dict[str, tuple[int, list[str]]] = {  # the step after which a run of TINY is interrupted, and its overrides
    "before a validation in the middle of an epoch": (2, []),
    "average, at the end of an epoch": (4, [
        "trainer.ema=0.9", "trainer.ema_warmup=2", "trainer.evaluate_every_epochs=1",
    ]),
    "final phase, in an epoch that is not finished": (5, [
        "trainer.max_epochs=null", "trainer.max_images=14", "data.multi_scale=[32,64]", "data.num_workers=1",
        "data.final_phase={start: 0.6, multi_scale: null, transforms: resize}",
    ]),
    "groups of queries": (3, [
        "backbone={name: windowed_vit, variant: nano, features: [1, 2, 3, 6]}",
        "heads.detection={name: rf_detr, neck: {name: projector, width: 32}, num_queries: 5, num_groups: 3, "
        "transformer: {width: 32, decoder_layers: 2, dropout: 0.1}}",
        "data.image_size=[54, 96]", "trainer.ema=0.9", "trainer.ema_warmup=2",
    ]),
    "annealed masks": (1, [
        *SHORT, "heads.detection=null", "heads.panoptic={name: eomt, num_queries: 8, num_blocks: 2, num_points: 64}",
        VIT + "}", "data.panoptic=true", "trainer.clip_grad_norm=null",
    ]),
    "muon in bf16": (2, [*SHORT, "optim.name=muon", "trainer.precision=bf16-true"]),
    "adapters": (1, [*SHORT, VIT + ', lora: {rank: 2, alpha: 6.0, targets: ["*.qkv", "*.output"]}}']),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_matches_an_uninterrupted_one(case, tiny, tmp_path, trained):
    step, overrides = CASES[case]
    if case == "adapters":
        pytest.importorskip("peft")
    with interrupted_after(step):
        train(configs.load(tiny, overrides), tmp_path / "stopped")
    stopped = tmp_path / "stopped"
    assert checkpoint(stopped)["global_step"] == step
    assert all((stopped / name).is_file() for name in ("metrics.json", "model.safetensors"))
    assert resume(stopped) == stopped
    assert_same_run(trained(TINY, overrides), stopped)
