"""The code of docs/api.md runs, with smaller budgets and without downloads."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALLER = {
    '"trainer.max_images=2000"': '"trainer={max_steps: 2}", "data=tiny.yaml"',
    '"trainer.max_images=4000"': '"trainer.max_steps=3"',
    '"image_size": 96, "seed": 1': '"image_size": 32, "seed": 1, "val_length": 2',
    '"image_size": 96, "batch_size": 16': '"image_size": 32, "batch_size": 2, "train_length": 4, "val_length": 2',
    "max_steps=2000": "max_steps=2, val_check_interval=2, logger=False, enable_checkpointing=False",
    '    weights="timm:resnet50.a1_in1k",\n': "",
}


@pytest.mark.integration
def test_code_of_the_page_runs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"```python\n(.*?)```", (project / "docs" / "api.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join(blocks)
    for given, smaller in SMALLER.items():
        assert given in code
        code = code.replace(given, smaller)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(project / "configs")
    Path("tiny.yaml").write_text("{name: scenes, batch_size: 2, image_size: 32, train_length: 4, val_length: 2}")
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save("street.jpg")
    names: dict = {}
    exec(compile(code, "docs/api.md", "exec"), names)
    assert names["result"].semantic.shape == (40, 60)
    assert names["run"].metrics.keys() >= {"segmentation/mIoU"}
    assert set(names["predictor"].heads) == {"seg", "depth"}
