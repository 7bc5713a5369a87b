"""HTML pages about one or several runs."""

from collections.abc import Sequence
from pathlib import Path

from densevit.errors import ConfigError
from densevit.visualization.comparison import write_comparison
from densevit.visualization.report import write_report

FILES = ("config.yaml", "metrics.json", "metrics.csv")


def report(runs: Sequence[str | Path] | str | Path, out: str | Path | None = None) -> Path:
    """Writes a self-contained HTML page about a run or an evaluation, or one that compares several. Returns its path.

    runs: the folders of runs or evaluations. out: the page; by default RUN/report.html, for several folders
    ./comparison.html. Raises ConfigError for another folder.
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    folders = [Path(run).expanduser() for run in given]
    if not folders:
        raise ConfigError("report: no run is given. Fix: name at least one folder.")
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: is not a folder. Expected the folder of a run or of an evaluation.")
        if not any((folder / name).is_file() for name in FILES):
            raise ConfigError(f"{folder}: has none of {', '.join(FILES)}. Expected the folder of a run.")
    path = None if out is None else Path(out).expanduser()
    if path is not None:
        if path.is_dir():
            raise ConfigError(f"--out {path}: is a folder. Expected a file, such as {path / 'report.html'}.")
        path.parent.mkdir(parents=True, exist_ok=True)
    if len(folders) == 1:
        return write_report(folders[0], path)
    return write_comparison(folders, path or Path("comparison.html"))
