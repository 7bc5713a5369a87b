"""What a training starts from that continues a model on more data, and what of its config gives way."""

from typing import Any

import pytest
import torch
import yaml

import densevit
from densevit import config as configs
from tests.training.runs import SEGMENTATION, assert_same

CONFIG: dict[str, Any] = {
    **yaml.safe_load(SEGMENTATION),
    "heads": {
        "detection": {"name": "one_stage", "width": 16, "fusion_blocks": 1},
        "segmentation": {"name": "setr", "decoder": "naive", "width": 8, "norm": "group"},
        "depth": {"name": "dpt", "width": 8},
    },
    "trainer": {"max_steps": 1, "accelerator": "cpu"},
}


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_on_more_data_a_training_starts_from_all_tensors_and_other_weights_give_way(tmp_path, capsys):
    from densevit.training.run.inputs import TrainingInputs
    from densevit.training.run.plan import Plan

    model = densevit.create_model(configs.from_mapping(CONFIG), pretrained=False)
    for value in model.model.parameters():
        value.data += 0.1 * torch.randn(value.shape)
    path = tmp_path / "model.safetensors"
    densevit.save(model, path)
    (tmp_path / "preset.yaml").write_text("name: swin\nvariant: nano\nwindow_size: 4\nweights: gone.pth\n")
    (tmp_path / "mine.yaml").write_text(configs.dump(configs.from_mapping(CONFIG)))
    overrides = [f"backbone={tmp_path / 'preset.yaml'}", f"weights={path}", "data.train_length=6"]
    run = densevit.fit(tmp_path / "mine.yaml", overrides, run_dir=tmp_path / "run")
    printed = " ".join(capsys.readouterr().out.split())
    assert "backbone.weights=gone.pth (" in printed and f"gives way to weights={path} (command line)." in printed
    config = configs.load(run.path)
    assert config.weights == str(path) and config.backbone.weights is None and not config.notes

    plan, old = Plan.of(TrainingInputs.of(config)), model.model.state_dict()
    [report] = plan.loaded
    assert_same(plan.model.state_dict(), old)
    assert report.loaded == len(old) and not (report.left_out or report.initialised or report.notes)
