"""Published weights of timm, and files of the Hugging Face Hub, from the libraries' caches or downloaded."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from densevit.errors import WeightsError, did_you_mean, nearest

TIMEOUT = 10.0
"""Seconds to wait for a server. If the Hugging Face Hub does not answer, only the cache is used."""


def pretrained_model(source: str, name: str, fix_hint: str) -> Any:
    """timm's model of published weights, with all of its layers.

    source: the name in messages. name: NAME[.TAG]. fix_hint: what to do without a network, for messages. Raises
    WeightsError for an unknown name and a failed download.
    """
    try:
        import timm
    except ModuleNotFoundError:
        raise WeightsError(not_installed(source, "timm", "timm")) from None
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise WeightsError(f"{source}: timm has no model {model!r}.{nearest(model, timm.list_models())}")
    tags = [published.partition(".")[2] for published in timm.list_pretrained(f"{model}.*")] if tag else []
    if tag and tag not in tags:
        raise WeightsError(f"{source}: timm's {model} has no weights {tag!r}.{did_you_mean(tag, tags)}")
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise WeightsError(f"{source}: timm has no weights for {model}.")
    arguments = timm_arguments(source, config, fix_hint)
    try:
        with torch.random.fork_rng(devices=[]):  # the initialisation is overwritten
            return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # any network library's
        raise WeightsError(failed(source, error, [str(config.hf_hub_id or config.url)], fix_hint)) from None


def timm_arguments(source: str, config: Any, fix_hint: str) -> dict[str, Any]:
    """Arguments of `timm.create_model` that make it read the weights from the Hugging Face Hub's cache.

    source: the name in messages. config: timm's `PretrainedCfg` of the weights. fix_hint: what to do without a
    network, for messages.
    Downloads the file if it is not cached; without a network fails after one request, where timm retries for minutes.
    Returns {} for weights outside the Hub, which timm downloads itself.
    Raises WeightsError for weights that are missing, gated or cannot be downloaded.
    """
    if not config.hf_hub_id or "@" in config.hf_hub_id:
        return {}
    hub, wanted = Repository(source, config.hf_hub_id, fix_hint), config.hf_hub_filename
    files = dict.fromkeys(
        [str(Path(wanted).with_suffix(".safetensors")), wanted]
        if wanted
        else ("model.safetensors", "pytorch_model.bin")
    )
    return {"pretrained_cfg_overlay": {"file": str(hub.first(files))}}


class Repository:
    """A repository of the Hugging Face Hub, read through its library's cache.

    source: the name in messages. name: ORG/NAME. fix_hint: what to do without a network, for messages.
    unreachable: the error of the first request if the Hub does not answer; then only the cache is used, since
    `hf_hub_download` would retry five times, up to a minute each, for a file that is not cached.
    """

    def __init__(self, source: str, name: str, fix_hint: str) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ModuleNotFoundError:
            raise WeightsError(not_installed(source, "huggingface_hub", "hub")) from None
        self.source, self.name, self.fix_hint = source, name, fix_hint
        self._library, self._errors = huggingface_hub, errors
        self.unreachable: BaseException | None = None
        try:
            huggingface_hub.get_hf_file_metadata(self.address("README.md"), timeout=TIMEOUT)
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
        except errors.HFValidationError:
            raise WeightsError(
                f"{self.source}: {self.name!r} is not a repository name. Expected hf:ORG/NAME[/FILE]."
            ) from None
        except Exception as error:  # any network library's
            is_forbidden = getattr(getattr(error, "response", None), "status_code", None) == 403
            if isinstance(error, errors.RepositoryNotFoundError) or is_forbidden:  # or gated, a subclass
                raise WeightsError(
                    f"{self.source}: the Hugging Face Hub gives no access to a repository {self.name}: it does not "
                    "exist, or is private or gated. Check the name; accept the terms of a gated repository at "
                    f"https://huggingface.co/{self.name}, and log in with `hf auth login`."
                ) from None
            self.unreachable = self.unreachable or error
        return None

    def first(self, files: Iterable[str]) -> Path:
        """The cached path of the first of these files in the repository. Raises WeightsError if it contains none."""
        files = list(files)
        file = next(filter(None, map(self.get, files)), None)
        if file is None:
            error = self.unreachable or FileNotFoundError(f"{self.name} has no {' or '.join(files)}")
            raise WeightsError(failed(self.source, error, [self.address(files[0])], self.fix_hint)) from None
        return file


def not_installed(source: str, library: str, extra: str) -> str:
    return f"{source}: needs {library}, which is not installed. Fix: `pip install -e '.[{extra}]'` in densevit's clone."


def failed(source: str, error: BaseException, addresses: Sequence[str], fix_hint: str) -> str:
    """The error of a failed download. fix_hint: what to do without a network."""
    return (
        f"{source}: not in the cache, and the download failed ({_reason(error)}). Without a network: {fix_hint}. "
        f"Download {', '.join(addresses)}."
    )


def _reason(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), "").strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
