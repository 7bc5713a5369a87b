"""The wheel contains all files of the tree, and runs in empty environments."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePath

import pytest

pytestmark = pytest.mark.integration

ROOTS = {
    "densevit": "densevit",
    "densevit_backbones": "plugins/densevit_backbones",
    "densevit_batch": "plugins/densevit_batch",
    "densevit_checkpoints": "plugins/densevit_checkpoints",
    "densevit_configs": "configs",
    "densevit_export": "plugins/densevit_export",
    "densevit_heads": "plugins/densevit_heads",
    "densevit_methods": "plugins/densevit_methods",
    "densevit_necks": "plugins/densevit_necks",
    "densevit_optimizers": "plugins/densevit_optimizers",
    "densevit_papers": "plugins/densevit_papers",
    "densevit_probes": "plugins/densevit_probes",
    "densevit_scenes": "plugins/densevit_scenes",
    "densevit_tools": "plugins/densevit_tools",
    "densevit_workbench": "plugins/densevit_workbench",
}


def run(*command: str, cwd: Path) -> str:
    """Returns Python's stdout; fails with its stderr."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A copy of the sources without artefacts of earlier builds."""
    copy = tmp_path_factory.mktemp("tree")
    folders = ("densevit", "plugins", "configs", "tests", "docs", "tools")
    for name in (*folders, "setup.cfg", "pyproject.toml", "LICENSE", "README.md", "MANIFEST.in", "CHANGELOG.md"):
        source = project / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist, which is beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "build", "--no-isolation", "--outdir", str(folder), str(tree), cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as installed by pip."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def apart(site: Path, code: str) -> list[str]:
    """A Python with this installation of densevit, and only densevit's dependencies from the environment."""
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    places = f"site.addsitedir({str(site)!r}); sys.path += {packages}"
    return ["-S", "-c", f"import site, sys; {places}\n{code}"]


def test_wheel_of_the_sdist_contains_all_files_of_the_tree(wheel, project):
    expected = set()
    for name, root in ROOTS.items():
        for file in (project / root).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                expected.add(f"{name}/{file.relative_to(project / root).as_posix()}")
    described, files = set[str](), set[str]()
    for name in zipfile.ZipFile(wheel).namelist():
        top, _, rest = name.partition(".dist-info/")
        (described if rest else files).add(rest or top)
    assert files == expected
    assert described == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    assert {PurePath(name).suffix for name in files} == {
        ".css",
        ".html",
        ".js",
        ".py",
        ".pyi",
        ".txt",
        ".typed",
        ".yaml",
    }
    assert not [name for name in files if re.search(r"(^|/)(\.|tests?/|test_\w+/|tools/|conftest)", name)]
    assert wheel.stat().st_size < 2_500_000
    assert {"densevit/py.typed", "densevit_configs/detr_swin.yaml", "densevit_heads/detr/__init__.py"} <= files


def smoke(python: str, distribution: Path | str, folder: Path, project: Path, *arguments: str) -> str:
    """Installs the distribution in an empty environment, without the clone, a compiler and git, and returns what
    tools/release/smoke.py prints there without a network."""
    if shutil.which(python) is None or subprocess.run([python, "--version"], capture_output=True).returncode:
        pytest.skip(f"there is no {python}")
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    scripts = folder / "venv" / "bin"
    plugin = shutil.copytree(project / "examples" / "plugins" / "lion", folder / "lion")
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    variables |= {"PATH": str(scripts)}
    install = [scripts / "python", "-m", "pip", "install", "--quiet", distribution, plugin, "mypy", "pyright[nodejs]"]
    assert subprocess.run([*install, *arguments], cwd=folder, env=variables).returncode == 0
    (folder / "empty").mkdir()
    proxies = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    variables |= dict.fromkeys(proxies, "http://127.0.0.1:9")  # a closed port
    script = [scripts / "python", project / "tools" / "release" / "smoke.py"]
    done = subprocess.run(script, cwd=folder / "empty", env=variables, capture_output=True, text=True)
    shutil.rmtree(folder / "venv")  # several GB
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("version", "suffix"), [("3.10", "whl"), ("3.12", "tar.gz"), ("3.13", "whl")])
def test_distribution_in_an_empty_environment(version, suffix, wheel, tmp_path, project):
    distribution = next(wheel.parent.glob(f"*.{suffix}"))
    assert f"passes on Python {version}." in smoke(f"python{version}", distribution, tmp_path, project)


@pytest.mark.slow
def test_lower_bounds(wheel, tmp_path, project):
    extras = ("hub", "tensorboard", "timm")
    constraints = tmp_path / "lowest.txt"
    constraints.write_text(run(str(project / "tools" / "release" / "lower_bounds.py"), *extras, cwd=project))
    last = smoke("python3.10", f"{wheel}[{','.join(extras)}]", tmp_path, project, "--constraint", str(constraints))
    assert '"torch": "2.6.0' in last and '"numpy": "1.26.0"' in last


def test_installed_wheel_finds_shipped_configs_by_name(site, tmp_path):
    code = """
import densevit, densevit_configs
from densevit import config
from densevit.cli import main
print(densevit.__file__, densevit.__version__)
print(config.load("detr_swin", ["data=configs/data/coco.yaml"]).data.name)
sys.stderr = sys.stdout
main(["train", "detr_swin", "backbone.varient=x"])
main(["train", "detr_swim"])
"""
    file, data, found, missing = run(*apart(site, code), cwd=tmp_path).splitlines()
    path, version = file.split()
    assert Path(path) == site / "densevit" / "__init__.py" and re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert data == "coco"
    assert found.startswith(
        "command line: backbone.varient is not an option of 'swin'"
    )  # the config was found and read
    assert missing.startswith("there is no config file 'detr_swim'. Did you mean 'detr_swin'? Shipped: ")
    assert not list(tmp_path.iterdir())


NEWER = {  # than the oldest Python that is supported
    "typing": "Self Never LiteralString Required NotRequired TypeVarTuple Unpack assert_never assert_type reveal_type "
    "dataclass_transform override TypeAliasType TypeIs ReadOnly NoDefault",
    "enum": "StrEnum verify member nonmember",
    "datetime": "UTC",
    "contextlib": "chdir",
    "itertools": "batched",
    "hashlib": "file_digest",
    "tomllib": "load loads",
}


def test_no_module_imports_what_the_oldest_python_lacks(project):
    files = [file for folder in ("densevit", "plugins", "examples") for file in (project / folder).rglob("*.py")]
    assert len(files) > 500 and "python_requires = >=3.10" in (project / "setup.cfg").read_text()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in NEWER:
                newer = {name.name for name in node.names} & {*NEWER[node.module].split()}
                assert not newer, f"{file}: {node.module} has {newer} only from Python 3.11 on"
