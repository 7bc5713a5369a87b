"""Values of a config that a file does not give back."""

from collections.abc import Iterator, Mapping
from typing import Any

from densevit.constructor_call import PathText, Unwritten, plain
from densevit.errors import PluginError
from densevit.registry import ObjectName
from densevit.registry.plugin_options import OptionError, check, parts


def unwritten(values: Any, key: str = "", owner: str = "the config") -> Iterator[tuple[str, str]]:
    """The keys of a config's values that are objects that files cannot hold, each with a sentence: arguments that are
    no plain values, that their constructor does not take back, and classes that other programs cannot import. owner:
    the plugin of the section."""
    if isinstance(values, Mapping) and "name" in values:
        owner = values["name"]
        yield from ((f"{key}{option}", why) for option, why in _unloadable(owner))
    for name, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        if isinstance(value, Mapping | list | tuple):
            yield from unwritten(value, f"{key}{name}.", owner)
        elif isinstance(plain(value), Unwritten) or (
            isinstance(value, ObjectName) and ("<" in value or value.startswith("__main__:"))
        ):
            argument = "" if value is owner else f" of {owner}"
            yield (
                f"{key}{name}",
                f"files cannot hold {plain(value)}{argument}. Fix: a plain value, or a class at the top of a module "
                "that can be imported; or pass it again: densevit.load(RUN, model=model), densevit.fit(resume=RUN, "
                "train=...).",
            )


def _unloadable(name: Any) -> Iterator[tuple[str, str]]:
    """The options of an object that its constructor does not take back as a file holds them, each with a sentence;
    without those that files cannot hold. name: the name in its section; of others than `ObjectName` none."""
    if not isinstance(name, ObjectName):
        return
    options = {key: plain(value, PathText) for key, value in name.options.items()}
    options = {key: value for key, value in options.items() if next(parts(value, Unwritten), None) is None}
    try:
        check(name.plugin, name.positional, str(name), options, "")
    except OptionError as error:
        for problem in (error, *error.further):
            key, why = problem.key.removeprefix("."), str(problem).removeprefix(".")
            if key.partition(".")[0] in options:
                yield key, f"{name} is not loaded with this value: {why} Fix: annotate it with the type of the value."
    except PluginError as error:
        yield "name", f"files cannot hold the call: {error}"
