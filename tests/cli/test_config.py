"""densevit/cli/config.py: the batch of each of several processes that keeps the recipe's images per step."""

import pytest

from densevit.cli import main


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (  # of the authors: 2 images on each of 8 GPUs
            "coco/dino_r50_12ep trainer.devices=8",
            "8 processes: data.batch_size=2 trainer.accumulate=1 optim.lr=0.0001 optim.backbone_lr=1e-05 "
            "(16 images a step, the recipe 16)",
        ),
        (  # of the authors: 4 on each of 16
            "coco/detr_r50 trainer.devices=8 trainer.num_nodes=2 data.batch_size=1",
            "16 processes: data.batch_size=4 trainer.accumulate=1 optim.lr=0.0001 optim.backbone_lr=1e-05 "
            "(64 images a step, the recipe 64)",
        ),
        (
            "coco/rtdetr_r50 trainer.devices='0,2,3'",  # 16 images: 5 on each
            "3 processes: data.batch_size=5 trainer.accumulate=1 optim.lr=9.375e-05 optim.backbone_lr=9.375e-06 "
            "(15 images a step, the recipe 16)",
        ),
        ("imagenet/mae_vit_base trainer.devices=2", "data.batch_size=64 trainer.accumulate=32 (4096 images"),
        ("coco/dino_r50_12ep trainer.devices='0,'", ""),
    ],
)
def test_batch_of_several_processes(words: str, fact: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *words.split()]) == 0
    comments = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    assert (fact in comments[-1]) if fact else len(comments) == 1  # the first line has the format
