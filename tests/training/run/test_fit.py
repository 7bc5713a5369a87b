"""fit and evaluate: the command line's train and evaluate in Python."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.data.transforms.fixed import Fixed
from densevit.data.transforms.resizing import EvaluationTransform
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Batch, Class
from densevit.model import DenseModel, build_backbone, create_head
from densevit_scenes.dataset import Scenes
from tests.training.run.test_run import SEGMENTATION
from tests.training.runs import assert_same, train, weights

if TYPE_CHECKING:
    from densevit.training.run.fit import Run

SHORT = ["trainer.max_epochs=null", "trainer.max_steps=2"]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "seg.yaml"
    path.write_text(SEGMENTATION)
    return path


@pytest.fixture(scope="module")  # trained here, as what `fit` returns is tested
def run(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    return densevit.fit(yaml.safe_load(SEGMENTATION), SHORT, run_dir=tmp_path_factory.mktemp("run") / "run")


def plain(metrics: dict[str, float]) -> dict[str, float | None]:
    """As in metrics.json: null for nan, which is not equal to itself."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


@pytest.mark.integration
def test_a_file_a_mapping_and_a_config_give_the_same_run(run: "Run", config_file: Path, tmp_path: Path) -> None:
    by_file = densevit.fit(config_file, SHORT, run_dir=tmp_path / "file")
    by_config = densevit.fit(configs.load(config_file), SHORT, run_dir=str(tmp_path / "config"))
    trained = train(configs.load(config_file, SHORT), tmp_path / "train")
    for folder in (by_file.path, by_config.path, trained):
        assert_same(weights(run.path), weights(folder))


def test_a_run_has_its_path_metrics_and_model(run: "Run") -> None:
    assert run.stopped_by == 0
    assert plain(run.metrics) == json.loads((run.path / "metrics.json").read_text())
    assert run.model is run.model and not run.model.model.training
    state = {name: value.cpu() for name, value in run.model.model.state_dict().items()}
    assert_same(state, load_file(run.path / "model.safetensors"))


def test_a_run_has_its_tables(run: "Run") -> None:
    header, *rows = run.tables["classes-surfaces"]
    assert header[:2] == ["class", "pixels"]
    assert [row[0] for row in rows] == [one.name for one in run.model.classes["surfaces"]]
    assert sum(row[1] for row in rows) <= 3 * 32 * 32 and isinstance(rows[0][1], int)  # pixels of three images


def test_the_default_folder_is_named_like_the_config(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densevit.training.run.fit._train", lambda *_: 0)
    monkeypatch.setattr("densevit.training.run.fit.finish", lambda *_: None)
    assert densevit.fit("seg.yaml").path == Path("runs/seg")
    assert densevit.fit(configs.load("seg.yaml")).path == Path("runs/run")
    assert densevit.fit(configs.load("seg.yaml"), name="mine").path == Path("runs/mine")


@pytest.mark.integration
def test_a_resumed_run_continues_with_its_callbacks(config_file: Path, tmp_path: Path) -> None:
    import pytorch_lightning as lightning

    class Steps(lightning.Callback):
        steps: list[int] = []  # noqa: RUF012  # of this test only

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.steps.append(trainer.global_step)

    first = densevit.fit(config_file, SHORT, run_dir=tmp_path / "run", callbacks=[Steps()])
    again = densevit.fit(resume=first.path, overrides=["trainer.max_steps=3"], callbacks=[Steps()])
    assert (again.path, Steps.steps) == (first.path, [1, 2, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "fit needs a config or the folder of a run to resume, and not both"),
        ({"config": "seg.yaml", "resume": "run"}, "and not both"),
        ({"resume": "run", "run_dir": "other"}, r"fit: resume=run uses that folder\. Fix: remove run_dir"),
        ({"config": {"sed": 1}}, r"fit: sed is not a key\. Did you mean 'seed'\?"),
        ({"config": {}, "overrides": ["optim.lr=fast"]}, r"command line: optim\.lr should be a valid number"),
    ],
)
def test_wrong_arguments_are_one_line_each(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        densevit.fit(**arguments)


# ---- evaluate ----


def test_evaluate_takes_a_run_its_folder_or_its_model_and_agrees_with_the_command(run: "Run", tmp_path: Path) -> None:
    expected = plain(run.metrics)
    for model in (run, run.path, str(run.path), run.model):
        assert plain(densevit.evaluate(model)) == expected
    assert main(["evaluate", str(run.path), "data.val_length=2", "--out", str(tmp_path / "out")]) == 0
    data = {**configs.load(run.path).data.model_dump(), "val_length": 2}
    assert (
        plain(densevit.evaluate(run, data)) == json.loads((tmp_path / "out" / "metrics.json").read_text()) != expected
    )


@pytest.mark.integration
def test_evaluate_takes_overrides_of_the_evaluator_as_the_command(run: "Run", tmp_path: Path) -> None:
    override = "heads.surfaces.evaluation.boundary=true"
    assert main(["evaluate", str(run.path), override, "--out", str(tmp_path / "out")]) == 0
    found = densevit.evaluate(run, overrides=[override])
    assert plain(found) == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found.keys() > run.metrics.keys()
    with pytest.raises(ConfigError, match=r"heads\.surfaces\.width=8: a run is evaluated as it was trained"):
        densevit.evaluate(run, overrides=["heads.surfaces.width=8"])
    with pytest.raises(ConfigError, match="the model has no config for the overrides data.val_length=2"):
        densevit.evaluate(run.model.model, overrides=["data.val_length=2"])


def test_evaluate_resizes_as_the_predictor(run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[tuple[int, ...]] = set()
    infer = DenseModel.infer

    def noted(self: DenseModel, batch: Batch, *given: Any) -> Any:
        sizes.update(tuple(target["size"]) for target in batch["targets"])
        return infer(self, batch, *given)

    monkeypatch.setattr(DenseModel, "infer", noted)
    densevit.evaluate(run.model.with_resize(EvaluationTransform(Fixed(40))))
    assert sizes and all(max(size) == 40 for size in sizes)
    sizes.clear()
    densevit.evaluate(run.model)
    assert sizes and all(max(size) == 32 for size in sizes)


@pytest.mark.parametrize("on", [False, True])
def test_evaluate_computes_in_tf32_as_the_training(on: bool, run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: set[str] = set()
    infer = DenseModel.infer

    def noted(self: DenseModel, *given: Any) -> Any:
        set_to.add(torch.get_float32_matmul_precision())
        return infer(self, *given)

    monkeypatch.setattr(DenseModel, "infer", noted)
    before = torch.get_float32_matmul_precision()
    densevit.evaluate(run, overrides=[f"trainer.tf32={str(on).lower()}"])
    assert set_to == {"high" if on else "highest"}
    assert torch.get_float32_matmul_precision() == before


def test_evaluate_uses_the_devices_of_its_overrides(run: "Run") -> None:
    with pytest.raises(ConfigError, match="devices"):
        densevit.evaluate(run, overrides=["trainer.accelerator=cpu", "trainer.devices=0"])


def test_evaluate_leaves_a_model_as_it_was(run: "Run") -> None:
    model = run.model.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    densevit.evaluate(run.model)
    assert model.training
    assert_same(before, model.state_dict())
    model.eval()


@pytest.mark.integration
def test_a_model_of_no_config_needs_data_of_its_classes() -> None:
    section = {"name": "scenes", "image_size": 32, "batch_size": 2, "num_workers": 0, "val_length": 3}
    surfaces = Scenes("val", image_size=32, val_length=1).classes["segmentation"]

    def model_of(classes: tuple[Class, ...]) -> DenseModel:
        backbone = build_backbone("swin", variant="nano", window_size=4)
        options = {"decoder": "mla", "width": 16, "branch_width": 8}
        return DenseModel(
            backbone, {"map": create_head("setr", backbone.channels, backbone.strides, classes, **options)}
        )

    assert set(densevit.evaluate(model_of(surfaces), section)) >= {"map/mIoU", "map/aAcc"}
    with pytest.raises(ConfigError, match=r"evaluate: the model has no config, and so no data\. Fix: pass data="):
        densevit.evaluate(model_of(surfaces))
    assert set(densevit.evaluate(model_of(surfaces[::-1]), section)) >= {"map/mIoU", "map/aAcc"}  # mapped by name
    with pytest.raises(DataError, match=r"model's head 'map' have no name in common\. Classes of the data: ball, "):
        densevit.evaluate(model_of((Class("unicorn", 1, (0, 0, 0)),)), section)
    unicorn = model_of((Class("unicorn", 1, (0, 0, 0)), surfaces[-1]))
    metrics = densevit.evaluate(unicorn, section, classes={"unicorn": surfaces[0].name})
    assert {name for name in metrics if "/IoU/" in name} == {f"map/IoU/{surfaces[n].name}" for n in (0, -1)}
