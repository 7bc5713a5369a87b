"""Files below a folder."""

from densevit.data.io.folders import files_below
from tests.written_files import write_text


def test_links_are_followed_but_not_to_a_parent(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    for file in (root / "b" / "1.JPG", root / "a.png", root / "a.txt", store / "2.jpg", root / ".hidden" / "3.jpg"):
        write_text(file, "")
    (root / "camera").symlink_to(store)
    (root / "same").symlink_to(store)
    (store / "up").symlink_to(root)
    names = ["a.png", "b/1.JPG", "camera/2.jpg", "same/2.jpg"]
    assert [path.relative_to(root).as_posix() for path in files_below(root, (".jpg", ".png"))] == names
    assert len(files_below(root)) == 5 and files_below(tmp_path / "none") == []
