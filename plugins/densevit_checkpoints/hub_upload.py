"""Uploads models to the Hugging Face Hub, with a card and scores, without what concerns only the user's machine."""

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import densevit
from densevit.config import yaml_io
from densevit.errors import DensevitError, WeightsError, did_you_mean, one_line
from densevit.evaluation import metrics_file
from densevit.evaluation.recorded import RecordedEvaluation
from densevit.model import DenseModel, InferenceModel, unwrapped
from densevit.paths import user_path
from densevit.weights import model_file
from densevit.weights.licences import from_header
from densevit.weights.state_dict_io import header
from densevit_backbones.hub_files import not_installed
from densevit_checkpoints.model_card import model_card
from densevit_checkpoints.transformers_export import model_of

# The folders of an absolute path, or of one in a home folder, at the beginning of a text or of an item after "; ".
_FOLDERS = re.compile(r"(?:^|(?<=; ))(?:~[^/\\]*|[A-Za-z]:)?[/\\]+(?:(?:[^/\\;]|;(?! ))+[/\\]+)*(?=[^/\\;\s])")


def push_to_hub(
    model: "DenseModel | densevit.Run | str | Path",
    repository: str,
    private: bool | None = None,
    benchmarks: Mapping[str, str] | None = None,
) -> str:
    """Uploads a model to the Hugging Face Hub, for `densevit.load("hf:ORG/NAME")`. Returns the address.

    One commit adds or replaces model.safetensors, config.yaml and README.md, the model card; other files of the
    repository stay. Absolute paths in them become their last names; loggers and callbacks are left out. A run or its
    folder gives the card the scores of the best epoch.

    model: also a run, a run folder or a model file. repository: ORG/NAME, created if it does not exist. private:
    whether a new repository is private; None: the default of ORG. benchmarks: the task of a benchmark on the Hub by
    metric, {"detection/AP": "ORG/DATASET/TASK"}, for `.eval_results`; the benchmark's eval.yaml defines its tasks.

    Raises WeightsError without huggingface_hub, network or access, and if `private` is true and the repository is
    public; DensevitError for a benchmark without score.

    Example:
        >>> densevit.push_to_hub("runs/setr_vit", "ann/setr", benchmarks={"segmentation/mIoU": "ann/streets/miou"})
        'https://huggingface.co/ann/setr'
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ModuleNotFoundError:
        raise WeightsError(not_installed(repository, "huggingface_hub", "hub")) from None
    if not isinstance(model, densevit.Run | str | Path):
        model = unwrapped(model, "push_to_hub")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise WeightsError(f"{repository!r} is not a repository name. Expected ORG/NAME.")
    with TemporaryDirectory() as folder:
        files, api = _files(model, repository, Path(folder), benchmarks or {}), HfApi()
        try:
            address = api.create_repo(repository, private=private, exist_ok=True)
            is_public = private and not api.repo_info(repository).private
            if not is_public:
                additions = [CommitOperationAdd(*file) for file in files.items()]
                api.create_commit(repository, additions, commit_message="Upload of densevit")
        except Exception as error:  # any network library's
            fix = (
                "log in with `hf auth login`, or set HF_TOKEN to a token that may write there"
                if getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
                else "check the name and the network, and push again"
            )
            raise WeightsError(f"{repository}: not pushed ({one_line(error).rstrip('.')}). Fix: {fix}.") from None
    if is_public:
        raise WeightsError(f"{repository}: not pushed: it is public. Fix: make it private in its settings.")
    return str(address)


def _files(
    model: "DenseModel | densevit.Run | str | Path", repository: str, folder: Path, benchmarks: Mapping[str, str]
) -> dict[str, bytes | Path]:
    """The files of the repository, by name. folder: an empty folder, for the weights."""
    source: Any = getattr(model, "path", model)  # a run's
    if isinstance(model, InferenceModel):
        source = folder / "saved.safetensors"
        densevit.save(model, source)
    built = model if isinstance(model, DenseModel) else getattr(model, "passed", None) or model_of(source, trust=False)
    tensors, entries, _ = model_file.read(source)
    values = {key: json.loads(text) if text.startswith("{") else text for key, text in entries.items()}
    shared = _shared({**values, "config": yaml_io.parse(entries["config"], str(source))})
    root, file = (shared["config"].get("data") or {}).get("root"), user_path(source) / "metrics.json"
    command = f"densevit evaluate hf:{repository}{f' data.root={shlex.quote(str(root))}' if root else ''}"
    recorded = RecordedEvaluation.from_json(shared["evaluation"]).model if "evaluation" in shared else {}
    metrics = metrics_file.read(file) if file.is_file() else recorded
    card = model_card(built, repository, from_header(header(shared)), metrics, command)
    config = yaml_io.write(shared["config"])
    model_file.write(tensors, {**shared, "config": config}, folder / "model.safetensors")
    texts = {
        "config.yaml": config,
        "README.md": card,
        **{
            f".eval_results/{metric.replace('/', '-')}.yaml": _result(metrics, metric, task, command)
            for metric, task in benchmarks.items()
        },
    }
    return {name: text.encode() for name, text in texts.items()} | {"model.safetensors": folder / "model.safetensors"}


def _shared(values: Any) -> Any:
    """The values of a header without folders of the machine; without loggers, which name servers and accounts, and
    callbacks, whose code loading would need."""
    if isinstance(values, Mapping):
        items = [(key, value if key == "classes" else _shared(value)) for key, value in values.items()]
        return {_shared(key): value for key, value in items if key not in ("callbacks", "loggers")}
    if isinstance(values, list):
        return [_shared(value) for value in values]
    return _FOLDERS.sub("", values) if isinstance(values, str) else values


def _result(metrics: Mapping[str, float], metric: str, task: str, command: str) -> str:
    """The text of a file of `.eval_results`: https://huggingface.co/docs/hub/eval-results."""
    organisation, name, task_id = (*task.split("/", 2), "", "")[:3]
    if not task_id or not math.isfinite(metrics.get(metric, math.nan)):
        raise DensevitError(
            f"benchmarks: {metric}: {task}: expected the name of a score and ORG/DATASET/TASK."
            f"{did_you_mean(metric, metrics)}"
        )
    dataset = {"id": f"{organisation}/{name}", "task_id": task_id}
    return yaml.safe_dump([{"dataset": dataset, "value": metrics[metric], "notes": command}], sort_keys=False)
