"""Published weights by name: `timm:NAME[.TAG]`, `torchvision:NAME[/WEIGHTS]`, `hf:ORG/NAME[/FILE]`,
`package:NAME[/FILE]`.

Each library downloads and caches its weights and shows the progress; a package contains them. The error of a failed
download names the file and the fix without a network.
"""

import http.client
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from densevit.errors import WeightsError, did_you_mean, nearest
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.checkpoint_io import IN_FOLDER
from densevit_backbones import hub_files
from densevit_checkpoints import file_formats, packages, preprocessing
from densevit_checkpoints.file_formats import weight_map

FORMS = ("timm:NAME[.TAG]", "torchvision:NAME[/WEIGHTS]", "hf:ORG/NAME[/FILE]", packages.FORM)


Published = tuple[Path | dict[str, Tensor], dict[str, Any]]
"""Published weights: the cached file or the tensors, and the metadata of `Checkpoint`."""


def is_published(source: str | Path) -> bool:
    """Whether `source` is a published name, not a path."""
    return isinstance(source, str) and source.partition(":")[0] in _SOURCES and ":" in source


def read(source: str, fix_hint: str = "", trust: bool = False) -> Checkpoint:
    """The tensors of published weights, from the library's cache or downloaded.

    fix_hint: what to do without a network, for messages; "": the message says to name a downloaded file in place of
    `source`. trust: unpickles any object, which runs the file's code.
    """
    library, _, name = source.partition(":")
    weights, metadata = _SOURCES[library](
        source, name.strip(), fix_hint or f"name a downloaded file or folder in place of {source}"
    )
    if isinstance(weights, Path):
        checkpoint = file_formats.read(weights, trust)
        return replace(checkpoint, source=source, metadata=checkpoint.metadata | metadata)
    return Checkpoint(weights, source, metadata=metadata)


# ---- timm ----


def _timm(source: str, name: str, fix_hint: str) -> Published:
    built = hub_files.pretrained_model(source, name, fix_hint)
    tensors = {key: value.detach() for key, value in built.state_dict().items()}
    return tensors, preprocessing.timm_metadata(built.pretrained_cfg)


# ---- torchvision ----


def _torchvision(source: str, name: str, fix_hint: str) -> Published:
    from torchvision import models

    model, _, wanted = name.partition("/")
    if model not in models.list_models():
        raise WeightsError(f"{source}: torchvision has no model {model!r}.{nearest(model, models.list_models())}")
    entries = {entry.name: entry for entry in models.get_model_weights(model)}
    if not entries:
        raise WeightsError(f"{source}: torchvision has no weights for {model}.")
    default = getattr(models.get_model_weights(model), "DEFAULT", [*entries.values()][-1])
    entry = default if wanted in ("", "DEFAULT") else entries.get(wanted)
    if entry is None:
        raise WeightsError(f"{source}: torchvision's {model} has no weights {wanted!r}.{did_you_mean(wanted, entries)}")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(entry.url).path).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([a-f0-9]{8,})\.", file.name)
        try:
            torch.hub.download_url_to_file(entry.url, str(file), digest[1] if digest else None, progress=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise WeightsError(
                hub_files.failed(source, error, [entry.url], f"{fix_hint}, or put it at {file}")
            ) from None
    return file, preprocessing.torchvision_metadata(entry)


# ---- the Hugging Face Hub ----


def _hugging_face(source: str, name: str, fix_hint: str) -> Published:
    organisation, _, rest = name.partition("/")
    repository, _, wanted = rest.partition("/")
    if not repository:
        raise WeightsError(f"{source}: no repository name. Expected {FORMS[2]}.")
    hub = hub_files.Repository(source, f"{organisation}/{repository}", fix_hint)
    files = [wanted] if wanted else IN_FOLDER
    weights = next(filter(None, map(hub.get, files)), None)
    if weights is None and hub.unreachable is not None:
        beside = f"{preprocessing.CONFIG} and {preprocessing.PREPROCESSORS[0]}"
        message = hub_files.failed(source, hub.unreachable, [hub.address(files[0])], fix_hint)
        raise WeightsError(f"{message} With {beside}, if the repository has them.") from None
    if weights is None:
        raise WeightsError(
            f"{source}: the repository {hub.name} has no {' or '.join(files)}. Name a file in it: hf:{hub.name}/FILE."
        )
    if weights.name.endswith(".index.json"):
        hub.fix_hint = f"put it beside {weights}"
        for shard in sorted(set(weight_map(weights).values())):
            hub.first([shard])
    described = [hub.get(file) for file in (preprocessing.CONFIG, *preprocessing.PREPROCESSORS, preprocessing.CARD)]
    folder = next((file.parent for file in described if file is not None), None)
    return weights, preprocessing.folder_metadata(folder) if folder is not None else {}


_SOURCES = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hugging_face,
    "package": lambda source, name, fix_hint: packages.weights_file(source, name),
}
