"""Trains, evaluates, predicts, exports, loads a checkpoint and checks types with an installed densevit, in an empty
folder.

    cd "$(mktemp -d)" && python .../tools/release/smoke.py

Run it with the interpreter of an environment with densevit, examples/plugins/lion, mypy and pyright. It needs some
minutes and no network.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
import torchvision

import densevit

CLONE = Path(__file__).resolve().parents[2]
RUN = Path("runs/detr_swin")
SMALL = ("data.train_length=64", "data.val_length=8")
USER = """\
# pyright: reportUnnecessaryTypeIgnoreComment=true
from pathlib import Path

import densevit


def names(run: Path, image: Path) -> list[str]:
    result: densevit.Result = densevit.load(run).predict(image, threshold=0.5)
    size: str = result.size  # type: ignore
    return [*result.names, size]
"""


def program(name: str, *arguments: str) -> str:
    """Runs a script of this environment, and returns what it prints."""
    print(name, *arguments, flush=True)
    done = subprocess.run([Path(sys.executable).parent / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


command = partial(program, "densevit")


def check_installation() -> None:
    """The package is an installed one, complete, with one version everywhere."""
    for module in (densevit, importlib.import_module("densevit_configs")):
        assert not Path(str(module.__file__)).is_relative_to(CLONE), f"{module.__file__} is in the clone"
    assert importlib.metadata.version("densevit") == densevit.__version__
    assert command("--version") == f"densevit {densevit.__version__}\n"
    assert {"swin", "box_query_detr", "fpn", "scenes", "panoptic", "supervised"} <= {*command("plugins").split()}
    assert sorted((Path(densevit.__file__).parent / "data" / "datasets" / "presets").rglob("*.yaml"))


def readme() -> None:
    """The first training of README.md and the Python API, with few images."""
    command("train", "detr_swin", "trainer.max_steps=8", *SMALL)
    assert (RUN / "report.html").is_file() and (RUN / "model.safetensors").is_file()
    command("scenes", "--out", "labelled", "--split", "val", "--count", "2", "--jpeg", "--quiet")
    next(Path("labelled").rglob("*.jpg")).rename("street.jpg")
    model = densevit.load(RUN)
    result = model.predict("street.jpg", threshold=0.0)
    assert len(result.names) == len(result.scores) == len(result.boxes) > 0
    result.draw().save("drawn.png")
    run = densevit.fit("setr_vit", overrides=["trainer.max_images=16", *SMALL])
    assert 0 <= run.metrics["segmentation/mIoU"] <= 1
    run.model.predict("street.jpg").draw().save("segmented.png")


def commands() -> None:
    command("evaluate", str(RUN), "--out", "evaluated")
    assert 0 <= json.loads(Path("evaluated/metrics.json").read_text())["detection/AP"] <= 1
    command("predict", str(RUN), "street.jpg", "--out", "found")
    assert Path("found/drawn/street.jpg").is_file()
    for name in ("segmenter.pt2", "segmenter.onnx") if importlib.util.find_spec("onnxscript") else ("segmenter.pt2",):
        command("export", "runs/setr_vit", "--out", name)
        assert Path(name).is_file()
    command("train", "--resume", str(RUN), "trainer.max_steps=10")


def checkpoint() -> None:
    """A checkpoint of another project is recognised; one of the hub is reported in one line."""
    other = torchvision.models.resnet18(weights=None).eval()
    torch.save(other.state_dict(), "resnet18.pth")
    backbone = densevit.create_backbone({"name": "resnet", "depth": 18, "weights": "resnet18.pth"}).eval()
    images = torch.randn(1, 3, 64, 64)
    other.avgpool = other.fc = torch.nn.Identity()
    torch.testing.assert_close(backbone(images)[-1].flatten(1), other(images), rtol=1e-4, atol=1e-4)
    with suppress(densevit.WeightsError):  # no network, or no such repository
        densevit.load("hf:acme/model")


def plugin() -> None:
    """A distribution of its own adds an optimiser by its entry point."""
    command("train", "detr_swin", "optim={name: lion}", "trainer.max_steps=2", "--run-dir", "runs/lion", *SMALL)


def types() -> None:
    """Type checkers read the annotations: without them, the comment in USER would be needless, which is an error."""
    Path("user.py").write_text(USER)
    program("mypy", "--strict", "user.py")
    program("pyright", "user.py")


if __name__ == "__main__":
    assert not any(Path().iterdir()), f"{Path().resolve()} is not empty"
    check_installation()
    readme()
    commands()
    checkpoint()
    plugin()
    types()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "pytorch-lightning")}
    print(f"densevit {densevit.__version__} passes on Python {sys.version.split()[0]}:", json.dumps(versions))
