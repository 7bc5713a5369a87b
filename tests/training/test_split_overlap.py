"""Training on images that are also validated is an error at the start of `fit`, `train` and a plain Trainer."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import densevit
from densevit.cli import main
from tests.data.undivided_sets import label_maps

MESSAGE = r"12 of the 12 images of the split 'val' are also in 'train': .*Fix: .*data\.allow_overlap=true"
MODEL = {
    "backbone": {"name": "swin", "variant": "nano", "window_size": 4},
    "heads": {"segmentation": {"name": "linear"}},
    "trainer": {"max_steps": 1},
}


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Any]:
    """Label maps whose folder val is a link to train."""
    label_maps(tmp_path / "in", range(12))
    for kind in ("images", "labels"):
        shutil.move(tmp_path / "in" / kind, tmp_path / "set" / kind / "train")
        (tmp_path / "set" / kind / "val").symlink_to("train")
    options = {"classes": ["first", "second"], "image_size": 32, "batch_size": 2, "num_workers": 0}
    return {"name": "label_maps", "root": str(tmp_path / "set"), **options}


@pytest.mark.integration
def test_fit_and_train_name_shared_files(section, tmp_path, capsys):
    config = {**MODEL, "data": section}
    with pytest.raises(densevit.DataError, match=MESSAGE):
        densevit.fit(config, run_dir=tmp_path / "run")
    (tmp_path / "config.yaml").write_text(densevit.config.dump(densevit.config.from_mapping(config)))
    assert main(["train", str(tmp_path / "config.yaml"), "--run-dir", str(tmp_path / "run")]) != 0
    assert "12 of the 12 images of the split 'val' are also in 'train'" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
    run = densevit.fit(config, ["data.allow_overlap=true"], run_dir=tmp_path / "run")
    assert "segmentation/mIoU" in densevit.evaluate(run.model, data=section)


@pytest.mark.parametrize("options", [{}, {"overfit_batches": 1}], ids=str)
def test_a_plain_trainer_names_shared_files_unless_it_overfits(options, section):
    from pytorch_lightning import Trainer

    model = densevit.create_model(MODEL["backbone"], MODEL["heads"], classes=section["classes"])
    trainer = Trainer(max_steps=1, barebones=True, **options)
    module, data = densevit.DenseModule(model), densevit.DenseDataModule(section)
    if options:
        trainer.fit(module, data)
    else:
        with pytest.raises(densevit.DataError, match=MESSAGE):
            trainer.fit(module, data)
