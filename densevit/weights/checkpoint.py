"""A checkpoint as it is read, with the keys of the project that wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """A state dict as its project saved it.

    tensors: the tensors by the project's keys, on the CPU. source: the file or name, for messages. header: the header
    of a safetensors file, or the model file's header in densevit's Lightning checkpoints. path: the file; None for
    tensors of a library. content: what a file of `torch.save` contains besides the tensors. metadata: what a source
    knows of the tensors. containers: the file's state dicts by path, such as `ema.module`, the one in `tensors` first.
    notes: one sentence for each choice among the file's tensors.
    """

    tensors: dict[str, Tensor]
    source: str
    header: dict[str, str] = field(default_factory=dict)
    path: Path | None = None
    content: Mapping[Any, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    containers: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def with_container(self, path: str = "") -> "Checkpoint":
        """The checkpoint with the state dict of a container, and a note if it has several.

        path: the container of the published weights (`CheckpointLayout`); "", or absent: the one in `tensors`.
        """
        loaded, *unread = sorted(self.containers, key=lambda name: name != path) or [""]
        if not unread:
            return self
        return replace(
            self,
            tensors=self.containers.get(path, self.tensors),
            notes=(*self.notes, f"Of the file's state dicts, {loaded} is loaded, not {' or '.join(unread)}."),
        )
