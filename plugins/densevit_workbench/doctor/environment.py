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

_MODULES = (
    "torch",
    "torchvision",
    "pytorch_lightning",
    "cv2",
    "simplejpeg",
    "pycocotools.mask",
)  # packages with binary libraries
_OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
_LEFT_OUT = ("pip_packages", "conda_packages", "cpu_info")  # of torch's table


def examine() -> tuple[dict[str, str], list[str]]:
    """Returns the environment as table rows, and a sentence per problem, such as a failed import.

    Takes seconds, because `torch.utils.collect_env` runs programs.
    """
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    names = [
        re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        for requirement in importlib.metadata.requires("densevit") or []
    ]
    rows = {name: installed[name] for name in ("densevit", *names) if name in installed}
    scan = registry.scan()
    problems = [
        f"{plugin.noun} of {plugin.origin} is hidden by the plugin of this name in {other.origin}."
        for plugin, other in scan.shadowed
    ]
    problems += scan.broken
    if several := [name for name in _OPENCV if name in installed]:
        problems.append(
            f"opencv-python-headless and {' and '.join(several)} overwrite each other's files, because each contains "
            "the module cv2. Fix: uninstall them, then install opencv-python-headless."
        )
    for plugin in scan.plugins.values():
        if plugin.origin.rpartition(" ")[0] != "densevit":
            nouns = [sibling.noun for sibling in scan.plugins.values() if sibling.origin == plugin.origin]
            rows[f"plugins of {plugin.origin}"] = ", ".join(nouns)
    rows |= {name: os.environ[name] for name in VARIABLES if name in os.environ}
    broken = {module: problem for module in _MODULES if (problem := _import_problem(module))}
    problems += [f"{module} cannot be imported: {problem}" for module, problem in broken.items()]
    return (rows if "torch" in broken else rows | _torch()), problems


def _torch() -> dict[str, str]:
    """The system and devices as reported by torch, and the precision of `trainer.precision: auto`."""
    import torch
    from torch.utils import collect_env

    from densevit.training.loop.training_precision import resolve

    info: dict[str, Any] = collect_env.get_env_info()._asdict()
    rows = {key.replace("_", " "): str(info[key]).strip() for key in info if key not in _LEFT_OUT and info[key]}
    model = re.search(r"Model name: *(.*)", str(info["cpu_info"]))
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
