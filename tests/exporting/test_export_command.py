"""`densevit export`, and the script in docs/export.md, which needs onnxruntime, numpy and pillow only."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import densevit
from densevit.cli import main
from densevit.exporting.comparison import example_images


def test_a_model_is_exported_and_run_by_the_script_in_the_docs(
    tmp_path: Path, project: Path, capsys: pytest.CaptureFixture[str]
):
    torch.manual_seed(0)
    heads = {"x": {"name": "one_stage", "width": 16, "fusion_blocks": 0}}
    model = densevit.create_model({"name": "resnet", "depth": 18}, heads, ["cat", "dog"])
    torch.nn.init.constant_(model.heads["x"].cells.label_head.bias, 1.0)  # scores above a half
    densevit.save(model, tmp_path / "model.safetensors")
    file = tmp_path / "model.onnx"
    assert main(["export", str(tmp_path / "model.safetensors"), "--out", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (
        report["file"] == str(file)
        and report["difference"] <= 1e-4
        and report["differences"].keys()
        == {
            "boxes",
            "scores",
        }
    )
    [script] = re.findall(r"```python\n(import json.*?)```", (project / "docs" / "export.md").read_text(), re.DOTALL)
    assert set(re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE)) == {
        "json",
        "sys",
        "numpy",
        "onnxruntime",
        "PIL",
    }
    Image.fromarray(example_images((70, 90), 1, 0)[0].transpose(1, 2, 0)).save(tmp_path / "image.png")
    done = subprocess.run(
        [sys.executable, "-c", script, str(file), str(tmp_path / "image.png")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"(cat|dog) 0\.\d+ \[[\d., -]+\]", done.stdout)

    assert main(["export", str(tmp_path / "model.safetensors"), "--out", str(file)]) == 2  # it exists
    assert "model.onnx exists" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "model.trt")]) == 2
    assert "Expected NAME.onnx or NAME.pt2" in capsys.readouterr().err
