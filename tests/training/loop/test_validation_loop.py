"""densevit/training/loop/validation_loop.py: validations in any Trainer."""

from typing import TYPE_CHECKING

import pytest

import densevit
from densevit.inference.model_creation import create_model
from densevit.inference.model_loading import load
from densevit.training.loop.evaluator_factory import ValidationLoss
from tests.training.loop.test_dense_module import PLAIN, SCENES

if TYPE_CHECKING:
    pass


@pytest.mark.integration
def test_any_trainer_sets_the_score_thresholds_at_validation(tmp_path, monkeypatch):
    """And replaces those of a former training; sanity checks and evaluations do not."""
    import pytorch_lightning as lightning
    import yaml

    from densevit.evaluation.coco_ap import CocoDetection
    from densevit.training.loop.dense_module import DenseModule
    from tests.training.runs import TINY

    measured: list[float | None] = [0.25]
    monkeypatch.setattr(CocoDetection, "score_threshold", lambda *_: measured[0])
    heads = yaml.safe_load(TINY)["heads"]
    data = densevit.DenseDataModule(SCENES)
    predictor = create_model({"name": "swin", "variant": "nano"}, heads, data.data.classes["detection"])
    saves = lightning.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    options = {**PLAIN, "enable_checkpointing": True, "callbacks": [saves], "num_sanity_val_steps": 1}
    lightning.Trainer(max_steps=3, **options).fit(DenseModule(predictor), data)
    densevit.save(predictor, tmp_path / "model.safetensors")
    files = (tmp_path / "model.safetensors", tmp_path / "last.ckpt")
    assert [load(file).score_thresholds for file in files] == [{"detection": 0.25}] * 2

    measured[0] = None  # too few objects
    again = load(files[0])
    lightning.Trainer(**PLAIN).validate(DenseModule(again), data, verbose=False)
    lightning.Trainer(max_steps=1, limit_val_batches=1, check_val_every_n_epoch=9, **PLAIN).fit(
        DenseModule(again), data
    )
    assert again.score_thresholds == {"detection": 0.25}
    lightning.Trainer(max_steps=3, **PLAIN).fit(DenseModule(again), data)
    assert again.score_thresholds == {}


def test_the_loss_is_of_the_step_of_the_validation() -> None:
    from tests.training.loop.test_dense_module import CLASSES, loader, module_of, trainer_of
    from tests.training.own_callbacks import Seen

    module = module_of(evaluators={"map": ValidationLoss(CLASSES)}, optim={"lr": 0.1})
    shares: list[float] = []
    module.model.heads["map"].set_progress = shares.append
    shares_of_method: list[float] = []
    module.method.set_progress = shares_of_method.append
    module.model.heads["map"].loss = lambda outputs, targets, context: {
        "l": 0 * outputs["logits"].sum() + context.step + shares[-1]
    }
    seen = Seen("map/loss")
    trainer_of(max_epochs=3, callbacks=[seen], num_sanity_val_steps=0).fit(module, loader(8), loader(5))
    assert seen.values == pytest.approx([4 + 4 / 12, 8 + 8 / 12, 12 + 1])
    assert shares_of_method == shares
    later = module_of(evaluators={"map": ValidationLoss(CLASSES)})
    later.model.heads["map"].set_progress = shares.append
    later.model.heads["map"].loss = lambda outputs, targets, context: {
        "l": 0 * outputs["logits"].sum() + shares[-1] + (context.step > 10**9)
    }
    trainer_of().validate(later, loader(5), verbose=False)
    assert later.validation.metrics == {"map/loss": 2.0}  # as at the end of a training
