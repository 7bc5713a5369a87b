"""Published weights by name: `timm:NAME[.TAG]`, `torchvision:NAME[/WEIGHTS]`, `hf:ORG/NAME[/FILE]`,
`package:NAME[/FILE]`.

Each is downloaded and cached by its own library; an installed package has its own. A line on stderr announces a
download with its size and folder. If it fails, the error names the file and what to do without a network.
"""

import http.client
import os
import re
import sys
import urllib.request
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from rich import get_console
from torch import Tensor

from densevit.errors import WeightsError, did_you_mean, nearest
from densevit.weights import packages, preprocessing
from densevit.weights.licences import UNKNOWN, line, permits_commercial_use

FORMS = ("timm:NAME[.TAG]", "torchvision:NAME[/WEIGHTS]", "hf:ORG/NAME[/FILE]", packages.FORM)
HUB_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TIMEOUT = 10.0
"""Seconds within which a server must answer; without the Hugging Face Hub, only the cache is used."""


class Published(NamedTuple):
    """Published weights. weights: the cached file, or the tensors. metadata: the metadata of `Checkpoint`."""

    weights: Path | dict[str, Tensor]
    metadata: dict[str, Any]


def is_published(source: str | Path) -> bool:
    """Whether `source` is a published name, not a path."""
    return isinstance(source, str) and source.partition(":")[0] in _SOURCES and ":" in source


def fetch(source: str, instead: str = "") -> Published:
    """The weights with that name, from the library's cache or downloaded.

    instead: what to do where there is no network, for messages; "": name a downloaded file in place of `source`.
    """
    kind, _, name = source.partition(":")
    if not name.strip():
        raise WeightsError(f"{source}: the name is empty. Expected {', '.join(FORMS)}.")
    return _SOURCES[kind](source, name.strip(), instead or f"name a downloaded file or folder in place of {source}")


# ---- timm ----


def _timm(source: str, name: str, instead: str) -> Published:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise WeightsError(_not_installed(source, "timm", "timm")) from error
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise WeightsError(f"{source}: timm has no model {model!r}.{nearest(model, timm.list_models())}")
    known = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")] if tag else []
    if tag and tag not in known:
        raise WeightsError(f"{source}: timm's {model} has no weights {tag!r}.{did_you_mean(tag, known)}")
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise WeightsError(f"{source}: timm has no weights for {model}.")
    arguments = timm_arguments(source, config, instead)
    try:
        with torch.random.fork_rng(devices=[]):  # the initialisation is overwritten
            built = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # of whichever library tried to reach the network
        if config.hf_hub_id:
            address = _hub_address(config.hf_hub_id, config.hf_hub_filename or HUB_FILES[0])
        else:
            address = config.url if isinstance(config.url, str) else str(config.url and config.url[0])
        raise WeightsError(_failed(source, error, [address], instead)) from error
    tensors = {key: value.detach() for key, value in built.state_dict().items()}
    return Published(tensors, preprocessing.of_timm(config.to_dict()))


def timm_arguments(source: str, config: Any, instead: str) -> dict[str, Any]:
    """Arguments of `timm.create_model` with which it reads its weights of the Hugging Face Hub from the cache.

    source: the name in messages. config: timm's `PretrainedCfg` of the weights. instead: the argument of `fetch`.
    Downloads the file if it is not cached, after a line that announces it and a warning with the licence if that is
    restricted. Without network it fails after one request, where timm would repeat it for minutes. Empty for weights
    that are not on the Hub, which timm downloads itself.
    Raises WeightsError for weights that are missing, gated or cannot be downloaded.
    """
    if not config.hf_hub_id or "@" in config.hf_hub_id:
        return {}
    hub = _Repository(source, config.hf_hub_id, instead)
    wanted = config.hf_hub_filename
    files = dict.fromkeys([str(Path(wanted).with_suffix(".safetensors")), wanted] if wanted else HUB_FILES[::2])
    hub.announce(config.license, files)
    return {"pretrained_cfg_overlay": {"file": str(hub.first(files))}}


def timm_repository(source: str, name: str, pretrained: bool, instead: str) -> None:
    """Downloads the config of a timm model on the Hugging Face Hub to the cache, as `timm_arguments` does the weights.

    source: the name in messages. name: ORG/NAME. pretrained: whether timm will load its weights: announces them.
    """
    hub = _Repository(source, name, instead)
    hub.first([preprocessing.CONFIG])
    if pretrained:
        hub.announce(None, HUB_FILES[::2])


# ---- torchvision ----


def _torchvision(source: str, name: str, instead: str) -> Published:
    from torchvision import models

    model, _, wanted = name.partition("/")
    if model not in models.list_models():
        raise WeightsError(f"{source}: torchvision has no model {model!r}.{nearest(model, models.list_models())}")
    known = list(models.get_model_weights(model))
    if not known:
        raise WeightsError(f"{source}: torchvision has no weights for {model}.")
    entries = {entry.name: entry for entry in known}
    default = getattr(models.get_model_weights(model), "DEFAULT", known[-1])
    entry = default if wanted in ("", "DEFAULT") else entries.get(wanted)
    if entry is None:
        raise WeightsError(f"{source}: torchvision's {model} has no weights {wanted!r}.{did_you_mean(wanted, entries)}")
    file = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(urlparse(entry.url).path)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([a-f0-9]{8,})\.", file.name)
        try:
            _announce(source, entry.url, _length(entry.url), file.parent, instead)
            torch.hub.download_url_to_file(entry.url, str(file), digest[1] if digest else None, progress=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise WeightsError(_failed(source, error, [entry.url], f"{instead}, or put it at {file}")) from error
    return Published(file, preprocessing.of_torchvision(entry))


def _length(address: str) -> int:
    """The bytes of a file that a server announces, 0 if none. Raises OSError after TIMEOUT; torch waits for minutes."""
    with urllib.request.urlopen(
        urllib.request.Request(address, headers={"User-Agent": "torch.hub"}), timeout=TIMEOUT
    ) as answer:
        return int(answer.headers.get("Content-Length") or 0)


# ---- the Hugging Face Hub ----


def _hugging_face(source: str, name: str, instead: str) -> Published:
    organisation, _, rest = name.partition("/")
    own, _, wanted = rest.partition("/")
    if not own:
        raise WeightsError(f"{source}: no repository name. Expected {FORMS[2]}.")
    hub = _Repository(source, f"{organisation}/{own}", instead)
    card = hub.get(preprocessing.CARD)
    hub.announce(preprocessing.licence(card) if card is not None else None, [wanted] if wanted else HUB_FILES)
    weights = next(filter(None, map(hub.get, [wanted] if wanted else HUB_FILES)), None)
    if weights is None and hub.unreachable is not None:
        files = [wanted or HUB_FILES[0], preprocessing.CONFIG, preprocessing.PREPROCESSORS[0]]
        addresses = [_hub_address(hub.name, file) for file in files]
        raise WeightsError(_failed(source, hub.unreachable, addresses, instead)) from hub.unreachable
    if weights is None:
        raise WeightsError(_not_there(source, hub.name, wanted))
    shards = set(preprocessing.weight_map(weights).values()) if weights.name.endswith(".index.json") else set()
    hub.instead = f"put it beside {weights}"
    for shard in sorted(shards):
        hub.first([shard])
    described = [hub.get(file) for file in (preprocessing.CONFIG, *preprocessing.PREPROCESSORS, preprocessing.CARD)]
    folder = next((file.parent for file in described if file is not None), None)
    metadata = preprocessing.of_folder(folder) if folder is not None else {}
    if hub.unreachable is not None and "mean" not in metadata:
        warnings.warn(
            f"{source}: the Hub is unreachable ({_reason(hub.unreachable)}) and the cache has no "
            f"{preprocessing.PREPROCESSORS[0]}: the repository's mean and std are not known.",
            stacklevel=2,
        )
    return Published(weights, metadata)


class _Repository:
    """A repository of the Hugging Face Hub, read through its library's cache.

    instead: the argument of `fetch`.
    unreachable: the first connection error; from then on only the cache is used. It is found by one request of its own:
    for a file that is not cached, `hf_hub_download` repeats a failed request five times, each for up to a minute.
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
        self._was_tried = False

    def get(self, file: str) -> Path | None:
        """The cached path of a file; None if the repository lacks it, or it is not cached and the Hub unreachable."""
        if not self._was_tried:
            self._size(file)
        try:
            return Path(self._library.hf_hub_download(self.name, file, local_files_only=self.unreachable is not None))
        except self._errors.GatedRepoError as error:  # a subclass of RepositoryNotFoundError
            raise WeightsError(self._gated()) from error
        except self._errors.RepositoryNotFoundError as error:
            raise WeightsError(
                f"{self.source}: the Hugging Face Hub gives no access to a repository {self.name}: there is none of "
                "this name, or it is private. Check the name; for a private one, log in with `hf auth login`."
            ) from error
        except self._errors.HFValidationError as error:
            raise WeightsError(
                f"{self.source}: {self.name!r} is not a repository name. Expected {FORMS[2]}."
            ) from error
        except self._errors.LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError
            self.unreachable = self.unreachable or error.__cause__ or error
        except self._errors.EntryNotFoundError:
            pass
        except Exception as error:  # of whichever library tried to reach the network
            if getattr(getattr(error, "response", None), "status_code", None) == 403:  # a token without this access
                raise WeightsError(self._gated()) from error
            self.unreachable = self.unreachable or error
        return None

    def first(self, files: Iterable[str]) -> Path:
        """The cached path of the first of these files that the repository has. Raises WeightsError for none."""
        files = list(files)
        file = next(filter(None, map(self.get, files)), None)
        if file is None:
            error = self.unreachable or FileNotFoundError(f"{self.name} has no {' or '.join(files)}")
            raise WeightsError(
                _failed(self.source, error, [_hub_address(self.name, files[0])], self.instead)
            ) from error
        return file

    def announce(self, licence: str | None, files: Iterable[str]) -> None:
        """Announces the download of the first of these files that the repository has, and warns of a restricted
        licence, unless one of the files is cached. licence: None: not known.
        """
        files = list(files)
        if any(isinstance(self._library.try_to_load_from_cache(self.name, file), str) for file in files):
            return
        if licence not in (None, UNKNOWN) and not permits_commercial_use(licence):
            warnings.warn(line(self.source, licence), stacklevel=2)
        for file in files:
            size = None if self.unreachable is not None else self._size(file)
            if size is not None:
                folder = Path(self._library.constants.HF_HUB_CACHE)
                size = 0 if file.endswith(".index.json") else size  # of the shards: not known
                return _announce(self.source, _hub_address(self.name, file), size, folder, self.instead)

    def _gated(self) -> str:
        return (
            f"{self.source}: the repository {self.name} is gated. Accept its terms at "
            f"https://huggingface.co/{self.name} and log in with `hf auth login`; a token needs access to gated "
            "repositories."
        )

    def _size(self, file: str) -> int | None:
        """The bytes of a file, 0 if not known, from a single request; None if the Hub does not answer, which is then
        `unreachable`, or answers with an error status."""
        self._was_tried = True
        try:
            url = self._library.hf_hub_url(self.name, file)
            return getattr(self._library.get_hf_file_metadata(url, timeout=TIMEOUT), "size", None) or 0
        except (self._errors.HfHubHTTPError, self._errors.HFValidationError):
            return None
        except Exception as error:  # of whichever library tried to reach the network
            self.unreachable = error
        return None


def _hub_address(repository: str, file: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, file)


def _not_there(source: str, repository: str, wanted: str) -> str:
    from huggingface_hub import list_repo_files

    try:
        there = list_repo_files(repository)
    except Exception:  # only to help
        there = []
    weights = [
        name for name in there if name.endswith((".safetensors", ".bin", ".pth", ".pt", ".pyth", ".npz", ".ckpt"))
    ]
    lacks = wanted or f"none of {', '.join(HUB_FILES)}"
    verb = "has no" if wanted else "has"
    listed = f" It has {', '.join(weights[:8])}: name one as hf:{repository}/FILE." if weights else ""
    return f"{source}: the repository {repository} {verb} {lacks}.{listed or f' Name a file: hf:{repository}/FILE.'}"


# ---- messages ----


def _not_installed(source: str, library: str, extra: str) -> str:
    return f"{source}: needs {library}, which is not installed. Fix: `pip install -e '.[{extra}]'` in densevit's clone."


def _announce(source: str, address: str, size: int, folder: Path, instead: str) -> None:
    """Prints a line on a download before it begins, on stderr as its progress.

    size: the number of bytes, 0 if not known.
    """
    if not get_console().quiet:
        of_size = f" ({size / 1e6:,.1f} MB)" if size else ""
        said = f"{source} is not in the cache: downloading {address}{of_size} into {folder}."
        print(f"{said} Without a network: {instead}.", file=sys.stderr)


def _failed(source: str, error: BaseException, addresses: Sequence[str], instead: str) -> str:
    """The error of a failed download. instead: the argument of `fetch`."""
    files = f"The file: {addresses[0]}"
    if len(addresses) > 1:
        files = f"The files, for one folder: {addresses[0]}, with {' and '.join(addresses[1:])} if they exist"
    return (
        f"{source}: not in the cache, and the download failed ({_reason(error)}). Without a network: {instead}. {files}"
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
