"""Converts another project's checkpoint to a run folder for `load`, `evaluate` and `predict`."""

from collections.abc import Sequence
from pathlib import Path

from densevit import config as configs
from densevit.atomic_io import atomic_folder
from densevit.config.yaml_io import write as yaml
from densevit.errors import WeightsError, listed
from densevit.layouts import leading_parts
from densevit.model import DenseModel
from densevit.weights import model_file
from densevit.weights.checkpoint_io import read
from densevit_checkpoints.converting import Converted, convert_checkpoint
from densevit_checkpoints.recognition import without_prefix


def convert(
    source: str | Path,
    layout: str | None = None,
    overrides: Sequence[str] = (),
    trust: bool = False,
    prefix: str | None = None,
) -> Converted:
    """Reads a checkpoint and builds its model; see `convert_checkpoint`.

    trust: whether its code is run. prefix: only the tensors whose keys begin with it are read, by key without it.
    Raises WeightsError if there are none.
    """
    checkpoint = read(source, trust=trust)
    if checkpoint.header.get("format") == "densevit":
        raise WeightsError(f"{source}: is already in densevit's layout. For transformers' files: --to hf.")
    if prefix is not None:
        if not any(key.startswith(prefix) for key in checkpoint.tensors):
            prefixes = listed(map(repr, leading_parts(checkpoint.tensors)))
            raise WeightsError(f"{source}: no key begins with {prefix!r}. Fix: name one of its prefixes ({prefixes}).")
        checkpoint = without_prefix(checkpoint, prefix)
    return convert_checkpoint(checkpoint, layout, overrides)


def write(converted: Converted, out: Path) -> None:
    """Writes a new folder: for a model, config.yaml and model.safetensors; for a backbone, model.safetensors, a value
    of `backbone.weights`, and backbone.yaml, its config section."""
    with atomic_folder(out) as folder:
        if converted.model.config is not None:
            model_file.save(converted.model, folder / "model.safetensors")
            text = configs.dump(converted.model.config, _comments(converted, converted.model))
            (folder / "config.yaml").write_text(text, "utf-8")
            return
        section = {
            key: value
            for key, value in converted.model.sections.backbone.model_dump().items()
            if key != "allow_mismatch"
        }
        model_file.save_backbone(
            converted.model.backbone, section, folder / "model.safetensors", converted.model.licences
        )
        text = f"# Converted from {converted.source}. It is a config's section: backbone={out / 'backbone.yaml'}\n"
        (folder / "backbone.yaml").write_text(text + yaml({**section, "weights": str(out)}), "utf-8")


def _comments(converted: Converted, model: DenseModel) -> dict[str, str]:
    metadata = {"converted from": converted.source}
    metadata |= {f"licences of {source}": str(stated) for source, stated in converted.model.licences.items()}
    for name, classes in model.classes.items():
        metadata |= {f"classes of {name}": ", ".join(c.name for c in classes)} if classes else {}
    return metadata
