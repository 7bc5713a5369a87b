"""Common fixtures: the project root, third-party distributions, and a seed."""

import gc
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from tests.distributions import write_distribution

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background, where trainings ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, each with one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Packages that take seconds to import and only some tests need: those import them, not their files.
SLOW_TO_IMPORT = (
    "albumentations",
    "huggingface_hub",
    "lightning_fabric",
    "onnx",
    "onnxruntime",
    "pytorch_lightning",
    "timm",
    "torchmetrics",
    "transformers",
)
collecting: list[str] = []


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Neither collection nor the tests scan the collected tests, which remain, for garbage: a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Notes what a file imports while its tests are collected, for `test_collection.py`."""
    before = {name for name in SLOW_TO_IMPORT if name in sys.modules}
    try:
        return (yield)
    finally:
        imported = [name for name in SLOW_TO_IMPORT if name in sys.modules and name not in before]
        collecting.extend(f"{collector.nodeid} imports {name}" for name in imported)


@pytest.fixture(scope="session")
def collected_at_a_cost() -> Sequence[str]:
    """What the files that were collected imported meanwhile, beyond the packages that all tests need."""
    return tuple(collecting)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects slow tests unless `-m` names them: `-m integration` has none of them either."""
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seeds each test, independently of the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of scans for this session."""
    os.environ["DENSEVIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`environment(RANK=1)` sets variables of the environment for this test; None removes them."""

    def environment(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
            if value is None:
                monkeypatch.delenv(name)

    return environment


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`uninstalled("timm")`: imports of a package fail from now on, as if it were not installed."""
    return lambda package: monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`on_path(folder)`: modules of a folder can be imported from now on."""
    return monkeypatch.syspath_prepend


@pytest.fixture
def variant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`variant(table, name, value)` adds or replaces a variant of a backbone for this test."""
    return monkeypatch.setitem


@pytest.fixture
def own_cache(tmp_path: Path, environment: Callable[..., None]) -> Path:
    """The folder of a cache of scans for this test alone."""
    environment(DENSEVIT_CACHE=tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(autouse=True, scope="session")
def autograd_without_device_threads() -> None:
    """A first backward pass on the CPU, so that forked processes can train.

    Fake tensors, as of exports, register a device; autograd then starts a thread for it, which does not survive a fork,
    unless a pass came before.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].ones((), requires_grad=True).backward()


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`inside(folder)`: the working directory is this folder from now on."""
    return monkeypatch.chdir


@pytest.fixture
def cwd(tmp_path: Path, inside: Callable[[Path], None]) -> Path:
    """tmp_path as the working directory."""
    inside(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the project's tree."""
    return Path(__file__).resolve().parent.parent


MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once(name, make)` is a path that `make(path)` writes once for all tests and all workers.

    The path is read only: a test that changes it takes a copy.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once"

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        path, made = folder / name, folder / f"{name}.made"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            if not made.exists():
                if path.is_dir():  # of an attempt that failed
                    shutil.rmtree(path)
                make(path)
                made.touch()
        return path

    return made_once


@pytest.fixture(scope="session")
def trained(made_once: MadeOnce) -> Callable[..., Path]:
    """`trained(config, overrides)` is the run folder of a config in YAML, trained once for all tests and all workers.

    It is read only; `copied_run` gives a copy to resume, to edit or to damage.
    """

    def trained(config: str, overrides: Sequence[str] = ()) -> Path:
        from densevit import config as configs
        from densevit.config import yaml_io
        from densevit.training.run.fit import fit

        def make(run: Path) -> None:
            fit(configs.from_mapping(yaml_io.parse(config, "config"), overrides=list(overrides)), run_dir=run)

        key = hashlib.sha256(repr((config, *overrides)).encode()).hexdigest()[:16]
        return made_once(f"runs/{key}", make)

    return trained


@pytest.fixture
def copied_run(trained: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`copied_run(config, overrides, name="run")` is a copy in tmp_path of the run folder that `trained` gives."""

    def copied_run(config: str, overrides: Sequence[str] = (), name: str = "run") -> Path:
        return Path(shutil.copytree(trained(config, overrides), tmp_path / name))

    return copied_run


@pytest.fixture(scope="session")
def quick_exports() -> Iterator[None]:
    """Exported files are compared on a smaller large image, of several windows still, and timed once."""
    from densevit_export import exporting, file_plan, quantization

    quick = (file_plan, "_LARGE", (133, 165)), (exporting, "_RUNS", 1), (quantization, "_ROUNDS", 1)
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in quick:
            patch.setattr(module, name, value)
        yield


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`install(name, entry_points, {file: source})` puts a distribution on sys.path, as installed by pip."""

    def install(
        name: str, entry_points: str | bytes, files: Mapping[str, str] | None = None, metadata: str = ""
    ) -> Path:
        site = write_distribution(tmp_path / f"site-{name}", name, entry_points, files or {}, metadata)
        for file in files or {}:
            monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
        monkeypatch.syspath_prepend(site)
        return site

    return install


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`run(*words, code=0)` runs a command that exits with this code, and returns what it writes, in one line."""

    from densevit.cli import main

    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        found, written = main([*map(str, words)]), capsys.readouterr()
        assert found == code, written.err
        return " ".join((written.out + written.err).split())

    return run
