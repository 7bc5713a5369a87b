"""Errors for the user. A message states the fault, what was expected, and the fix."""

import difflib
import functools
import re
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping


class Argument(str):
    """An argument of the command line, such as an override, which messages tell from one of Python."""


class DensevitError(ValueError):
    """An error that the user can fix. The command line prints only its message, without a traceback.

    resume: the command that resumes the run from its last checkpoint, with which the message ends; "": there is none.

    Example:
        >>> try:
        ...     densevit.load("runs/missing")
        ... except densevit.DensevitError as error:
        ...     print(type(error).__name__)
        WeightsError
    """

    resume = ""

    def __str__(self) -> str:
        return super().__str__() + resume_hint(self.resume)


class ConfigError(DensevitError):
    """A config file, section or override is invalid.

    Example:
        >>> try:
        ...     densevit.fit("detr_swin", overrides=["optim.lr=fast"])
        ... except densevit.ConfigError as error:
        ...     print(error)
        overrides: optim.lr should be a valid number, not 'fast'.
    """


class PluginError(DensevitError):
    """A plugin is missing or broken, or its constructor does not accept the given options.

    Example:
        >>> try:
        ...     densevit.create_backbone("swim")
        ... except densevit.PluginError as error:
        ...     print(error)
        There is no backbone 'swim'. Did you mean 'swin'? Known: ...
    """


class DataError(DensevitError):
    """An image, an annotation or a data folder is invalid.

    rule: a plural noun for faults of this kind, such as "boxes without area", by which reports count them.

    Example:
        >>> try:
        ...     densevit.load("runs/setr_vit").predict("missing.jpg")
        ... except densevit.DataError as error:
        ...     print(error)
        missing.jpg: there is no such image.
    """

    def __init__(self, message: str, rule: str = "") -> None:
        super().__init__(message)
        self.rule = rule


class UnreadableFileError(DataError):
    """An image or label file is missing, damaged or of an unknown format."""


class WeightsError(DensevitError):
    """A checkpoint is missing, unreadable, or does not fit the model.

    Example:
        >>> try:
        ...     densevit.load("runs/missing")
        ... except densevit.WeightsError as error:
        ...     print(error)
        runs/missing: no such file. Expected a checkpoint file, a run folder, ...
    """


class TrainingError(DensevitError):
    """Training cannot continue, e.g. because another process has ended or the disk is full.

    Example:
        >>> try:
        ...     run = densevit.fit("setr_vit", run_dir="runs/second")
        ... except densevit.TrainingError:  # the disk was full
        ...     run = densevit.fit(resume="runs/second")
        vit -> segmentation (setr), ...
    """


def resume_hint(command: str) -> str:
    """Returns a sentence with the command that resumes a run, with a leading space; "" without a command."""
    return command and f" Resume from the last checkpoint with: {command}"


def check_format(version: object, newest: int, source: object, error: type[DensevitError]) -> None:
    """Raises `error` unless a file's `format_version` is `newest`, the number that this version of densevit reads and
    writes. source: the file, for the message."""
    if str(version) != str(newest):
        is_newer = int((re.match(r"\d{1,9}", str(version)) or "0")[0]) > newest
        reads, fix = ("up to ", "update densevit") if is_newer else ("", "write the file again")
        raise error(
            f"{source}: format version {version or 'none'}, densevit {sys.modules['densevit'].__version__} reads "
            f"{reads}{newest}. Fix: {fix}."
        )


def nearest(name: str, names: Iterable[str], before: str = "") -> str:
    """Returns " Did you mean 'x'?", with a leading space; empty if none of these names is similar.

    Names that begin with `name` are returned, at most 3, or else the most similar one. before: text before the names,
    such as a folder.
    """
    names = sorted(set(names))
    matches = [other for other in names if name and other.startswith(name)] or difflib.get_close_matches(name, names, 1)
    return f" Did you mean {' or '.join(repr(before + match) for match in matches[:3])}?" if matches else ""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns " Did you mean 'x'? Known: x, y.", with the closest name and all names; "" without names."""
    ordered = sorted(set(names))
    return f"{nearest(name, ordered)} Known: {', '.join(ordered)}." if ordered else ""


def head_names(names: str | Collection[str], heads: Collection[str], where: str, noun: str = "head") -> list[str]:
    """The heads with these names, in the order of `heads`.

    names: a string is one name; of a mapping, its keys. where: the function and the argument, for messages. noun: what
    `heads` are. Raises ConfigError for a name that is not among `heads`.
    """
    named = [names] if isinstance(names, str) else [*names]
    kind = "key" if isinstance(names, Mapping) else "name"
    for name in named:
        if name not in heads:
            raise ConfigError(f"{where} has the {kind} {name!r}, which is not a {noun}.{did_you_mean(name, heads)}")
    return [name for name in heads if name in named]


def one_line(error: BaseException) -> str:
    """Returns the message of an error as one line, or its type name if it has no message or __str__ raises."""
    try:
        text = str(error)
    except Exception:  # a plugin's exception class with a broken __str__
        text = ""
    text = " ".join(text.partition("\nException raised from")[0].split())  # torch appends a C++ stack trace
    return (text if len(text) <= 500 else f"{text[:500]} ...") or type(error).__name__


@functools.cache
def warn_once(message: str) -> None:
    """`warn_user` once per process."""
    warn_user(message)


def warn_user(message: str) -> None:
    """Warns at the caller's line outside of densevit and its plugins' packages."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("densevit"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 class" or "2,000 classes"."""
    plural = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def listed(names: Iterable[object], most: int = 5, more: str = ", ...") -> str:
    """Joins the first names to a text such as "a, b, c, ...". more: what follows if there are more names; {} in it is
    the number of all names."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (more.format(len(texts)) if len(texts) > most else "")


def has_surrogates(text: str) -> bool:
    """Whether a text contains surrogates, which UTF-8 cannot encode: from JSON, or from a file name in another
    encoding."""
    return re.search(r"[\ud800-\udfff]", text) is not None


def printable(text: str) -> str:
    """Escapes control characters except line breaks: a terminal would interpret them."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda match: ascii(match[0])[1:-1], text)
