"""`densevit export`, and the script in docs/export.md, which needs onnxruntime, numpy and pillow only."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.cli import main
from densevit.cli.export import _beside
from densevit.data.transforms.recipes import build_recipe
from densevit.data.transforms.resizing import EvaluationTransform
from densevit.exporting.comparison import example_images

pytestmark = pytest.mark.integration


def found_by_script(file: Path, image: Path, project: Path) -> list[tuple[str, float, list[float]]]:
    """The name, score and box of each object that the script prints."""
    [script] = re.findall(r"```python\n(import json.*?)```", (project / "docs" / "export.md").read_text(), re.DOTALL)
    imported = set(re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE))
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    done = subprocess.run([sys.executable, "-c", script, str(file), str(image)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [re.fullmatch(r"(cat|dog) (0\.\d+) (\[[\d., -]+\])", line) for line in done.stdout.splitlines()]
    return [(line[1], float(line[2]), json.loads(line[3])) for line in lines if line]


def test_the_script_in_the_docs_gives_the_objects_of_predict(tmp_path: Path, project: Path):
    """Resized to the evaluation size by the script, and without the duplicates that NMS removes."""
    torch.manual_seed(0)
    head = {"name": "one_stage", "width": 16, "fusion_blocks": 0, "nms": 0.4, "max_predictions": 9}
    predictor = densevit.create_model({"name": "resnet", "depth": 18}, {"x": head}, ["cat", "dog"])
    torch.nn.init.constant_(predictor.heads["x"].cells.label_head.bias, 0.1)  # about half of the scores above a half
    predictor = predictor.with_resize(EvaluationTransform(build_recipe("fixed", 96)))
    exported = densevit.export(predictor, tmp_path / "model.onnx")
    image = example_images((150, 211), 1, 0)[0].transpose(1, 2, 0)
    Image.fromarray(image).save(tmp_path / "image.png")
    result = predictor.predict(image, threshold=0.5)
    found = found_by_script(exported.path, tmp_path / "image.png", project)
    assert [name for name, _, _ in found] == list(result.names) and len(found) == 9
    np.testing.assert_allclose([score for _, score, _ in found], result.scores, atol=2e-3)
    np.testing.assert_allclose([box for _, _, box in found], result.boxes, atol=1)


def test_a_model_is_exported_and_run_by_the_script_in_the_docs(
    tmp_path: Path, project: Path, capsys: pytest.CaptureFixture[str]
):
    torch.manual_seed(0)
    heads = {"x": {"name": "one_stage", "width": 16, "fusion_blocks": 0}}
    model = densevit.create_model({"name": "resnet", "depth": 18}, heads, ["cat", "dog"])
    torch.nn.init.constant_(model.heads["x"].cells.label_head.bias, 1.0)  # scores above a half
    densevit.save(model, tmp_path / "model.safetensors")
    file = tmp_path / "model.onnx"
    assert main(["export", str(tmp_path / "model.safetensors"), "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    lines = captured.err.splitlines()
    names = [line.partition(": ")[2].split()[0] for line in lines]
    assert names == ["tracing", "converting", "saving", "loading", "tracing", *["comparing"] * 4, "measuring"]
    assert [line.partition(", ")[2].partition(":")[0] for line in lines] == [f"step {n} of 10" for n in range(1, 11)]
    assert (
        report["file"] == str(file)
        and report["difference"] <= 1e-4
        and report["differences"].keys()
        == {
            "boxes",
            "scores",
        }
    )
    Image.fromarray(example_images((70, 90), 1, 0)[0].transpose(1, 2, 0)).save(tmp_path / "image.png")
    assert found_by_script(file, tmp_path / "image.png", project)

    assert main(["export", str(tmp_path)]) == 2
    assert f"{file} exists" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "model.trt")]) == 2
    assert "Expected NAME.onnx or NAME.pt2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("run", "run/model.onnx"),
        ("run/detr.pth", "run/detr.onnx"),
        ("hf:facebook/detr-resnet-50", "detr-resnet-50.onnx"),
    ],
)
def test_a_file_without_name_is_written_beside_its_model(
    model: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/detr.pth").touch()
    assert _beside(model) == Path(expected)
