"""Without guests, the packages that the spine does not need, the spine and the tests of the core's rooms work."""

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.distributions import write_distribution

ROOT = Path(__file__).parents[1]
SETUP = ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")
PACKAGES = {name.partition(".")[0] for name in SETUP["options"]["packages"].split()}
# What trains, resumes, evaluates and predicts, with the parts that models are built from.
SPINE = {
    "densevit",
    *(f"densevit_{name}" for name in ("backbones", "configs", "heads", "necks", "optimizers", "scenes")),
}
GUESTS = sorted(PACKAGES - SPINE)
# The commands, in tests/cli, are those of all packages.
ROOMS = sorted(
    path.parent.name
    for path in (ROOT / "densevit").glob("*/__init__.py")
    if path.parent.name != "cli" and (ROOT / "tests" / path.parent.name).is_dir()
)

REFUSING = """
    import sys

    class Refusing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {guests}:
                raise ModuleNotFoundError(f"{{name}} is deleted", name=name)

    sys.meta_path.insert(0, Refusing())
"""
# One case of each test: what the rows of a table need is of one kind.
FIRST_CASES = """
    def pytest_collection_modifyitems(items):
        items[:] = {item.nodeid.partition("[")[0]: item for item in reversed(items)}.values()
"""
RUN = """
    import importlib
    import sys

    import pytest

    import densevit

    site, image, *guests = sys.argv[1:]
    assert densevit.__file__.startswith(site)
    for guest in guests:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(guest)
    data = ["image_size=64", "train_length=12", "val_length=2", "batch_size=2", "num_workers=0"]
    small = [*(f"data.{option}" for option in data), "trainer.accelerator=cpu", "trainer.max_images=null"]
    small += ["trainer.evaluate_every_epochs=1"]
    densevit.fit("detr_swin", [*small, "trainer.max_steps=6"], run_dir="run")
    resumed = densevit.fit(resume="run", overrides=["trainer.max_steps=7"])
    metrics = densevit.evaluate("run")
    assert metrics == pytest.approx({key: resumed.metrics[key] for key in metrics}, nan_ok=True)
    assert "detection/AP" in metrics
    model = densevit.load("run")
    expected = model.predict(image, threshold=0.0)
    densevit.save(model, "model.safetensors")
    result = densevit.load("model.safetensors").predict(image, threshold=0.0)
    assert len(expected.scores) and (result.scores == expected.scores).all() and (result.boxes == expected.boxes).all()
    started = densevit.fit("detr_swin", [*small, "trainer.max_steps=1", "weights=run"], run_dir="started")
    assert started.model.fingerprint() != model.fingerprint()
"""


def install(site: Path, guests: Sequence[str]) -> dict[str, str]:
    """Copies densevit and the packages other than `guests` to a folder, which is a project like this one. Returns the
    environment of processes that import from it."""
    shutil.copytree(ROOT / "densevit", site / "densevit")
    shutil.copytree(ROOT / "plugins", site, ignore=shutil.ignore_patterns(*guests), dirs_exist_ok=True)
    shutil.copytree(ROOT / "configs", site / "densevit_configs")
    for path in ROOT.iterdir():
        if path.name != "densevit" and not path.name.startswith(".") and path.suffix != ".egg-info":
            (site / path.name).symlink_to(path)
    lines = (distribution("densevit").read_text("entry_points.txt") or "").splitlines(keepends=True)
    deleted = re.compile(rf".*= ({'|'.join(guests)})\.")
    entry_points = "".join(line for line in lines if not deleted.match(line))
    files = {"sitecustomize.py": REFUSING.format(guests=guests), "first_cases.py": FIRST_CASES}
    write_distribution(site, "densevit", entry_points, files)
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return {**variables, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


@pytest.mark.integration
@pytest.mark.parametrize("guests", [["densevit_workbench"], GUESTS], ids=["the one that others import", "all"])
def test_spine_works_without(guests: list[str], tmp_path: Path) -> None:
    site, image = tmp_path / "site", ROOT / "examples" / "coffee.jpg"
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(site), str(image), *guests]
    done = subprocess.run(command, cwd=tmp_path, env=install(site, guests), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.integration
def test_default_tests_of_the_core_pass_without_guests(tmp_path: Path) -> None:
    site, options = tmp_path / "site", ["-q", "-n", "2", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/tests"]
    options += ["-p", "first_cases"]
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{room}" for room in ROOMS)]
    done = subprocess.run(command, cwd=site, env=install(site, GUESTS), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


def imported(folder: Path) -> set[str]:
    """What the files below a folder import: `package.module.name`."""
    nodes = [node for file in folder.rglob("*.py") for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {f"{x.module}.{name.name}" for x in nodes if isinstance(x, ast.ImportFrom) for name in x.names}


def test_no_test_of_a_core_room_imports_a_guest() -> None:
    tests = (guest.replace("densevit_", r"tests\.") for guest in GUESTS)
    refused = re.compile(rf"({'|'.join((*GUESTS, *tests))})(\.|$)")
    assert not {room: name for room in ROOMS for name in imported(ROOT / "tests" / room) if refused.match(name)}
    assert any(map(refused.match, imported(ROOT / "tests" / "export")))


def test_contracts_of_imports_name_every_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="the interpreter reads no TOML")
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contracts = {contract["name"]: contract for contract in linter["contracts"]}
    plugins = PACKAGES - {"densevit", "densevit_configs"}
    assert {*linter["root_packages"]} == {"densevit", *plugins}
    assert {*contracts["densevit imports no plugin"]["forbidden_modules"]} == plugins
    assert {*contracts["plugins do not import each other"]["modules"]} == plugins
