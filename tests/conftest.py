"""Common fixtures: the project root, third-party distributions, and a seed."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background, where trainings ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, each with one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seeds each test, independently of the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of scans for this session."""
    os.environ["DENSEVIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the project's tree."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`install(name, entry_points, {file: source})` puts a distribution on sys.path, as installed by pip."""

    def install(
        name: str, entry_points: str | bytes, files: Mapping[str, str] | None = None, metadata: str = ""
    ) -> Path:
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        text = textwrap.dedent(entry_points).encode() if isinstance(entry_points, str) else entry_points
        (info / "entry_points.txt").write_bytes(text)
        for file, source in (files or {}).items():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_text(textwrap.dedent(source))
            monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
        monkeypatch.syspath_prepend(site)
        return site

    return install


@pytest.fixture(scope="session")
def run_processes() -> Callable[..., None]:
    """`run_processes(file, count, folder)` runs `count` processes of a test file, as `file RANK FOLDER`."""

    def run_processes(file: str, count: int, folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        commands = [[sys.executable, file, str(rank), str(folder)] for rank in range(count)]
        processes = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
        errors = [process.communicate(timeout=600)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * count, "\n".join(errors)

    return run_processes


@pytest.fixture(scope="session")
def free_port() -> int:
    """A TCP port that is free on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
