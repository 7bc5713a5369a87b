"""What metrics.csv and loggers get: learning rates by part, gradient norm, speed, data wait and memory."""

from pathlib import Path

import pytest
import torch

import densevit
from densevit import config as configs
from tests.training.run.test_resume_safely import TINY
from tests.training.runs import rows


@pytest.mark.integration
@pytest.mark.usefixtures("no_drawings")
def test_a_row_has_rates_gradient_norm_speed_and_memory(tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import LambdaCallback

    (tmp_path / "tiny.yaml").write_text(TINY)
    overrides = [
        "trainer.max_steps=3", "trainer.log_every=2", "optim.backbone_lr=1e-4", "optim.weight_decay=0.1",
        "trainer.clip_grad_norm=0.01", "trainer.loggers=[]", "data.train_length=8", "optim.schedule=constant",
    ]  # fmt: skip
    norms: list[float] = []

    def note(trainer, module, optimizer):
        squares = [p.grad.double().square().sum() for p in module.parameters() if p.grad is not None]
        norms.append(float(torch.stack(squares).sum().sqrt()))

    callbacks = [LambdaCallback(on_before_optimizer_step=note)]
    run = densevit.fit(configs.load(tmp_path / "tiny.yaml", overrides), run_dir=tmp_path / "run", callbacks=callbacks)
    steps = [row for row in rows(run.path) if row["train/loss"]]
    assert [row["step"] for row in steps] == ["0", "1", "2"]  # short trainings have a row each step
    for row, norm in zip(steps, norms, strict=True):
        assert float(row["train/gradient_norm"]) == pytest.approx(norm, rel=1e-5)
        assert float(row["train/lr/backbone"]) == pytest.approx(1e-4)
        assert float(row["train/lr/heads.surfaces"]) == float(row["train/lr"]) == pytest.approx(1e-3)
        assert float(row["system/images_per_second"]) > 0
        assert 0 <= float(row["system/data_wait"]) <= 1
        assert 0.05 < float(row["system/memory_gb"]) < 100


def test_learning_rates_are_named_by_part_not_by_value() -> None:
    from densevit.training.callbacks.step_metrics import learning_rates  # late: it imports Lightning

    model = torch.nn.ModuleDict({name: torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in "12") for name in "ab"})
    (a1, a2), (b1, b2) = (list(model[name]) for name in "ab")
    rates = {1e-3: [*a1.parameters()], 2e-3: [*a2.parameters()], 4e-3: [*b1.parameters(), *b2.parameters()]}
    deep = torch.nn.ModuleDict({"x": model, "y": torch.nn.Linear(1, 1)})
    groups = [{"params": params, "lr": lr} for lr, params in rates.items()]
    assert learning_rates(torch.optim.SGD(groups), model) == {"a.0": 1e-3, "a.1": 2e-3, "b": 4e-3}
    groups = [*groups, {"params": [deep["y"].weight], "lr": 5e-3}]
    assert learning_rates(torch.optim.SGD(groups), deep) == {"x.a": 1e-3, "x.a-2": 2e-3, "x.b": 4e-3, "y.weight": 5e-3}
    mixed = [{"params": [a1.weight, b1.weight], "lr": 1e-3}, {"params": [a1.bias], "lr": 2e-3}]
    assert learning_rates(torch.optim.SGD(mixed), model) == {"model": 1e-3, "a.0": 2e-3}
