"""densevit/training/loop/validation_loop.py: validations in any Trainer."""

from collections.abc import Sequence

import pytest

import densevit
from densevit.evaluation.coco_ap import CocoDetection
from densevit.inference.model_creation import create_model
from densevit.inference.model_loading import load
from densevit.interfaces import Class
from densevit.training.loop.evaluator_factory import ValidationLoss
from tests.training.loop.test_dense_module import PLAIN, SCENES


class Measured(CocoDetection):
    """With this score threshold; None: of too few objects."""

    def __init__(self, classes: Sequence[Class], threshold: float | None = 0.25) -> None:
        super().__init__(classes)
        self.score_threshold = lambda *_: threshold  # type: ignore[method-assign]


@pytest.mark.integration
def test_any_trainer_sets_the_score_thresholds_at_validation(tmp_path):
    """And replaces those of a former training; sanity checks and evaluations do not."""
    import pytorch_lightning as lightning
    import yaml

    from densevit.training.loop.dense_module import DenseModule
    from tests.training.runs import TINY

    data = densevit.DenseDataModule(SCENES)
    classes = data.data.classes["detection"]
    evaluators = {threshold: {"detection": Measured(classes, threshold)} for threshold in (0.25, None)}
    predictor = create_model({"name": "swin", "variant": "nano"}, yaml.safe_load(TINY)["heads"], classes)
    saves = lightning.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    options = {**PLAIN, "enable_checkpointing": True, "callbacks": [saves], "num_sanity_val_steps": 1}
    lightning.Trainer(max_steps=3, **options).fit(DenseModule(predictor, evaluators=evaluators[0.25]), data)
    densevit.save(predictor, tmp_path / "model.safetensors")
    files = (tmp_path / "model.safetensors", tmp_path / "last.ckpt")
    assert [load(file).score_thresholds for file in files] == [{"detection": 0.25}] * 2

    again = load(files[0])
    module = DenseModule(again, evaluators=evaluators[None])
    lightning.Trainer(**PLAIN).validate(module, data, verbose=False)
    lightning.Trainer(max_steps=1, limit_val_batches=1, check_val_every_n_epoch=9, **PLAIN).fit(module, data)
    assert again.score_thresholds == {"detection": 0.25}
    lightning.Trainer(max_steps=3, **PLAIN).fit(module, data)
    assert again.score_thresholds == {}


def test_the_loss_is_of_the_step_of_the_validation() -> None:
    from tests.training.loop.test_dense_module import CLASSES, loader, module_of, trainer_of
    from tests.training.own_callbacks import Seen

    shares: list[float] = []
    shares_of_method: list[float] = []
    module, later = (module_of(evaluators={"map": ValidationLoss(CLASSES)}, optim={"lr": 0.1}) for _ in "12")
    for one in (module, later):
        one.model.heads["map"].set_progress = shares.append
        one.model.heads["map"].loss = lambda outputs, targets, context: {
            "l": 0 * outputs["logits"].sum() + min(context.step, 1000) + shares[-1]
        }
    module.method.set_progress = shares_of_method.append
    seen = Seen("map/loss")
    trainer_of(max_epochs=3, callbacks=[seen], num_sanity_val_steps=0).fit(module, loader(8), loader(5))
    assert seen.values == pytest.approx([4 + 4 / 12, 8 + 8 / 12, 12 + 1])
    assert shares_of_method == shares
    trainer_of().validate(later, loader(5), verbose=False)
    assert later.validation.metrics == {"map/loss": 1001.0}  # as at the end of a training
