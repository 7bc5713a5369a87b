"""In place of downloads, uploads and repeated exports."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def torch_download(url: str, file: str, *_: object, **__: object) -> None:
    """`torch.hub.download_url_to_file`, with random weights."""
    import torch
    from torchvision import models

    torch.save(models.get_model(Path(url).name.partition("-")[0]).state_dict(), file)


def exported_once(folder: Path) -> Callable[..., Any]:
    """`densevit_export.files.write`, which traces equal graphs once: further files are copies with their header."""
    from densevit_export import files

    write = files.write

    def write_once(
        graph: Any,
        path: Path,
        size: tuple[int, int],
        header: Mapping[str, Any],
        begin: Callable[[str], None] = lambda name: None,
        rewrite: Callable[..., None] = files.unchanged,
        program: Any = None,
    ) -> Any:
        import torch

        state = [(name, tensor.shape, tensor.double().sum().item()) for name, tensor in graph.state_dict().items()]
        text = repr((type(graph), str(graph), state, graph.canvas, graph.resizing is None, size, torch.__version__))
        file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}{path.suffix}"
        if rewrite is not files.unchanged or not file.exists():
            written = write(graph, path, size, header, begin, rewrite, program)
            if rewrite is files.unchanged:
                partial = shutil.copy(path, file.with_suffix(f".{os.getpid()}"))
                os.replace(partial, file)
            return written
        shutil.copy(file, path)
        files.replace_header(path, header)
        return torch.export.load(path) if path.suffix == ".pt2" else path

    return write_once


def untrained_timm() -> Callable[..., Any]:
    """`timm.create_model` without pretrained weights, which are those of a nano ViT."""
    import timm

    create = timm.create_model
    nano = {"embed_dim": 128, "depth": 6, "num_heads": 4}

    def create_model(name: str, pretrained: bool = False, **given: object) -> Any:
        return create(name, **given, **(nano if pretrained and name.startswith("vit_") else {}))

    return create_model
