"""Models other than densevit's files: published names, exported files, checkpoints of other projects.

Each kind is a plugin of the entry-point group `densevit.sources`, a subclass of `Source`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from densevit import registry
from densevit.config import ModelSections
from densevit.errors import WeightsError
from densevit.model import DenseModel, InferenceModel
from densevit.paths import user_path
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.translated_checkpoint import ResolvedCheckpoint


class Source:
    """Reads models of a kind. `recognises` and `load` are required.

    forms: the names that it publishes, for messages: "hf:ORG/NAME[/FILE]". options: the optional arguments of
    `densevit.load` that it takes: "runtime", "backbone".
    """

    forms: Sequence[str] = ()
    options: Sequence[str] = ()

    def recognises(self, source: str | Path) -> bool:
        """Whether `load` reads this file, folder or name. Reads at most a header. densevit's own files come first."""
        raise NotImplementedError

    def load(self, source: str | Path, trust: bool = False, **options: Any) -> tuple[InferenceModel, bool]:
        """Loads the model, in evaluation mode on the CPU. trust, options: arguments of `densevit.load`.

        Returns it, and whether the weights are another project's: its config is then derived from them, with the
        published recipe's sizes in its section `data`, not the user's data.
        """
        raise NotImplementedError

    def read(self, source: str, fix_hint: str = "", trust: bool = False) -> Checkpoint:
        """Reads the tensors of a published name or a file. fix_hint: what to do without a network, for messages."""
        raise WeightsError(f"{source}: not a file of weights. Fix: name the run or the model that it was made from.")

    def resolve(self, checkpoint: Checkpoint, sections: ModelSections, model: DenseModel) -> ResolvedCheckpoint | None:
        """Translates a checkpoint that `weights` in the sections names. None: it is not of this kind.

        sections: the model's; those of the result have the options with which the checkpoint's project computes. model:
        built from the sections on the meta device.
        """
        return None

    def backbone(self, name: str) -> Mapping[str, Any] | None:
        """The section `backbone` that a name of published weights means: plugin, options, and `weights` or
        `pretrained`. None: it is not a name of this source."""
        return None

    def backbones(self) -> Sequence[str]:
        """The names without a prefix that `backbone` takes, for suggestions."""
        return ()


def sources() -> Iterator[Source]:
    """Yields the installed sources. Warns of those that cannot be loaded."""
    return (source() for source in registry.load_all("sources", "It reads no models."))


def source_of(source: str | Path, options: Collection[str] = ()) -> Source | None:
    """The source that recognises a file, folder or name, and takes these optional arguments of `densevit.load`."""
    return next((s for s in sources() if {*options} <= {*s.options} and s.recognises(source)), None)


def is_published(source: str | Path) -> bool:
    """Whether weights are a published name, not a path."""
    return not user_path(source).exists() and source_of(source) is not None
