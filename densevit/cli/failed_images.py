"""The list of images that could not be read, failed.csv."""

import csv
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from densevit.cli.input_images import ImageFile
from densevit.evaluation.csv_options import FORM, READ_FORM

_COLUMNS = ("image", "reason")


class FailedImages:
    """The images of a prediction that could not be read, with reasons; failed.csv has them, if there are any.

    The file is extended at each failure, and at the end of the context has the failures that remain: images that were
    read since are removed from it.

    reasons: the reason of each image by file name, first those that an existing file has for `images`. images: the
    images to predict.
    """

    def __init__(self, path: Path, images: Iterable[ImageFile]) -> None:
        self.path = path
        before = read_failed(path)
        names = (image.file_name for image in images if before)
        self.reasons = {name: before[name] for name in names if name in before}

    def __enter__(self) -> "FailedImages":
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()

    def add(self, image: ImageFile, error: Exception) -> None:
        self.reasons[image.file_name] = str(error)
        with self.path.open("a", **FORM) as file:
            rows = csv.writer(file)
            if not file.tell():
                rows.writerow(_COLUMNS)
            rows.writerow([image.file_name, str(error)])

    def remove(self, image: ImageFile) -> None:
        self.reasons.pop(image.file_name, None)

    def _write(self) -> None:
        if not self.reasons:
            self.path.unlink(missing_ok=True)
            return
        partial = self.path.with_name(f"{self.path.name}.partial")
        with partial.open("w", **FORM) as file:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            rows.writerows(self.reasons.items())
        partial.replace(self.path)


def read_failed(path: Path) -> dict[str, str]:
    """Returns the reasons in a failed.csv by file name; empty if there is no file."""
    if not path.is_file():
        return {}
    with path.open(**READ_FORM) as file:  # the last row of a killed process may have no reason
        return {row[0]: row[1] for row in csv.reader(file) if len(row) == len(_COLUMNS)}
