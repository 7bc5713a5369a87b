"""File names for image ids."""

from densevit.data.io.image_names import drawing_name, drawing_names, file_name, image_names
from densevit.interfaces import Dataset


def test_image_names_are_valid_file_names():
    assert file_name(139) == "139"
    assert file_name("aachen/aachen_000000_000019") == "aachen/aachen_000000_000019"
    assert file_name("Straße 1.b") == "Straße 1.b"
    awkward = ["../up", "/etc/x", "C:\\a", "a:b", "a?", ".hidden", "dot.", "space ", "a//b", "", "100%", "x\ny", "a*"]
    names = [file_name(image_id) for image_id in awkward]
    for name in names:
        for part in name.split("/"):
            assert part and not set(part) & set('\\:*?"<>|\n') and part[0] != "." and part[-1] not in ". "
    assert len(set(names)) == len(awkward)
    names = [file_name("ä" * 300 + end) for end in "xy"]
    assert names[0] != names[1] and max(len(name.encode()) for name in names) <= 200


class Named(Dataset):
    def image_name(self, index: int) -> str | None:
        return f"town/{index}.jpg" if index else None


def test_names_are_those_of_files_or_else_ids():
    assert image_names(Named(), {139: 1, 7: 0, "a/b": 2}) == {139: "town/1.jpg", 7: "7", "a/b": "town/2.jpg"}
    drawings = drawing_names(["a/b.png", "a-b.png", "a/B.jpg", "c/0.jpg", "c/0.png", "d/e.png"])
    assert len({drawing.casefold() for drawing in drawings.values()}) == len(drawings) and drawings["d/e.png"] == "d-e"
    assert [drawing_name(name) for name in ("town/1.JPG", "v1.2/a.b", "c.tiff")] == ["town-1", "v1.2-a.b", "c"]
