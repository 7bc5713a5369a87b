"""What a conversion finds, uses and leaves out: numbers counted here from the files, and the reasons."""

import json
import os
from pathlib import Path

import pytest

from densevit.cli import main
from tests.workbench.interchange.files import image
from tests.written_files import write_text, write_texts


def files(root: Path, *suffixes: str) -> list[Path]:
    """All files below a folder and linked folders, by `os.walk`."""
    names = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    return [path for path in names if path.suffix in suffixes]


def link(root: Path, folder: str, store: Path) -> None:
    """Moves a folder elsewhere and links to it."""
    os.rename(root / folder, store)
    os.symlink(store.resolve(), root / folder)


def yolo(root: Path) -> tuple[int, int, int]:
    for name in ("train/cam/a", "train/b", "val/c"):
        image(root / "images" / f"{name}.jpg")
        write_text(root / "labels" / f"{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    link(root, "images/train/cam", root.parent / "store")
    wrong = "0 0.5 0.5 0.5 0.5 0.75\n0 0.5 0.5 0 0.5\n0 30 10 20 20\n0 nan 0.5 0.5 0.5"
    write_text(root / "labels" / "train" / "b.txt", wrong)
    image(root / "images" / "train" / "damaged.jpg", damaged=True)
    for name in ("images/train/unlabelled.jpg", "images/extra/unlisted.jpg", "plot.png"):
        image(root / name)
    texts = {
        "labels/train/damaged.txt": "0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5\n",
        "images/train/phone.heic": "",
        "labels/train/phone.txt": "0 0.5 0.5 0.5 0.5\n",
        "labels/val/lone.txt": "0 0.5 0.5 0.5 0.5\n",
        "README.txt": "This set was exported by hand.\n",
        "val.txt": "images/val/c.jpg\nimages/val/gone.jpg\n",
        "data.yaml": "train: images/train\nval: val.txt\nnames: [cat]\n",
    }
    write_texts(root, texts)
    labels = [path for path in files(root, ".txt") if "labels" in path.parts]
    lines = sum(len(path.read_text().splitlines()) for path in labels)
    return len(files(root, ".jpg", ".png", ".heic")) + 1, len(labels), lines  # gone.jpg


REASONS: tuple[dict[str, int], ...] = (  # of images, of label files and of objects
    {"that cannot be read": 1, "named, but missing": 1, "in no split": 2, "format that is not read": 1},
    {"of an image that is left out": 1, "without an image": 1, "of an image in a format": 1},
    {"no area": 1, "coordinates outside": 1, "not finite": 1, "of a file that is left out": 4},
)


@pytest.mark.filterwarnings("ignore")
def test_what_is_found_is_used_or_left_out_for_a_reason(tmp_path, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    expected = yolo(root)
    assert main(["data", "convert", "yolo", str(root), str(out), "--skip-unreadable", "--json"]) == 0
    counts = list(json.loads(capsys.readouterr().out)["inventories"].values())
    assert tuple(one["found"] for one in counts[:3]) == expected
    for one, reasons in zip(counts, REASONS, strict=False):
        skipped = {reason: len(names) for reason, names in one["skipped"].items()}
        assert one["found"] == one["used"] + sum(skipped.values())
        assert len(skipped) == len(reasons), skipped
        for part, count in reasons.items():
            assert [number for reason, number in skipped.items() if part in reason] == [count], (part, skipped)
    written = [json.loads((out / f"annotations/instances_{split}.json").read_text()) for split in ("train", "val")]
    assert counts[0]["used"] == sum(len(document["images"]) for document in written) == len(files(out, ".jpg"))
    assert counts[2]["used"] == sum(len(document["annotations"]) for document in written)
    arguments = ["data", "convert", "yolo", str(root), str(tmp_path / "strict"), "--skip-unreadable"]
    assert main([*arguments, "--strict", "--quiet"]) == 2 and not (tmp_path / "strict").exists()
