"""Windows of a large image show their progress: of maps and of boxes."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit import progress
from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from densevit.model import inference_by_head
from tests.model.small_models import Segmenter, Stem, inferred, model_of
from tests.model.test_tiled_detection import Oracle, Pixels

OPTIONS = InferenceSection(window=8, stride=8, batch_size=2)  # 12 windows of an image of 32 x 24


def infer(model: Any, image: torch.Tensor) -> Any:
    sample: Any = {"image": image, "targets": {"size": (32, 24), "original_size": (32, 24)}}
    return inferred(model, collate([sample], model.size_divisor), inference_by_head(model, OPTIONS))


@pytest.mark.parametrize(("backbone", "head"), [(Stem, Segmenter), (Pixels, Oracle)], ids=["maps", "boxes"])
def test_batches_of_windows_are_lines(backbone: Any, head: Any, monkeypatch: Any, capsys: Any) -> None:
    model, image = model_of(backbone(), head), torch.zeros(3, 32, 24, dtype=torch.uint8)
    with torch.inference_mode():
        infer(model, image)
        assert capsys.readouterr().err == "", "less than half a minute"
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
        infer(model, image)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", ")[0] for line in lines] == [f"Batches of 2 windows: {n} of 6" for n in range(1, 7)]


@pytest.mark.integration
def test_each_loop_over_windows_shows_progress() -> None:
    """Functions that cut windows take them from `window_batches`."""
    cutting = set()
    for root in (Path(densevit.__file__).parent, Path(densevit.__file__).parents[1] / "plugins"):
        for file in root.rglob("*.py"):
            for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef):
                    called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
                    if "crop_windows" in called:
                        cutting.add(function.name)
                        assert "window_batches" in called, f"{file}: {function.name}"
    assert len(cutting) >= 2
