"""How data sets of third parties are scanned: with a parameter `scan` of their constructor, and without."""

from collections.abc import Generator
from typing import Any

import pytest
import torch

import densevit
from densevit.config import DataSection
from densevit.data.build import Data
from densevit.data.datasets.dataset_validation import STRICT_SCAN, Scan
from densevit.data.datasets.examination import Examination, Problem
from densevit.errors import DataError, UnreadableFileError
from densevit.interfaces import Dataset, Sample


class Unscanned(Dataset):
    """Grey images, none of which is opened by the constructor. Image 1 is unreadable."""

    provides = ()

    def __init__(self, split: str, length: int = 4) -> None:
        self.classes, self.length = {}, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            raise UnreadableFileError("1.png is damaged.")
        image = torch.full((3, 32, 32), 50 * index, dtype=torch.uint8)
        return {"image": image, "targets": {"image_id": index}}


class Scanned(Unscanned):
    """The same, opened by the constructor."""

    def __init__(self, split: str, length: int = 4, *, scan: Scan = STRICT_SCAN) -> None:
        super().__init__(split, length)
        scan.record_files(f"{index}.png" for index in range(length))
        scan.examine_files(length, self.__getitem__)


def data(plugin: type, on_error: str = "raise", **options: Any) -> Data:
    return Data(DataSection(name=f"{__name__}:{plugin.__name__}", on_error=on_error, **options), 0, 32)


def test_data_set_with_a_scan_is_built_as_on_error_says():
    with pytest.raises(UnreadableFileError, match="1.png is damaged"):
        len(data(Scanned).train)
    with pytest.warns(UserWarning, match=r"1 of 4 images will be left out \(data.on_error: skip\): 1.png is damaged"):
        assert len(data(Scanned, "skip").train) == 4
    with pytest.raises(UnreadableFileError, match="1.png is damaged"):
        densevit.create_dataset(f"{__name__}:Scanned")
    assert len(data(Unscanned, "skip", length=7).train) == 7


def test_mix_hands_the_scan_to_its_sets():
    sets = {name: {"name": f"{__name__}:{name.title()}"} for name in ("scanned", "unscanned")}
    with pytest.raises(UnreadableFileError, match="1.png is damaged"):
        len(Data(DataSection(name="mix", sets=sets), 0, 32).train)
    with pytest.warns(UserWarning, match="1 of 4 images will be left out"):
        assert len(Data(DataSection(name="mix", sets=sets, on_error="skip"), 0, 32).train) == 8


def test_scan_of_which_no_file_is_readable_raises_unless_examined():
    def check(index: int) -> None:
        raise UnreadableFileError(f"{index} is damaged.")

    with pytest.raises(UnreadableFileError, match="0 is damaged"):
        Scan("skip").examine_files(3, check)
    examination = Examination(2)
    Scan(examination=examination).examine_files(3, check, needed=())
    [finding] = examination.findings
    assert (finding.count, finding.of, finding.examples) == (2, 2, ("0 is damaged.", "2 is damaged."))


def test_skipped_files_are_remembered_and_other_errors_raised():
    def check(index: int) -> None:
        if index == 2:
            raise UnreadableFileError("2 is damaged.")
        if index == wrong:
            raise DataError(f"{index} is wrong.")

    scan, wrong = Scan("skip"), None
    with pytest.warns(UserWarning, match="1 of 4 images"):
        scan.examine_files(4, check)
    assert [str(error) for error in scan.unreadable] == ["2 is damaged."]
    wrong = 3
    with pytest.raises(DataError, match="3 is wrong"):
        scan.examine_files(4, check)


def test_first_problem_of_a_reader_is_raised_and_an_examination_collects_all():
    def reader() -> Generator[Problem, None, int]:
        yield Problem("a.json: box 3 is wrong.", "wrong boxes", ["box 3", "box 7"], of=9)
        for message in fatal:
            yield Problem(message)
        yield Problem("a.json: area 5 is wrong.", "wrong areas", ["area 5"])
        return 6

    fatal: list[str] = []
    with pytest.raises(DataError, match="^a.json: box 3 is wrong.$"):
        STRICT_SCAN.read(reader())
    examination = Examination(None)
    assert Scan(examination=examination).read(reader()) == 6
    assert [one.heading for one in examination.findings] == ["2 of 9 wrong boxes", "wrong areas"]
    fatal, examination = ["a.json has no classes."], Examination(None)
    with pytest.raises(DataError, match="^a.json has no classes.$"):
        Scan(examination=examination).read(reader())
    assert [one.title for one in examination.findings] == ["wrong boxes", "wrong areas"]
