"""A DETR-like head of another package, made of `densevit.set_prediction`, in the checks and in a training."""

import functools
from pathlib import Path

import pytest

import densevit
from densevit.set_prediction.transformer import Transformer
from densevit.testing import check_head

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def on_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project / "examples" / "plugins" / "queries")


def test_it_passes_the_checks_of_heads():
    from queries import RealTimeDetr

    small = Transformer(32, 2, 1, 2, 32)
    check_head(functools.partial(RealTimeDetr, num_queries=5, transformer=small, contrastive_denoising=6))


def test_it_trains_two_steps(tmp_path: Path):
    layers = "{width: 32, num_heads: 2, encoder_layers: 1, decoder_layers: 2, feedforward: 32}"
    run = densevit.fit(
        "detector",
        [
            "backbone.variant=nano", f"heads.detection={{name: 'queries:RealTimeDetr', transformer: {layers}}}",
            "heads.detection.transformer.decoder_layers=1", "heads.detection.num_queries=8",
            "data={name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 4, val_length: 2}",
            "trainer={max_steps: 2, accelerator: cpu}",
        ],
        run_dir=tmp_path / "run",
    )  # fmt: skip
    assert 0 <= run.metrics["detection/AP"] <= 1
    head = densevit.load(run.path).heads["detection"]
    assert len(head.decoder) == 1 and head.num_queries == 8
