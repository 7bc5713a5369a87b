"""The table of Lightning's options in docs/lightning.md: each trains as a loop by hand, or is refused in one line."""

import inspect
import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import densevit
from densevit.data.data_splits import DataSplits
from densevit.errors import ConfigError
from densevit.evaluation.depth_errors import DepthErrors
from densevit.interfaces import Head
from densevit.model import DenseModel
from tests.small_models import Pixels
from tests.training.process_groups import in_two_processes, linux

pytestmark = pytest.mark.integration
PAGE = Path(__file__).parents[3] / "docs" / "lightning.md"
BATCHES, IMAGES = 6, 5  # of an epoch, of a validation
SECTION = {"name": "scenes", "image_size": 32, "num_workers": 0, "train_length": 12, "val_length": IMAGES}
OPTIM: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.0, "schedule": "cosine"}
PLAIN: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip
SURROUNDINGS = {  # of a training, without effect on it
    *PLAIN, "devices", "num_nodes", "callbacks", "plugins", "default_root_dir", "enable_autolog_hparams",
    "model_registry", "limit_test_batches", "limit_predict_batches",
}  # fmt: skip
DTYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


class Brightness(Head):
    """Depth as a linear function of the pixels. Its loss reads float and run-length targets."""

    task, required_targets, progress = "depth", ("depth", "masks", "boxes"), 0.0

    def __init__(self, channels: Any, strides: Any, classes: Any) -> None:
        super().__init__(channels, strides, classes)
        self.weight, self.bias = nn.Parameter(torch.full((3,), 0.1)), nn.Parameter(torch.full((1,), 5.0))

    def forward(self, features: Any, padding_mask: Any, targets: Any = None) -> dict[str, Tensor]:
        return {"depth": (features[0] * self.weight[:, None, None]).sum(1) + self.bias}

    def loss(self, outputs: Any, targets: Any, context: Any) -> dict[str, Tensor]:
        total = 0 * outputs["depth"].sum()
        for x, target in zip(outputs["depth"], targets, strict=True):
            if "depth" in target:
                assert target["depth"].dtype == target["boxes"].dtype == torch.float32
                height, width = target["depth"].shape
                total = total + (x[:height, :width] - target["depth"]).abs().mean() / len(targets)
        return {"l1": total * (1 + self.progress)}

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def predict(self, outputs: Any, targets: Any) -> list[dict[str, Tensor]]:
        pairs = zip(outputs["depth"], targets, strict=True)
        return [{"depth": x[: t["size"][0], : t["size"][1]].float().clamp(min=0.1)} for x, t in pairs]


def model_of() -> DenseModel:
    """With a parameter of one dimension, as FSDP shards no scalars."""
    backbone = Pixels()
    backbone.scale = nn.Parameter(torch.ones(1))
    return DenseModel(backbone, {"depth": Brightness((3,), (1,), ())})


def splits(batch_size: int = 2) -> DataSplits:
    section = densevit.config.section("data", {**SECTION, "batch_size": batch_size}, "test")
    return DataSplits(section, 0, size_divisor=1)


# ---- the table ----


def rows() -> Iterator[tuple[str, str]]:
    """The options of the table, as keyword arguments, and whether they are supported."""
    [table] = re.findall(r"\| options of the Trainer .*?\n\n", PAGE.read_text(), re.DOTALL)
    for line in table.strip().splitlines()[2:]:
        options, supported = line.strip("| ").split(" | ")  # `yes`, or else refused here
        yield from ((option, supported) for option in re.findall("`([^`]+)`", options))


def options_of(code: str) -> dict[str, Any]:
    from pytorch_lightning.strategies import ModelParallelStrategy

    options: dict[str, Any] = eval(f"dict({code})", {"ModelParallelStrategy": ModelParallelStrategy})
    if "gradient_clip_algorithm" in options:
        options["gradient_clip_val"] = 0.1
    if not options.keys() & {"max_steps", "max_epochs", "max_time"}:
        options["max_epochs"] = 2
    return options


ROWS = dict(rows())
SEVERAL = {code for code in ROWS if code.startswith(("strategy", "sync_batchnorm", "use_distributed_sampler"))}


# ---- the reference ----


def steps_of(options: dict[str, Any]) -> list[list[Any]]:
    """The batches of each optimiser step."""
    limit = next((options[k] for k in ("fast_dev_run", "overfit_batches", "limit_train_batches") if k in options), 1.0)
    count = int(BATCHES * limit) if isinstance(limit, float) else min(BATCHES, limit)
    size, steps = options.get("accumulate_grad_batches", 1), []
    for epoch in range(1 if "fast_dev_run" in options else options.get("max_epochs", 1)):
        loader = splits().train_loader()
        loader.set_epoch(0 if "overfit_batches" in options else epoch)
        batches = list(loader)[:count]
        steps += [batches[i : i + size] for i in range(0, count, size)]
    return steps[: options.get("max_steps")]


def validations_of(options: dict[str, Any]) -> int:
    if "max_steps" in options:
        return 0  # within the first epoch
    interval = options.get("val_check_interval", 1.0)
    every = interval if isinstance(interval, int) else int(BATCHES * interval)
    epochs = 1 if "fast_dev_run" in options else options["max_epochs"]
    return epochs // options.get("check_val_every_n_epoch", 1) * (BATCHES // every)


def reference(options: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, float], list[float]]:
    """The weights after training, the metrics of the last validation and the learning rates."""
    precision, steps = options.get("precision", "32-true"), steps_of(options)
    model = model_of().to(DTYPES.get(precision, torch.float32)).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    mixed = torch.autocast("cpu", torch.bfloat16) if "mixed" in precision else nullcontext()
    clip = options.get("gradient_clip_val")
    rates = [OPTIM["lr"] * 0.5 * (1 + math.cos(math.pi * number / len(steps))) for number in range(len(steps))]
    for number, batches in enumerate(steps):
        context = densevit.LossContext(step=number)
        model.heads["depth"].set_progress(number / len(steps))
        optimizer.param_groups[0]["lr"] = rates[number]
        for batch in batches:
            with mixed:
                losses = model.losses_of(model(batch), batch["targets"], context)
            (torch.stack(list(losses.values())).sum() / len(batches)).backward()
        if clip and "gradient_clip_algorithm" in options:
            nn.utils.clip_grad_value_(model.parameters(), clip)
        elif clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.state_dict()), metrics(model, options) if validations_of(options) else {}, rates


def metrics(model: DenseModel, options: dict[str, Any]) -> dict[str, float]:
    limit = next((options[k] for k in ("fast_dev_run", "overfit_batches", "limit_val_batches") if k in options), 1.0)
    batches, evaluator = list(splits().val_loader()), DepthErrors(())
    count = int(len(batches) * limit) if isinstance(limit, float) else limit
    for batch in batches[:count]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled="mixed" in options.get("precision", "")):
            predictions = model.eval().infer(batch)["depth"]
        truths = [
            t["truth"] | {"size": t["original_size"], "original_size": t["original_size"]} for t in batch["targets"]
        ]
        evaluator.update(predictions, truths)
    return {f"depth/{name}": value for name, value in evaluator.metrics().items()}


# ---- the Trainer ----


def trained(options: dict[str, Any], batch_size: int = 2) -> Any:
    """The weights after training, the metrics of the last validation, the learning rates and the validations."""
    import pytorch_lightning as lightning

    rates: list[float] = []
    validations: list[bool] = []
    record = lightning.callbacks.LambdaCallback(
        on_before_optimizer_step=lambda trainer, module, optimizer: rates.append(optimizer.param_groups[0]["lr"]),
        on_validation_end=lambda trainer, module: validations.append(not trainer.sanity_checking),
    )
    module = densevit.DenseModule(model_of(), OPTIM)
    trainer = lightning.Trainer(**{**PLAIN, "callbacks": [record], **options})
    trainer.fit(module, densevit.DenseDataModule(splits(batch_size)))
    state, metrics = module.model.state_dict(), module.validation.metrics if any(validations) else {}
    state = {name: x.full_tensor() if hasattr(x, "full_tensor") else x for name, x in state.items()}
    return state, metrics, rates, sum(validations)


def assert_as_by_hand(code: str, result: Any) -> None:
    options = options_of(code)
    state, metrics, rates = reference(options)
    tolerance = {"bf16-mixed": 1e-2, "16-mixed": 1e-2, "bf16-true": 1e-2, "16-true": 1e-2}
    rel = tolerance.get(options.get("precision", ""), 1e-5)
    for name, x in state.items():
        torch.testing.assert_close(result[0][name], x, rtol=rel, atol=rel)
    assert result[1:] == (pytest.approx(metrics, rel=rel), pytest.approx(rates), validations_of(options))


def assert_refused(code: str, message: str) -> None:
    assert code.split("=")[0] in message and "Fix: " in message and "\n" not in message


@pytest.fixture
def settings() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("code", sorted({code for code in ROWS if ROWS[code].startswith("yes")} - SEVERAL))
def test_an_option_trains_as_a_loop_by_hand(code: str) -> None:
    options = options_of(code)
    if "barebones" in options:
        options["num_sanity_val_steps"] = None
    assert_as_by_hand(code, trained(options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", sorted({code for code in ROWS if not ROWS[code].startswith("yes")} - SEVERAL))
def test_an_option_is_refused_in_one_line(code: str) -> None:
    with pytest.raises(ConfigError) as error:
        trained(options_of(code))
    assert_refused(code, str(error.value))


@linux
@pytest.mark.filterwarnings("ignore")
def test_options_of_several_processes(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        results: dict[str, Any] = {}
        for code in sorted(SEVERAL):
            try:
                results[code] = trained({"strategy": "ddp", **options_of(code), "devices": 2}, batch_size=1)
            except ConfigError as error:
                results[code] = str(error)
        torch.save(results, tmp_path / f"{rank}.pt")

    in_two_processes(work, tmp_path)
    for rank in (0, 1):
        for code, result in torch.load(tmp_path / f"{rank}.pt").items():
            check = assert_as_by_hand if ROWS[code].startswith("yes") else assert_refused
            check(code, result)


def test_the_table_has_all_options_of_lightnings_trainer() -> None:
    import pytorch_lightning as lightning

    named = {code.split("=")[0] for code in ROWS}
    assert named | set(SURROUNDINGS) == inspect.signature(lightning.Trainer).parameters.keys()
