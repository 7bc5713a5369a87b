"""Versions, devices and plugins of this installation, for bug reports (`densevit doctor --environment`)."""

import importlib
import importlib.metadata
import os
import re
from typing import Any

from densevit import registry
from densevit.errors import one_line

VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK"),
)
"""Environment variables that change the computation or its speed."""

_MODULES = ("torch", "torchvision", "pytorch_lightning", "cv2", "simplejpeg", "pycocotools.mask")  # of binary libraries
_OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
_LEFT_OUT = ("pip_packages", "conda_packages", "cpu_info")  # of torch's table


def examine() -> tuple[dict[str, str], list[str]]:
    """Returns the environment as rows of a table, and a sentence for each problem, such as a package that cannot be
    imported. Runs the programs of `torch.utils.collect_env`, which takes seconds."""
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    names = [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in importlib.metadata.requires("densevit") or []]
    rows = {name: installed[name] for name in ("densevit", *names) if name in installed}
    scan = registry.scan()
    problems = [f"{one.noun} of {one.origin} is hidden: {other.origin} has that name." for one, other in scan.shadowed]
    problems += scan.broken
    if several := [name for name in _OPENCV if name in installed]:
        problems.append(
            f"opencv-python-headless and {' and '.join(several)} overwrite each other's files, because each contains "
            "the module cv2. Fix: uninstall them, then install opencv-python-headless."
        )
    for plugin in scan.plugins.values():
        if plugin.origin.rpartition(" ")[0] != "densevit":
            of_origin = [one.noun for one in scan.plugins.values() if one.origin == plugin.origin]
            rows[f"plugins of {plugin.origin}"] = ", ".join(of_origin)
    rows |= {name: os.environ[name] for name in VARIABLES if name in os.environ}
    broken = {module: problem for module in _MODULES if (problem := _import_problem(module))}
    problems += [f"{module} cannot be imported: {problem}" for module, problem in broken.items()]
    return (rows if "torch" in broken else rows | _torch()), problems


def _torch() -> dict[str, str]:
    """What torch says of the system and its devices, and the precision that a training takes."""
    import torch
    from torch.utils import collect_env

    from densevit.training.loop.training_precision import resolve

    found: dict[str, Any] = collect_env.get_env_info()._asdict()
    rows = {key.replace("_", " "): str(found[key]).strip() for key in found if key not in _LEFT_OUT and found[key]}
    model = re.search(r"Model name: *(.*)", str(found["cpu_info"]))
    capability, cores = torch.backends.cpu.get_cpu_capability(), os.cpu_count()
    rows["CPU"] = f"{model[1] if model else 'unknown'}, {cores} cores, torch's kernels: {capability}"
    accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return rows | {"precision auto": f"{resolve('auto', accelerator)} on {accelerator}"}


def _import_problem(module: str) -> str | None:
    """The error of an import, or None."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)}"
    return None
