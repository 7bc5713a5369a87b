"""Distributions as pip installs them."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

from tests.written_files import write_texts


def write_distribution(
    site: Path, name: str, entry_points: str | bytes, files: Mapping[str, str] | None = None, metadata: str = ""
) -> Path:
    """Writes a distribution's metadata, entry points and files to a folder, which is returned."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    text = textwrap.dedent(entry_points).encode() if isinstance(entry_points, str) else entry_points
    (info / "entry_points.txt").write_bytes(text)
    return write_texts(site, {file: textwrap.dedent(source) for file, source in (files or {}).items()})
