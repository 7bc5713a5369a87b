"""Published weights by name: `timm:NAME[.TAG]`, `torchvision:NAME[/WEIGHTS]`, `hf:ORG/NAME[/FILE]`,
`package:NAME[/FILE]`.

Each library downloads and caches its weights and shows the progress; a package contains them. The error of a failed
download names the file and the fix without a network.
"""

import http.client
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor

from densevit.errors import WeightsError, did_you_mean, nearest
from densevit.weights import packages, preprocessing
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.checkpoint_io import IN_FOLDER, read_file, weight_map

FORMS = ("timm:NAME[.TAG]", "torchvision:NAME[/WEIGHTS]", "hf:ORG/NAME[/FILE]", packages.FORM)
TIMEOUT = 10.0
"""Seconds to wait for a server. If the Hugging Face Hub does not answer, only the cache is used."""


class Published(NamedTuple):
    """Published weights. weights: the cached file, or the tensors. metadata: the metadata of `Checkpoint`."""

    weights: Path | dict[str, Tensor]
    metadata: dict[str, Any]


def is_published(source: str | Path) -> bool:
    """Whether `source` is a published name, not a path."""
    return isinstance(source, str) and source.partition(":")[0] in _SOURCES and ":" in source


def read(source: str, instead: str = "", trust: bool = False) -> Checkpoint:
    """The tensors of published weights. instead: the parameter of `fetch`. trust: the parameter of `read_file`."""
    published = fetch(source, instead)
    if isinstance(published.weights, Path):
        return replace(read_file(published.weights, trust, source), metadata=published.metadata)
    return Checkpoint(published.weights, source, metadata=published.metadata)


def fetch(source: str, instead: str = "") -> Published:
    """Published weights, from the library's cache or downloaded.

    instead: what to do without a network, for messages; "": the message says to name a downloaded file in place of
    `source`.
    """
    library, _, name = source.partition(":")
    return _SOURCES[library](source, name.strip(), instead or f"name a downloaded file or folder in place of {source}")


# ---- timm ----


def _timm(source: str, name: str, instead: str) -> Published:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise WeightsError(_not_installed(source, "timm", "timm")) from error
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise WeightsError(f"{source}: timm has no model {model!r}.{nearest(model, timm.list_models())}")
    tags = [published.partition(".")[2] for published in timm.list_pretrained(f"{model}.*")] if tag else []
    if tag and tag not in tags:
        raise WeightsError(f"{source}: timm's {model} has no weights {tag!r}.{did_you_mean(tag, tags)}")
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise WeightsError(f"{source}: timm has no weights for {model}.")
    arguments = timm_arguments(source, config, instead)
    try:
        with torch.random.fork_rng(devices=[]):  # the initialisation is overwritten
            built = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # any network library's
        raise WeightsError(_failed(source, error, [str(config.hf_hub_id or config.url)], instead)) from error
    tensors = {key: value.detach() for key, value in built.state_dict().items()}
    return Published(tensors, preprocessing.timm_metadata(config.to_dict()))


def timm_arguments(source: str, config: Any, instead: str) -> dict[str, Any]:
    """Arguments of `timm.create_model` that make it read the weights from the Hugging Face Hub's cache.

    source: the name in messages. config: timm's `PretrainedCfg` of the weights. instead: the parameter of `fetch`.
    Downloads the file if it is not cached; without a network fails after one request, where timm retries for minutes.
    Returns {} for weights outside the Hub, which timm downloads itself.
    Raises WeightsError for weights that are missing, gated or cannot be downloaded.
    """
    if not config.hf_hub_id or "@" in config.hf_hub_id:
        return {}
    hub, wanted = Repository(source, config.hf_hub_id, instead), config.hf_hub_filename
    files = dict.fromkeys([str(Path(wanted).with_suffix(".safetensors")), wanted] if wanted else IN_FOLDER[::2])
    return {"pretrained_cfg_overlay": {"file": str(hub.first(files))}}


# ---- torchvision ----


def _torchvision(source: str, name: str, instead: str) -> Published:
    from torchvision import models

    model, _, wanted = name.partition("/")
    if model not in models.list_models():
        raise WeightsError(f"{source}: torchvision has no model {model!r}.{nearest(model, models.list_models())}")
    entries = {entry.name: entry for entry in models.get_model_weights(model)}
    if not entries:
        raise WeightsError(f"{source}: torchvision has no weights for {model}.")
    entry = entries.get(wanted)
    if wanted in ("", "DEFAULT"):
        entry = getattr(models.get_model_weights(model), "DEFAULT", [*entries.values()][-1])
    if entry is None:
        raise WeightsError(f"{source}: torchvision's {model} has no weights {wanted!r}.{did_you_mean(wanted, entries)}")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(entry.url).path).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([a-f0-9]{8,})\.", file.name)
        try:
            torch.hub.download_url_to_file(entry.url, str(file), digest[1] if digest else None, progress=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise WeightsError(_failed(source, error, [entry.url], f"{instead}, or put it at {file}")) from error
    return Published(file, preprocessing.torchvision_metadata(entry))


# ---- the Hugging Face Hub ----


def _hugging_face(source: str, name: str, instead: str) -> Published:
    organisation, _, rest = name.partition("/")
    repository, _, wanted = rest.partition("/")
    if not repository:
        raise WeightsError(f"{source}: no repository name. Expected {FORMS[2]}.")
    hub = Repository(source, f"{organisation}/{repository}", instead)
    files = [wanted] if wanted else IN_FOLDER
    weights = next(filter(None, map(hub.get, files)), None)
    if weights is None and hub.unreachable is not None:
        beside = [files[0], preprocessing.CONFIG, preprocessing.PREPROCESSORS[0]]
        addresses = [hub.address(file) for file in beside]
        raise WeightsError(_failed(source, hub.unreachable, addresses, instead)) from hub.unreachable
    if weights is None:
        raise WeightsError(
            f"{source}: the repository {hub.name} has no {' or '.join(files)}. Name a file in it: hf:{hub.name}/FILE."
        )
    if weights.name.endswith(".index.json"):
        hub.instead = f"put it beside {weights}"
        for shard in sorted(set(weight_map(weights).values())):
            hub.first([shard])
    described = [hub.get(file) for file in (preprocessing.CONFIG, *preprocessing.PREPROCESSORS, preprocessing.CARD)]
    folder = next((file.parent for file in described if file is not None), None)
    metadata = preprocessing.folder_metadata(folder) if folder is not None else {}
    return Published(weights, metadata)


class Repository:
    """A repository of the Hugging Face Hub, read through its library's cache.

    source: the name in messages. name: ORG/NAME. instead: the parameter of `fetch`.
    unreachable: the error of the first request if the Hub does not answer; then only the cache is used, since
    `hf_hub_download` would retry five times, up to a minute each, for a file that is not cached.
    """

    def __init__(self, source: str, name: str, instead: str) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ModuleNotFoundError as error:
            raise WeightsError(_not_installed(source, "huggingface_hub", "hub")) from error
        self.source, self.name, self.instead = source, name, instead
        self._library, self._errors = huggingface_hub, errors
        self.unreachable: BaseException | None = None
        try:
            huggingface_hub.get_hf_file_metadata(self.address(preprocessing.CARD), timeout=TIMEOUT)
        except (errors.HfHubHTTPError, errors.HFValidationError):
            pass  # the Hub answers
        except Exception as error:  # any network library's
            self.unreachable = error

    def address(self, file: str) -> str:
        """The URL of a file."""
        return str(self._library.hf_hub_url(self.name, file))

    def get(self, file: str) -> Path | None:
        """The cached path of a file; None if the repository lacks it, or it is not cached and the Hub unreachable."""
        errors = self._errors
        try:
            return Path(self._library.hf_hub_download(self.name, file, local_files_only=self.unreachable is not None))
        except errors.LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError
            self.unreachable = self.unreachable or error.__cause__ or error
        except errors.EntryNotFoundError:
            pass
        except errors.HFValidationError as error:
            raise WeightsError(
                f"{self.source}: {self.name!r} is not a repository name. Expected {FORMS[2]}."
            ) from error
        except Exception as error:  # any network library's
            is_forbidden = getattr(getattr(error, "response", None), "status_code", None) == 403
            if isinstance(error, errors.RepositoryNotFoundError) or is_forbidden:  # or gated, a subclass
                raise WeightsError(
                    f"{self.source}: the Hugging Face Hub gives no access to a repository {self.name}: it does not "
                    "exist, or is private or gated. Check the name; accept the terms of a gated repository at "
                    f"https://huggingface.co/{self.name}, and log in with `hf auth login`."
                ) from error
            self.unreachable = self.unreachable or error
        return None

    def first(self, files: Iterable[str]) -> Path:
        """The cached path of the first of these files in the repository. Raises WeightsError if it contains none."""
        files = list(files)
        file = next(filter(None, map(self.get, files)), None)
        if file is None:
            error = self.unreachable or FileNotFoundError(f"{self.name} has no {' or '.join(files)}")
            raise WeightsError(_failed(self.source, error, [self.address(files[0])], self.instead)) from error
        return file


# ---- messages ----


def _not_installed(source: str, library: str, extra: str) -> str:
    return f"{source}: needs {library}, which is not installed. Fix: `pip install -e '.[{extra}]'` in densevit's clone."


def _failed(source: str, error: BaseException, addresses: Sequence[str], instead: str) -> str:
    """The error of a failed download. instead: the parameter of `fetch`."""
    return (
        f"{source}: not in the cache, and the download failed ({_reason(error)}). Without a network: {instead}. "
        f"Download {', '.join(addresses)}."
    )


def _reason(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), "").strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_SOURCES = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hugging_face,
    "package": lambda source, name, instead: Published(*packages.weights_file(source, name)),
}
