"""examples/ray_predict.py with real Ray, on two local workers: the rows are those of the command."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit.cli import main

pytestmark = pytest.mark.integration

DETR = {"name": "detr", "transformer": {"width": 32, "encoder_layers": 1, "decoder_layers": 1}, "num_queries": 3}


@pytest.fixture(scope="module")
def example(project: Path) -> Iterator[ModuleType]:
    """The module of the example, while Ray runs with two processors."""
    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    environment.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray = pytest.importorskip("ray")
    spec = importlib.util.spec_from_file_location("ray_predict", project / "examples" / "ray_predict.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for attempt in range(3):  # Ray gives its processes 15 s to start, which are not enough on a busy machine
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
            break
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    yield module
    ray.shutdown()
    environment.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and twelve photos of which one cannot be read."""
    folder = tmp_path_factory.mktemp("ray")
    densevit.save(
        densevit.create_model({"name": "vit", "variant": "nano"}, {"things": DETR}, {"things": ["cat", "dog"]}),
        folder / "model.safetensors",
    )
    (folder / "photos").mkdir()
    for n in range(12):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{n}.png")
    (folder / "photos" / "7.png").write_bytes(b"no image")
    return folder


def table(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of Parquet files by the image's name."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    assert len({row["path"] for row in rows}) == len(rows)
    return {Path(row["path"]).stem: row for row in rows}


def test_rows_are_those_of_the_command(example: ModuleType, folder: Path) -> None:
    model, photos = str(folder / "model.safetensors"), str(folder / "photos")
    example.predict(model, photos, str(folder / "rows"), batch_size=1, threshold=0.0)
    rows = table(folder / "rows")
    assert sorted(rows, key=int) == [str(n) for n in range(12)]
    assert main(["predict", model, photos, "--out", str(folder / "found"), "--batch-size", "1", "--device", "cpu"]) == 1
    entries: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for entry in json.loads((folder / "found" / "predictions.json").read_text()):
        entries.get(str(entry["image_id"]), []).append(entry)
    for name, row in rows.items():
        assert (row["image_height"], row["image_width"]) == ((40, 60) if name != "7" else (0, 0))
        assert ("is not an image" in row["error"]) == (name == "7")
        assert row["category_id"] == [entry["category_id"] for entry in entries[name]]
        boxes = np.array([row[side] for side in ("x", "y", "width", "height")]).T
        np.testing.assert_allclose(
            boxes, np.array([entry["bbox"] for entry in entries[name]]).reshape(-1, 4), atol=1e-3
        )
        np.testing.assert_allclose(row["score"], [entry["score"] for entry in entries[name]], atol=1e-5)
