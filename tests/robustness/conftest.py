"""Invalid input through the command line: each gives one clear message, exit code 2 and leaves no files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from densevit.cli import main

Refused = Callable[..., str]

# The tests, or single cases of them, whose input is refused after a model was built, and why.
NEEDS_MODEL = {
    "test_invalid_tensor_is_refused": "a checkpoint's tensors are compared with the model's",
    "test_invalid_model_file_is_refused[config of another model]": "a file's tensors are compared with the model's",
    "test_invalid_option_value_is_refused[optim.eps=-1]": "an optimiser is built of the model's parameters",
    "test_invalid_option_value_is_refused[heads.boxes.evaluation.max_detections=0]": (
        "the evaluator of a head is built for the head"
    ),
    "test_invalid_forward_output_is_reported": "the backbone is run",
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The classes of the backbones of the models that the test has built."""
    from densevit.model import DenseModel

    backbones: list[str] = []
    init = DenseModel.__init__

    def recorded(self: DenseModel, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        backbones.append(type(self.backbone).__name__)

    monkeypatch.setattr(DenseModel, "__init__", recorded)
    return backbones


@pytest.fixture
def refused(cwd: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, built: list[str]) -> Refused:
    """`refused(*arguments, says=(...))` runs a command in tmp_path and returns what it printed to stderr.

    Asserts exit code 2, each text of `says` in the message, no traceback, ten lines at most, no run folder, and that
    the input is refused before a model is built, except for the tests of NEEDS_MODEL.
    """
    needs_model = any(name in NEEDS_MODEL for name in (request.node.name, request.node.originalname))

    def refused(*arguments: str, says: tuple[str, ...] = ()) -> str:
        built.clear()
        code, printed = main(arguments), capsys.readouterr()
        assert code == 2, (code, printed.out[-500:], printed.err[-2000:])
        assert "Traceback" not in printed.err and 0 < len(printed.err.strip().splitlines()) <= 12, printed.err
        for text in says:
            assert text in printed.err, printed.err
        assert not (cwd / "runs").exists(), "a run folder was left"
        assert bool(built) == needs_model, f"models built before the input was refused: {built}; see NEEDS_MODEL"
        return printed.err

    return refused


HEAD = """\
{name: detr, num_queries: 4,
     transformer: {width: 32, num_heads: 2, encoder_layers: 1, decoder_layers: 1, feedforward: 32}}"""
TINY = f"""\
seed: 0
backbone: {{name: swin, variant: nano, window_size: 4}}
heads:
  boxes: {HEAD}
data: {{name: scenes, image_size: 64, batch_size: 2, train_length: 4, val_length: 2, num_workers: 0}}
trainer: {{max_steps: 1}}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A config file in tmp_path with the text TINY, which trains a small DETR on scenes."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as after training with TINY, with random weights: config.yaml and model.safetensors."""
    from densevit import config as configs
    from densevit.data.data_builder import build_data
    from densevit.weights import model_file
    from tests.built_models import build_model

    folder = tmp_path_factory.mktemp("tiny") / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(TINY)
    config = configs.load(folder)
    model_file.save(build_model(config, build_data(config).classes), folder / "model.safetensors")
    return folder
