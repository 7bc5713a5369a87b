"""Deprecated names work, with one line that names the new one."""

import re
from pathlib import Path

import pytest

import densevit
from densevit import config, registry
from densevit.deprecation import DEPRECATED
from densevit.errors import warn_once

CONFIG = {
    "backbone": {"name": "residual", "depth": 18},
    "heads": {"seg": {"name": "setr", "weight": 2.0}},
    "data": {"name": "scenes"},
    "trainer": {"steps": 4},
}
MADE = {  # new names
    "trainer.steps": "max_steps",
    "heads.*.weight": "loss_weight",
    "backbones:residual": "resnet",
    "heads:setr.kind": "decoder",
    "densevit.Model": "DenseModel",
}


@pytest.fixture(autouse=True)
def _made_entries(monkeypatch):
    for name, new in MADE.items():
        monkeypatch.setitem(DEPRECATED, name, (new, "0.3.0"))
    warn_once.cache_clear()


def in_a_file(folder: Path) -> config.Config:
    (folder / "old.yaml").write_text(config.yaml_io.write(CONFIG))
    return config.load(folder / "old.yaml")


def over_new_names(folder: Path) -> config.Config:
    """Options of the backbone below stay, as it is the same one."""
    new = {"backbone": {"name": "resnet", "depth": 18}, "heads": {"seg": {"name": "setr", "loss_weight": 3.0}}}
    (folder / "section.yaml").write_text("steps: 4")
    overrides = ["backbone.name=residual", "heads.seg.weight=2", f"trainer={folder / 'section.yaml'}"]
    return config.load({**CONFIG, **new, "trainer": {"max_steps": 1}}, overrides)


def in_python(folder: Path) -> config.Config:
    return config.load(CONFIG | {"trainer": {"max_steps": 1}}, {config.full_key("steps"): 4})


def in_a_model_file(folder: Path) -> config.Config:
    return config.from_file(CONFIG, "model.safetensors")


@pytest.mark.parametrize(
    "door", [in_a_file, over_new_names, in_python, in_a_model_file], ids=lambda door: door.__name__
)
def test_deprecated_keys_and_plugins_of_configs(door, tmp_path, recwarn):
    loaded = door(tmp_path)
    assert loaded.backbone.name == "resnet" and loaded.backbone.options == {"depth": 18}
    assert loaded.heads["seg"].loss_weight == 2 and loaded.trainer.max_steps == 4
    leaves = "is deprecated and leaves in densevit 0.3.0. Fix: write"
    assert sorted(re.sub("^.*?: ", "", str(warning.message)) for warning in recwarn) == [
        f"backbones:residual {leaves} backbones:resnet.",
        f"heads.*.weight {leaves} heads.*.loss_weight.",
        f"trainer.steps {leaves} trainer.max_steps.",
    ]


def test_deprecated_names_in_python():
    with pytest.warns(match="backbones:residual is deprecated"):
        assert type(densevit.create_backbone("residual", depth=18)).__name__ == "ResNet"
    with pytest.warns(match="^head: heads:setr.kind is deprecated .* Fix: write heads:setr.decoder"):
        assert registry.check_options("heads", "setr", {"kind": "naive"}, "head") == {"decoder": "naive"}
    with pytest.warns(match="densevit.Model is deprecated .* Fix: write densevit.DenseModel"):
        assert densevit.Model is densevit.DenseModel  # type: ignore[attr-defined]
