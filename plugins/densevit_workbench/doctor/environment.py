"""Versions, devices and CPU features of this installation, for bug reports (`densevit doctor --environment`).

Each part is examined by itself: a package that is missing, or whose import fails, is reported and does not stop the
others. The values are meant to be published: they have no absolute paths, user names or host names.
"""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from densevit import registry, terminal
from densevit.errors import one_line

VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK"),
)
"""Environment variables that change the computation or its speed."""

CPU_FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"),  # x86
    *("asimd", "sve", "sve2", "i8mm", "bf16"),  # ARM
)
_DEVELOPMENT = ("docs", "test")  # extras that no command needs
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "PyYAML": "yaml"}  # others: the distribution's name
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
_GIB = 2**30


@dataclass
class Environment:
    """The environment, as JSON values.

    packages: versions of densevit and its dependencies, None if missing. extras: versions of optional packages that are
    installed. memory: sizes in bytes. variables: the set ones of `VARIABLES`. plugins: names by third-party
    distribution.
    problems: a sentence for each, such as a package that cannot be imported.
    """

    python: str = ""
    packages: dict[str, str | None] = field(default_factory=dict)
    extras: dict[str, str] = field(default_factory=dict)
    system: str = ""
    cpu: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    gpu: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    plugins: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def examine() -> Environment:
    """Examines the environment. Imports all dependencies, which takes seconds."""
    found = Environment(python=f"{platform.python_version()} ({platform.python_implementation()})")
    parts: dict[str, Callable[[Environment], None]] = {
        "packages": _packages,
        "operating system": _system,
        "CPU": _cpu,
        "memory": _memory,
        "GPU driver": _driver,
        "plugins": _plugins,
    }
    if _import_problem("torch") is None:
        parts |= {"torch on the CPU": _torch_on_cpu, "GPUs": _gpu}
    for name, part in parts.items():
        try:
            part(found)
        except Exception as error:  # of any library
            found.problems.append(f"{name}: cannot be examined: {type(error).__name__}: {one_line(error)}")
    found.variables = {name: public(os.environ[name]) for name in VARIABLES if name in os.environ}
    found.problems = [public(problem) for problem in found.problems]
    return found


def table(environment: Environment) -> Table:
    """The environment as a table of two columns."""
    return terminal.table([[Text(name, "bold"), value] for name, value in _rows(environment)], right=(), no_wrap=(0,))


def public(text: str) -> str:
    """The text with the last component of each absolute path instead of the path, and `~` for the home folder."""
    home = os.path.expanduser("~")
    text = text.replace("file://", "")
    folders = {home, os.getcwd(), sys.prefix, sys.base_prefix, *sys.path} - {"", os.sep}
    for folder in sorted(folders, key=len, reverse=True):  # their names may contain spaces
        text = re.sub(rf"{re.escape(folder)}(?=[\\/])", "~", text)
    text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    text = re.sub(r"(['\"])(?:~|[A-Za-z]:)?[\\/][^'\"\n]*?([^'\"\\/\n]*)\1", r"\1\2\1", text)
    return re.sub(r"(?<![\w./~])(?:~|\b[A-Za-z]:)?[\\/](?:[^\s\\/'\"]+[\\/])*(?=[^\s\\/])", "", text)


# ---- parts ----


def _packages(found: Environment) -> None:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import looks for updates over the network
    found.packages["densevit"] = f"{importlib.metadata.version('densevit')}{_commit()}"
    required: list[str] = []
    optional = {"faster-coco-eval", *_OPENCV}
    for requirement in importlib.metadata.requires("densevit") or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        if extra is None:
            required.append(name)
        elif extra[1] not in _DEVELOPMENT:
            optional.add(name)
    for name in required:
        found.packages[name] = version = _version(name)
        problem = _import_problem(_MODULES.get(name, name.replace("-", "_")))
        if problem and version is None:
            found.problems.append(f"{name} is not installed.")
        elif problem:
            found.problems.append(f"{name} {version} cannot be imported: {problem}")
    installed = {name: _version(name) for name in sorted(optional - {*required}, key=str.lower)}
    found.extras = {name: version for name, version in installed.items() if version}
    several = [f"{name} {version}" for name in _OPENCV if (version := _version(name))]
    if len(several) > 1:
        found.problems.append(
            f"{' and '.join(several)} overwrite each other's files, because each contains the module cv2. Fix: "
            "uninstall them, then install opencv-python-headless."
        )


def _system(found: Environment) -> None:
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:  # not Linux
        distribution = ""
    names = (f"{platform.system()} {platform.release()}", " ".join(platform.libc_ver()).strip(), platform.machine())
    found.system = ", ".join(filter(None, (distribution, *names)))


def _cpu(found: Environment) -> None:
    lines = [line.partition(":") for line in _lines(Path("/proc/cpuinfo"))]
    values = {key.strip(): value.strip() for key, _, value in lines}
    flags = (values.get("flags") or values.get("Features") or "").split()
    found.cpu["name"] = values.get("model name") or platform.processor() or platform.machine()
    found.cpu["cores"] = os.cpu_count()
    found.cpu["usable_cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found.cpu["features"] = [name for name in CPU_FEATURES if name in flags] if flags else None


def _memory(found: Environment) -> None:
    """Memory: total, the limit of a container, and shared memory, which the workers of data loaders need."""
    if hasattr(os, "sysconf"):
        found.memory["total"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups of version 2 and 1
        for line in _lines(Path("/sys/fs/cgroup", file)):
            if line.isdigit() and int(line) < found.memory.get("total", 0):
                found.memory["limit"] = int(line)
    if Path("/dev/shm").is_dir():
        found.memory["shared"] = shutil.disk_usage("/dev/shm").total


def _driver(found: Environment) -> None:
    """The NVIDIA driver and the names of its GPUs, also if torch does not use them."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    lines = [line.rpartition(",") for line in _output(*query).splitlines() if "," in line]
    found.gpu["installed"] = [name.strip() for name, _, _ in lines]
    found.gpu["driver"] = lines[0][2].strip() if lines else None


def _plugins(found: Environment) -> None:
    scan = registry.scan()
    for plugin in scan.plugins.values():
        if plugin.origin.rpartition(" ")[0] != "densevit":
            found.plugins.setdefault(plugin.origin, []).append(plugin.noun)
    for hidden, winner in scan.shadowed:
        found.problems.append(f"{hidden.noun} of {hidden.origin} is hidden: {winner.origin} has that name.")
    found.problems += scan.broken


def _torch_on_cpu(found: Environment) -> None:
    import torch

    from densevit.layers.fast.hardware import blas_lacks_avx512, supports_bf16

    found.cpu["torch_capability"] = torch.backends.cpu.get_cpu_capability()
    found.cpu["mkl"] = torch.backends.mkl.is_available()
    found.cpu["onednn"] = torch.backends.mkldnn.is_available()
    found.cpu["threads"] = torch.get_num_threads()
    found.cpu["bf16"] = supports_bf16("cpu")
    found.cpu["blas_lacks_avx512"] = blas_lacks_avx512()
    found.cpu["precision_auto"] = _auto_precision("cpu")


def _gpu(found: Environment) -> None:
    """The GPUs that torch uses."""
    import torch

    found.gpu |= {"cuda": torch.version.cuda, "rocm": torch.version.hip, "cudnn": None, "devices": []}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    found.problems += [f"torch.cuda: {' '.join(str(one.message).split())}" for one in caught]  # e.g. an old driver
    if available:
        found.gpu["cudnn"] = torch.backends.cudnn.version()
        found.gpu["devices"] = [_device(torch, index) for index in range(torch.cuda.device_count())]
    elif found.gpu.get("installed"):
        why = "it is built without CUDA" if torch.version.cuda is None else "torch.cuda.is_available() is False"
        found.problems.append(f"torch does not use {', '.join(found.gpu['installed'])}: {why}.")
    elif torch.backends.mps.is_available():
        device = {"name": "MPS", "memory": None, "compute_capability": None, "precision_auto": _auto_precision("mps")}
        found.gpu["devices"] = [device]


def _device(torch: Any, index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        precision = _auto_precision("cuda")
    capability = f"{properties.major}.{properties.minor}"
    memory = {"memory": properties.total_memory, "compute_capability": capability}
    return {"name": properties.name, **memory, "precision_auto": precision}


# ---- the table ----


def _rows(found: Environment) -> Iterator[tuple[str, str]]:
    cpu, gpu = found.cpu, found.gpu
    yield "Python", found.python
    yield from ((name, version or "not installed") for name, version in found.packages.items())
    yield "optional", _joined(f"{name} {version}" for name, version in found.extras.items())
    yield "system", found.system
    if cpu:
        usable = "" if cpu["usable_cores"] == cpu["cores"] else f", {cpu['usable_cores']} usable"
        yield "CPU", f"{cpu['name']}, {cpu['cores']} cores{usable}"
        yield "CPU features", "unknown" if cpu["features"] is None else _joined(cpu["features"])
    if "precision_auto" in cpu:
        libraries = [name for name, key in (("MKL", "mkl"), ("oneDNN", "onednn")) if cpu[key]]
        products = "fp32 products with AVX2" if cpu["blas_lacks_avx512"] else ""
        words = (f"{cpu['torch_capability']} kernels", *libraries, products, f"{cpu['threads']} threads")
        yield "torch on the CPU", f"{_joined(filter(None, words))}, {_precision_text(cpu)}"
    memory = {"total": "", "limit": " limit of the container", "shared": " shared"}
    yield (
        "memory",
        _joined(f"{found.memory[key] / _GIB:.1f} GiB{text}" for key, text in memory.items() if key in found.memory),
    )
    builds = (
        ("CUDA", gpu.get("cuda")),
        ("ROCm", gpu.get("rocm")),
        ("cuDNN", gpu.get("cudnn")),
        ("driver", gpu.get("driver")),
    )
    yield "torch's GPU build", _joined(f"{name} {version}" for name, version in builds if version)
    devices = gpu.get("devices", [])
    for index, one in enumerate(devices):
        size = f"{one['memory'] / _GIB:.1f} GiB, " if one["memory"] else ""
        capability = f"compute capability {one['compute_capability']}, " if one["compute_capability"] else ""
        yield f"GPU {index}", f"{one['name']}, {size}{capability}{_precision_text(one)}"
    if not devices:
        yield "GPU", "none that torch uses"
    yield from found.variables.items()
    for distribution, names in found.plugins.items():
        yield f"plugins of {distribution}", _joined(names)
    if not found.plugins:
        yield "other plugins", "none"
    yield from (("problem", problem) for problem in found.problems)


def _precision_text(device: dict[str, Any]) -> str:
    return f"precision auto: {device['precision_auto'] or 'unknown'}"


def _joined(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"


# ---- queries ----


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_problem(module: str) -> str | None:
    """The error of an import, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)}"
    return None


def _auto_precision(accelerator: str) -> str | None:
    """`trainer.precision: auto` on the current device; None if Lightning cannot be imported."""
    try:
        from densevit.training.loop.precision import resolve
    except Exception:  # reported with the packages
        return None
    return resolve("auto", accelerator)


def _commit() -> str:
    """The commit of a clone, such as " (commit 9d1ccb05f2, changed)"; "" if densevit does not run in its clone."""
    clone = Path(__file__).resolve().parents[3]
    if not (clone / ".git").exists():
        return ""
    commit = _output("git", "-C", str(clone), "rev-parse", "--short=10", "HEAD").strip()
    changes = _output("git", "-C", str(clone), "status", "--porcelain", "--untracked-files=no").strip()
    return f" (commit {commit}{', changed' if changes else ''})" if commit else ""


def _output(*command: str) -> str:
    """The output of a program; "" if it is missing, fails or takes over 10 seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []
