"""File names for image ids."""

from densevit.data.io.image_names import file_name


def test_image_names_are_valid_file_names():
    kept = ("139", "aachen/aachen_000000_000019", "Straße 1.b")
    assert (file_name(139), *map(file_name, kept[1:])) == kept
    awkward = ["../up", "/etc/x", "C:\\a", "a:b", "a?", ".hidden", "dot.", "space ", "a//b", "", "100%", "x\ny", "a*"]
    names = [file_name(image_id) for image_id in awkward]
    for name in names:
        for part in name.split("/"):
            assert part and not set(part) & set('\\:*?"<>|\n') and part[0] != "." and part[-1] not in ". "
    assert len(set(names)) == len(awkward)
    names = [file_name("ä" * 300 + end) for end in "xy"]
    assert names[0] != names[1] and max(len(name.encode()) for name in names) <= 200
