"""Part 1: what only a GPU can show to be right. Each case raises AssertionError, or returns what was measured."""

import re
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from interleaved import wait
from torch import Tensor

import densevit
from densevit.errors import TrainingError
from densevit.reporting.curves import read_curves
from gpu_parts.results import Case, Setting, need
from gpu_parts.training import DTYPES, fit, moved, recipe, set_precision

RECIPES: dict[str, tuple[str, ...]] = {  # without drop path and denoising, whose random numbers differ by device
    "detr_swin": ("heads.detection.extensions.contrastive_denoising=0",),
    "scenes/dino_detr_swin": ("heads.detection.contrastive_denoising=0",),
    "scenes/dfine_swin": ("heads.detection.contrastive_denoising=0",),
    "detector": (),
    "scenes/instance_swin": (),
    "panoptic_swin": (),
    "setr_vit": (),
    "dpt_swin": (),
    "scenes/multitask_swin": ("heads.detection.extensions.denoising=0",),
}
RANDOM_POINTS = ("scenes/instance_swin", "panoptic_swin")  # masks are sampled at random points, drawn on the device
LIMITS = {"cpu": (1e-3, 0.999), "tf32": (2e-2, 0.98), "bf16": (5e-2, 0.9), "fp16": (2e-2, 0.98)}
"""The largest relative difference of the loss from float32, and the least cosine of the gradients."""
SMALL = ("data.image_size=64", "data.batch_size=2")
FIT = (
    "data.num_workers=0", "data.train_length=32", "data.val_length=4", "data.batch_size=4", "trainer.max_images=null",
    "trainer.loggers=[]", "trainer.log_every=1", "trainer.evaluations=1",
)  # fmt: skip


def cases(setting: Setting) -> list[Case]:
    names = ["detr_swin"] if setting.smoke else list(RECIPES)
    optimisers = [("adamw", "32")] if setting.smoke else [
        (name, precision) for name in ("adamw", "sgd", "muon") for precision in ("32", "bf16-mixed", "16-mixed")
    ]  # fmt: skip
    return [
        *((f"losses and gradients, {name}", partial(_precisions, name)) for name in names),
        *([] if setting.smoke else [("tests that need a GPU", tests)]),
        ("trainer.tf32", tf32_key),
        *(
            (f"step with an infinite gradient, {name}, {precision}", partial(_faulty_step, name, precision))
            for name, precision in optimisers
        ),
        *((f"repeated step, {name}", partial(_repeated, name)) for name in names),
        ("evaluation against the CPU", evaluation),
        ("channels-last, resnet", channels_last),
        ("resume after a kill", resume),
    ]


def _precisions(name: str, setting: Setting) -> dict[str, Any]:
    """Loss and gradients on the device in each precision, against float32 without TF32."""
    model, batch = recipe(name, *RECIPES[name], *(SMALL if setting.smoke else ()), randomised=True)
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.eval()
    on_cpu = _loss_and_gradient(model.train(), batch, "fp32", torch.device("cpu"))
    batch = moved(batch, setting.device)
    expected = _loss_and_gradient(model.to(setting.device), batch, "fp32", setting.device)
    measured = {"cpu": on_cpu} if name not in RANDOM_POINTS else {}
    for precision in ("tf32", "bf16", "fp16"):
        measured[precision] = _loss_and_gradient(model, batch, precision, setting.device)
    values: dict[str, Any] = {}
    failed = []
    for other, (loss, gradient) in measured.items():
        difference = abs(loss - expected[0]) / abs(expected[0])
        cosine = float(torch.nn.functional.cosine_similarity(gradient, expected[1], dim=0))
        values |= {f"{other} loss": difference, f"{other} cosine": cosine}
        limits = LIMITS[other]
        if not (difference <= limits[0] and cosine >= limits[1]):  # also for NaN
            failed.append(other)
    return values | {"failed": ", ".join(failed) or "none"}


def _loss_and_gradient(model: Any, batch: dict[str, Any], precision: str, device: torch.device) -> tuple[float, Tensor]:
    """The loss, and all gradients as a float64 vector on the CPU."""
    set_precision(precision)
    torch.manual_seed(0)
    model.zero_grad(set_to_none=True)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    dtype = DTYPES[precision]
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        loss = torch.stack(list(model.losses_of(model(batch), batch["targets"]).values())).sum()
    scale = 1024.0 if precision == "fp16" else 1.0
    (scale * loss).backward()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    gradients = [p.grad.double().flatten().cpu() / scale for p in model.parameters() if p.grad is not None]
    return float(loss), torch.cat(gradients)


def tests(setting: Setting) -> dict[str, Any]:
    """The project's tests with the marker gpu."""
    need("pytest", "xdist")
    root = Path(__file__).parents[3] / "tests"
    files = [str(path) for path in sorted(root.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", "0", "-p", "no:cacheprovider", *files]
    ended = subprocess.run(command, cwd=root.parent, capture_output=True, text=True)
    print(ended.stdout, ended.stderr)
    return {"summary": ended.stdout.strip().splitlines()[-1], "exit code": ended.returncode}


class Probe(lightning.Callback):
    """Measures the rounding of float32 products and convolutions during a run."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(0)
        a, b = torch.randn(2, 512, 512, device=pl_module.device)
        image, kernel = torch.randn(1, 32, 64, 64, device=pl_module.device), torch.randn(32, 32, 3, 3).to(a.device)
        product, convolution = a @ b, torch.nn.functional.conv2d(image, kernel)
        exact = torch.nn.functional.conv2d(image.double(), kernel.double())
        self.product = float((product - (a.double() @ b.double())).abs().max())
        self.convolution = float((convolution - exact).abs().max())


def tf32_key(setting: Setting) -> dict[str, Any]:
    """Errors of a float32 product and convolution during runs without and with `trainer.tf32`: about 1e-4 in float32
    and 1e-2 with TF32, for inputs of magnitude 1 and sums of 512 and 288 terms."""
    values: dict[str, Any] = {}
    for key in (True,) if setting.smoke else (False, True):
        probe = Probe()
        fit(
            setting,
            "setr_vit",
            [*FIT, *SMALL, "trainer.max_steps=1", "trainer.precision=32", f"trainer.tf32={key}"],
            probe,
        )
        values |= {f"product, tf32 {key}": probe.product, f"convolution, tf32 {key}": probe.convolution}
        rounds = key and setting.device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
        assert (probe.product > 3e-3) == rounds and (probe.convolution > 3e-3) == rounds, values
    return values


class Fault(lightning.Callback):
    """Makes one gradient of the third step infinite, and compares the parameters before and after that step."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 2:
            parameters = [p for p in pl_module.parameters() if p.grad is not None]
            self.before = [p.detach().clone() for p in parameters]
            self.parameters = parameters
            parameters[0].grad.view(-1)[0] = float("inf")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            self.compare()

    def on_exception(self, *_: Any) -> None:
        self.compare()

    def compare(self) -> None:
        """Counts the parameters that the step has changed."""
        pairs = zip(self.before, self.parameters, strict=True)
        self.changed = sum(not torch.equal(before, p.detach()) for before, p in pairs)


def _faulty_step(optimiser: str, precision: str, setting: Setting) -> dict[str, Any]:
    fault = Fault()
    keys = [f"optim.name={optimiser}", f"trainer.precision={precision}"]
    message = ""
    try:
        fit(setting, "detector", [*FIT, *keys, "trainer.max_steps=6", "optim.warmup=0", *SMALL], fault)
    except TrainingError as error:
        message = str(error)
    assert fault.changed == 0
    assert ("step 3: the loss or a gradient is not" in message) == (precision != "16-mixed"), message
    return {"changed tensors": fault.changed, "stopped": bool(message)}  # a gradient scaler skips by itself


def _repeated(name: str, setting: Setting) -> dict[str, Any]:
    """The same step twice: the largest difference of gradients relative to the largest gradient, and the operations
    that torch calls nondeterministic."""
    model, batch = recipe(name, *(SMALL if setting.smoke else ()), randomised=True)
    batch = moved(batch, setting.device)
    model.to(setting.device).train()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first, second = (_loss_and_gradient(model, batch, "fp32", setting.device) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    difference = float((first[1] - second[1]).abs().max() / first[1].abs().max())
    matches = [re.match(r"(\S+) does not have a deterministic", str(w.message)) for w in caught]
    operations = sorted({match[1] for match in matches if match})
    return {"difference": difference, "nondeterministic": ", ".join(operations) or "none"}


def evaluation(setting: Setting) -> dict[str, Any]:
    """A short training of two tasks; its model is evaluated on the device and on the CPU."""
    steps = 2 if setting.smoke else 60
    keys = [f"trainer.max_steps={steps}", "trainer.precision=32", *(SMALL if setting.smoke else ["data.val_length=64"])]
    run = fit(setting, "setr_vit" if setting.smoke else "scenes/multitask_swin", [*FIT, *keys])
    metrics = densevit.evaluate(run, overrides=["trainer.precision=32"])
    expected = densevit.evaluate(run, overrides=["trainer.precision=32", "trainer.accelerator=cpu"])
    differences = {k: abs(metrics[k] - v) for k, v in expected.items() if k.count("/") == 1 and v == v}
    worst = max(differences, key=lambda name: differences[name])
    assert differences[worst] < 5e-3, (worst, metrics[worst], expected[worst])
    return {"metrics": len(differences), "largest difference": differences[worst], "of": worst}


def channels_last(setting: Setting) -> dict[str, Any]:
    """A ResNet-50's features and time in both memory formats of the images, in bf16 and float32."""
    side, values = (64 if setting.smoke else 640), dict[str, Any]()
    backbone = densevit.create_backbone("resnet", depth=18 if setting.smoke else 50)
    backbone.to(setting.device).train()
    images = torch.randn(2 if setting.smoke else 8, 3, side, side, device=setting.device)
    for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
        set_precision("fp32")
        features = []
        for memory_format in (torch.contiguous_format, torch.channels_last):
            inputs = images.to(memory_format=memory_format)
            for i in range(4):
                if i == 1:
                    wait()
                    start = time.perf_counter()
                with torch.autocast(setting.device.type, dtype, enabled=dtype is not None):
                    features.append(backbone(inputs)[-1].float())
                features[-1].sum().backward()
            wait()
            label = "contiguous" if memory_format == torch.contiguous_format else "channels-last"
            values[f"{name} {label} ms"] = 1e3 * (time.perf_counter() - start) / 3
        difference = (features[0] - features[4]).abs().max() / features[0].abs().max()
        values[f"{name} difference"] = float(difference)
        assert difference < (1e-3 if dtype is None else 5e-2), values
    return values


def resume(setting: Setting) -> dict[str, Any]:
    """Compares a killed and resumed run with an uninterrupted run, in separate processes."""
    steps, every = (8, 2) if setting.smoke else (60, 10)
    keys = [*FIT, *SMALL, f"trainer.max_steps={steps}", f"trainer.checkpoint_every={every}", "trainer.precision=32",
            f"trainer.accelerator={setting.device.type}"]  # fmt: skip
    program = [sys.executable, "-m", "densevit", "train"]
    complete, killed = setting.folder / "complete", setting.folder / "killed"
    subprocess.run([*program, "detr_swin", *keys, "--run-dir", str(complete)], check=True)
    process = subprocess.Popen([*program, "detr_swin", *keys, "--run-dir", str(killed)])
    while process.poll() is None and not (killed / "checkpoints/last.ckpt").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    was_running = process.wait() == -signal.SIGKILL
    subprocess.run([*program, "--resume", str(killed)], check=True)
    losses = [dict(read_curves(run / "metrics.csv")["train/loss"]) for run in (complete, killed)]
    assert losses[0].keys() == losses[1].keys(), losses
    differences = [abs(losses[1][step] - loss) / abs(loss) for step, loss in losses[0].items()]
    assert max(differences) < 0.05, differences
    return {"killed while running": was_running, "steps": len(differences), "largest difference": max(differences)}
