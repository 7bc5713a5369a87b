"""Invalid config files and overrides: the message names the file, the line and the error."""

import os
from pathlib import Path

import pytest

from .conftest import TINY, Refused

# Content of wrong.yaml, and text of the message.
FILES: dict[str, tuple[str | bytes, str]] = {
    "a list": ("- seed: 0", "contains no keys and values"),
    "a key of no section": (TINY.replace("seed: 0", "sed: 0"), "sed is not a key. Did you mean 'seed'?"),
    "a key of another name": (TINY.replace("max_steps", "steps"), "trainer.steps is not a key of trainer"),
    "tab": ("seed: 0\noptim:\n\tlr: 1", "line 3, column 1"),
    "key twice": (TINY + "seed: 1\n", "the key 'seed' is duplicated; first in line 1"),
    "open bracket": ("optim: {lr: 1", "expected ',' or '}'"),
    "python object": ("a: !!python/object/apply:os.system [x]", "could not determine a constructor for the tag"),
    "5,000 digits": (TINY.replace("seed: 0", f"seed: {'1' * 5000}"), "value has 5000 digits"),
    "base is itself": ("base: wrong.yaml", "base is circular: wrong.yaml → wrong.yaml"),
    "base is missing": ("base: nope.yaml", "base: there is no config file 'nope.yaml'"),
    "section is missing": ("seed: 0", "backbone is missing"),
    "head's name with an escape": (TINY.replace("boxes:", '"\\e[31m":'), "'\\x1b[31m' is not a valid name for a head"),
}  # fmt: skip

# The argument in place of a config file.
PATHS = {
    "folder": "It is a folder without a config.yaml",
    "": "a path is empty",
    "tiny.yml": "Did you mean 'tiny.yaml'",
    "large.yaml": "a config file is text of at most",
    "n" * 300: "File name too long",
}

OVERRIDES = {
    "backbone.freze=true": "backbone.freze is not an option of 'swin'. Did you mean 'freeze'? Options: variant, ",
    "heads.boxes.neck.name=x:Y": "heads.boxes.neck.name: The neck 'x:Y' cannot be imported: ",
    "data.name=scene": "There is no dataset 'scene'. Did you mean 'scenes'? ",
    "optim.name=torch.optim.RAdam": "There is no optimiser 'torch.optim.RAdam'. For the class ",
    "optim.lrr=1": "optim.lrr is not an option of 'adamw'. Did you mean 'lr'? Options: betas, eps, amsgrad. Other keys",
    "backbone.freeze=yes": "set true, false or a list of names, as in [stages.0.*], not 'yes'",
    "heads.extra.loss_weight=1": "heads.extra.name is missing",
    "trainer.max_steps=null": "trainer: set exactly one of max_images, max_steps and max_epochs",
    "=1": "'=1' is not an override: write section.key=value",
    "seed=": "seed has no value; write seed=null for none",
    "backbone.varient=tiny": "Did you mean 'variant'?",
    "data=nope.yaml": "A plugin is set with `data.name`, not `data`",
}


@pytest.fixture(autouse=True)
def _around(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "other.yaml").write_text("base: wrong.yaml")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(10**12)  # a sparse file


@pytest.mark.parametrize("case", FILES)
def test_invalid_config_file_is_refused(tmp_path: Path, refused: Refused, case: str) -> None:
    content, says = FILES[case]
    (tmp_path / "wrong.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "\x1b" not in refused("config", "wrong.yaml", says=("wrong.yaml", says))


@pytest.mark.parametrize("path", PATHS)
def test_path_of_another_file_is_refused(refused: Refused, path: str) -> None:
    refused("config", path, says=(PATHS[path],))


@pytest.mark.parametrize("override", OVERRIDES)
def test_invalid_override_is_refused(tiny: str, refused: Refused, override: str) -> None:
    refused("config", tiny, override, says=(OVERRIDES[override],))
