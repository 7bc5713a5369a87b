"""Modules of the working directory, and the modules that they import, without a lasting change of sys.path."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from densevit import registry
from densevit.errors import PluginError

DATA = """
    import densevit, torch
    from {name}_sibling import SIZE

    class Own(densevit.Dataset):
        classes, provides = {{}}, ()

        def __init__(self, split):
            from {name}_constructor import NAMES

            self.split, self.names = split, NAMES

        def __len__(self):
            return 4

        def sizes(self):
            return [[SIZE, SIZE]] * 4

        def __getitem__(self, index):
            from {name}_later import VALUE  # imported when the first image is read
            return {{"image": torch.full((3, SIZE, SIZE), VALUE, dtype=torch.uint8), "targets": {{"image_id": index}}}}
"""
SPAWNED = """
    import sys
    from densevit import config
    from densevit.data.data_splits import DataSplits

    if __name__ == "__main__":
        before = [*sys.path]
        data = DataSplits(config.section("data", {"name": "nearby:Own", "num_workers": 1, "batch_size": 2}, "x"), 0, 1)
        loader = data.val_loader()
        loader.multiprocessing_context = "spawn"
        print({int(batch["images"].max()) for batch in loader}, sys.path == before)
"""


def write(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text(textwrap.dedent(DATA).format(name=name))
    (folder / f"{name}_sibling.py").write_text("SIZE = 8\n")
    (folder / f"{name}_constructor.py").write_text("NAMES = ('a', 'b')\n")
    (folder / f"{name}_later.py").write_text("VALUE = 7\n")


def test_a_class_in_the_working_directory_is_constructed_and_the_path_is_as_before(cwd: Path, monkeypatch) -> None:
    write(cwd, "nearby_data")
    path = [entry for entry in sys.path if entry not in ("", os.getcwd())]
    monkeypatch.setattr(sys, "path", [*path])
    assert registry.create("datasets", "nearby_data:Own", "val", options={}, where="data").names == ("a", "b")
    assert sys.path == path


@pytest.mark.integration
def test_started_workers_import_it_too(tmp_path: Path) -> None:
    """By a program elsewhere, whose folder is on the path in place of the working directory. It keeps its loader to its
    end, when the workers are to end at once: a minute later they would be killed, with a traceback."""
    (tmp_path / "work").mkdir()
    write(tmp_path / "work", "nearby")
    (tmp_path / "program.py").write_text(textwrap.dedent(SPAWNED))
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, cwd=tmp_path / "work", capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("{7} True\n", "")


def test_missing_package_error_names_the_extra(install):
    metadata = "Metadata-Version: 2.1\nName: lazy\nVersion: 1.0\nRequires-Dist: absentee>=2; extra == 'more'\n"
    install("lazy", "[densevit.heads]\nlazy = lazy_head:Head\n", {"lazy_head.py": "import absentee.sub\n"}, metadata)
    with pytest.raises(PluginError, match=r"needs 'absentee', which is not installed\. Try `pip install absentee`"):
        registry.load("heads", "lazy")
