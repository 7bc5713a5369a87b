"""Names that other programs write: every form leads to the file, and none of them out of the folder."""

import os

import pytest

from densevit.data.io.file_lookup import find_file

_NFC, _NFD = "caf\u00e9", "cafe\u0301"


def _touch(folder, name):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").close()


@pytest.mark.parametrize(
    ("written", "on_disk"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        ("a/my%20cat.jpg", "a/my cat.jpg"),
        ("a%5Cb.jpg", "a/b.jpg"),
        ("caf%C3%A9.jpg", f"{_NFD}.jpg"),
        (f"{_NFC}.jpg", f"{_NFD}.jpg"),
        (f"{_NFD}.jpg", f"{_NFC}.jpg"),
        (f"a\\{_NFC}%20{_NFD}.jpg", f"a/{_NFD} {_NFD}.jpg"),
        ("50%.jpg", "50%.jpg"),
        ("latin%E9\\b.jpg", "latin%E9/b.jpg"),
    ],
)
def test_a_name_of_another_program_leads_to_the_file(tmp_path, written, on_disk):
    _touch(tmp_path, on_disk)
    assert find_file(tmp_path, written) == on_disk
    assert find_file(tmp_path / "elsewhere", written) is None


def test_the_name_as_written_wins(tmp_path):
    names = ("my%20cat.jpg", f"{_NFD}.jpg")
    for other in ("my cat.jpg", f"{_NFC}.jpg", *names):
        _touch(tmp_path, other)
    assert [find_file(tmp_path, name) for name in names] == [*names]


@pytest.mark.parametrize("name", ["..%5Cb.jpg", "a\\..\\..\\b.jpg", "{root}/b.jpg"])
def test_another_form_does_not_lead_out_of_the_folder(tmp_path, name):
    _touch(tmp_path, "b.jpg")
    _touch(tmp_path, "images/a/c.jpg")
    name = name.replace("{root}", str(tmp_path).replace("/", "%2F"))
    name = name if "%" in name or "\\" in name else name.replace("/", "\\")
    assert find_file(tmp_path / "images", name) is None
    found = find_file(tmp_path / "images", name, outside_paths=True)
    assert os.path.samefile(tmp_path / "images" / found, tmp_path / "b.jpg")
