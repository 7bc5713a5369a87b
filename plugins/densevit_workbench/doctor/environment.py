"""Versions, devices and plugins of this installation, for bug reports (`densevit doctor --environment`)."""

import importlib
import importlib.metadata
import os
import re
import warnings
from typing import Any

from densevit import registry
from densevit.errors import one_line

VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK"),
)
"""Environment variables that change the computation or its speed."""

_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "PyYAML": "yaml"}  # others: the distribution's name
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
_LEFT_OUT = ("pip_packages", "conda_packages", "cpu_info")  # of torch's table


def examine() -> tuple[dict[str, str], list[str]]:
    """Returns the environment as rows of a table, and a sentence for each problem, such as a package that cannot be
    imported. Imports all dependencies, and runs the programs of `torch.utils.collect_env`, which takes seconds."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import looks for updates over the network
    rows, problems = {"densevit": importlib.metadata.version("densevit")}, []
    for requirement in importlib.metadata.requires("densevit") or []:
        name, is_optional = re.split(r"[^\w.-]", requirement, maxsplit=1)[0], "extra ==" in requirement
        version, problem = _version(name), None if is_optional else _import_problem(name)
        if version or not is_optional:
            rows[name] = version or "not installed"
        if problem:
            problems.append(
                f"{name} {version} cannot be imported: {problem}" if version else f"{name} is not installed."
            )
    several = [f"{name} {version}" for name in _OPENCV if (version := _version(name))]
    if len(several) > 1:
        problems.append(
            f"{' and '.join(several)} overwrite each other's files, because each contains the module cv2. Fix: "
            "uninstall them, then install opencv-python-headless."
        )
    scan = registry.scan()
    problems += [f"{one.noun} of {one.origin} is hidden: {other.origin} has that name." for one, other in scan.shadowed]
    problems += scan.broken
    for plugin in scan.plugins.values():
        if plugin.origin.rpartition(" ")[0] != "densevit":
            rows[f"plugins of {plugin.origin}"] = ", ".join(
                one.noun for one in scan.plugins.values() if one.origin == plugin.origin
            )
    rows |= {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if _import_problem("torch") is None:
        rows |= _torch()
    return rows, problems


def _torch() -> dict[str, str]:
    """What torch says of the system and its devices, and the precision that a training takes."""
    import torch
    from torch.utils import collect_env

    from densevit.training.loop.precision import resolve

    found: dict[str, Any] = collect_env.get_env_info()._asdict()
    rows = {key.replace("_", " "): str(found[key]).strip() for key in found if key not in _LEFT_OUT and found[key]}
    model = re.search(r"Model name: *(.*)", str(found["cpu_info"]))
    capability, cores = torch.backends.cpu.get_cpu_capability(), os.cpu_count()
    rows["CPU"] = f"{model[1] if model else 'unknown'}, {cores} cores, torch's kernels: {capability}"
    accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return rows | {"precision auto": f"{resolve('auto', accelerator)} on {accelerator}"}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_problem(name: str) -> str | None:
    """The error of a distribution's import, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)}"
    return None
