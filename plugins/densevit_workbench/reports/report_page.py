"""HTML pages about one or several runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from densevit.atomic_io import check_writable
from densevit.errors import ConfigError
from densevit.paths import user_path
from densevit.reporting.html_page import fragment
from densevit.reporting.run_report import overview, write_report
from densevit_workbench.reports.run_comparison import comparison_overview, write_comparison

FILES = ("config.yaml", "metrics.json", "metrics.csv")


@dataclass(frozen=True)
class Report(PathLike[str]):
    """An HTML page about one or several runs. path: its file. runs: the folders.

    Example:
        >>> report = densevit.report(["runs/setr_vit", "runs/detr_swin"])
        >>> report.path.name, len(report.runs)
        ('comparison.html', 2)
    """

    path: Path
    runs: tuple[Path, ...]

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        """Metrics and curves, for Jupyter."""
        return fragment(overview(self.runs[0]) if len(self.runs) == 1 else comparison_overview(self.runs))


def report(runs: Sequence[str | Path] | str | Path, out: str | Path | None = None) -> Report:
    """Writes a self-contained HTML page about one run or evaluation, or a comparison of several.

    runs: the folders of runs or evaluations. out: the page; by default RUN/report.html, for several folders
    ./comparison.html. Raises ConfigError for another folder.

    Example:
        >>> densevit.report("runs/setr_vit").path.name
        'report.html'
    """
    folders = run_folders([runs] if isinstance(runs, str | Path) else runs)
    path = None if out is None else user_path(out)
    page = path or (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
    check_file(page, page / "report.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    if len(folders) == 1:
        return Report(write_report(folders[0], page), tuple(folders))
    return Report(write_comparison(folders, page), tuple(folders))


def run_folders(runs: Sequence[str | Path]) -> list[Path]:
    """The paths of the folders of runs or evaluations. Raises ConfigError for another folder."""
    folders = [user_path(run) for run in runs]
    if not folders:
        raise ConfigError("report: no run is given. Fix: name at least one folder.")
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: is not a folder. Expected the folder of a run or of an evaluation.")
        if not any((folder / name).is_file() for name in FILES):
            raise ConfigError(f"{folder}: has none of {', '.join(FILES)}. Expected the folder of a run.")
    return folders


def check_file(out: Path, example: Path) -> None:
    """Raises ConfigError for a folder, and WeightsError if the file cannot be written. example: a valid name."""
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder. Expected a file, such as {example}.")
    check_writable(out.absolute().parent, out, "Fix: name a file with --out FILE.")
