"""Third-party distributions, installed as by pip."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BUILD = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"


@pytest.fixture(scope="session")
def third_party(made_once: Callable[..., Path], project: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """`third_party(folder)` is where the wheel of examples/plugins/FOLDER is unpacked."""

    def third_party(folder: str) -> Path:
        def make(site: Path) -> None:
            site.mkdir()
            source = tmp_path_factory.mktemp("source") / "package"
            shutil.copytree(project / "examples" / "plugins" / folder, source)
            command = [sys.executable, "-c", BUILD, str(site)]
            subprocess.run(command, cwd=source, check=True, capture_output=True)
            zipfile.ZipFile(next(site.glob("*.whl"))).extractall(site)

        return made_once(f"third_party/{folder}", make)

    return third_party


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without curves, which take time; tests/reporting tests them."""
    from densevit.reporting import run_report

    monkeypatch.setattr(run_report, "_curves", lambda path: [])


@pytest.fixture(autouse=True, scope="module")
def installed(request: pytest.FixtureRequest, third_party: Callable[[str], Path]) -> Iterator[None]:
    """The PACKAGES of a test file, folders of examples/plugins, are on the path; afterwards their modules are gone."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in getattr(request.module, "PACKAGES", ()):
            patch.syspath_prepend(third_party(folder))
        yield
    for name, module in list(sys.modules.items()):
        if f"{os.sep}third_party{os.sep}" in str(getattr(module, "__file__", "")):
            del sys.modules[name]
