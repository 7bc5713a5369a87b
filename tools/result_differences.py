"""Digests of results, and where two results differ most; for same_results.py."""

import hashlib
import re
from collections.abc import Iterator

import numpy as np

Parts = dict[str, np.ndarray | str]  # what is compared, by name: tensors, maps, texts
Results = dict[str, Parts]


def digest(parts: Parts, *names: str) -> str:
    hashed = hashlib.sha256()
    for name in names or sorted(parts):
        part = parts[name]
        shape = "" if isinstance(part, str) else f"{part.dtype}{part.shape}"
        hashed.update(f"{name}\0{shape}".encode() + (part.encode() if isinstance(part, str) else part.tobytes()))
    return hashed.hexdigest()[:12]


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def difference(before: Parts, after: Parts) -> str:
    """Where two results differ most, and by how much; empty if they are equal."""
    if names := sorted(before.keys() ^ after.keys()):
        return f"only in one: {', '.join(names)}"
    differing = [
        (apart(before[name], after[name]), name) for name in before if digest(before, name) != digest(after, name)
    ]
    if not differing:
        return ""
    most, name = max(differing)
    if most < float("inf"):
        return f"{len(differing)} of {len(before)} parts, most {name}: by {most:.3g}"
    texts = [" ".join(str(parts[name]).split()) for parts in (before, after)]
    start = max(next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0) - 40, 0)
    return (
        f"{len(differing)} of {len(before)} parts, as {name}: {' | '.join(text[start : start + 200] for text in texts)}"
    )


def apart(before: np.ndarray | str, after: np.ndarray | str) -> float:
    """The largest difference of numbers; infinite if something else differs."""
    if isinstance(before, str) and isinstance(after, str):
        if NUMBER.sub("", before) != NUMBER.sub("", after):
            return float("inf")
        before, after = (np.array(NUMBER.findall(text), np.float64) for text in (before, after))
    if isinstance(before, str) or isinstance(after, str) or before.shape != after.shape or not before.size:
        return float("inf")
    return float(np.nan_to_num(np.abs(before.astype(np.float64) - after), nan=np.inf).max())


def compare(before: Results, after: Results) -> Iterator[tuple[str, str, str]]:
    """Yields the name of each thing, its digest before, and the difference."""
    for name in {**before, **after}:
        a, b = before.get(name, {}), after.get(name, {})
        yield name, digest(a), difference(a, b)
