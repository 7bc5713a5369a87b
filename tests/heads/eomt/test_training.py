"""Training EoMT by `fit`: mask annealing follows the optimiser steps, and a resumed run continues it exactly."""

import pytest
import torch

from densevit import config as configs
from densevit_heads.eomt.annealing import mask_probabilities
from densevit_heads.eomt.head import EncoderOnly

CONFIG = {
    "seed": 0,
    "backbone": {"name": "vit", "variant": "nano", "image_size": 64, "registers": 1, "drop_path": 0.0},
    "heads": {"panoptic": {"name": "eomt", "num_queries": 8, "num_blocks": 2, "num_points": 64}},
    "data": {"name": "scenes", "image_size": 64, "batch_size": 2, "train_length": 8, "val_length": 2, "panoptic": True,
             "semantic": False, "depth": False, "num_workers": 0},
    "trainer": {"max_steps": 4, "accelerator": "cpu", "evaluate_every": 0.5},
}  # fmt: skip


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.integration
def test_resumed_annealing_matches_an_uninterrupted_one(tmp_path, monkeypatch):
    from tests.training.runs import interrupted_after, resume, train

    probabilities = []
    original_progress = EncoderOnly.set_progress

    def record(self, progress):
        original_progress(self, progress)
        probabilities.append(self.mask_probability.tolist())

    monkeypatch.setattr(EncoderOnly, "set_progress", record)
    whole = train(configs.from_mapping(CONFIG), tmp_path / "whole")
    assert probabilities == [pytest.approx(mask_probabilities(step / 4, 2)) for step in range(4)]
    assert probabilities[0] == [1.0, 1.0] and probabilities[3] == [0.0, pytest.approx(0.5**0.9)]
    with interrupted_after(1):
        stopped = train(configs.from_mapping(CONFIG), tmp_path / "stopped")
    probabilities.clear()
    resume(stopped)
    assert probabilities == [pytest.approx(mask_probabilities(step / 4, 2)) for step in range(1, 4)]
    first, second = weights(whole), weights(stopped)
    assert all(torch.equal(first[name], value) for name, value in second.items())
    assert (whole / "metrics.json").read_text() == (stopped / "metrics.json").read_text()
