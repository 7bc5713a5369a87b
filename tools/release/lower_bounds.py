"""Prints the lowest version that setup.cfg allows of each dependency, as constraints for pip.

    python tools/release/lower_bounds.py > lowest.txt && pip install densevit -c lowest.txt

Arguments name extras whose requirements are printed too.
"""

import configparser
import re
import sys
from collections.abc import Sequence
from pathlib import Path

SETUP = Path(__file__).resolve().parents[2] / "setup.cfg"


def lower_bounds(extras: Sequence[str] = (), setup: Path = SETUP) -> dict[str, str]:
    """The lower bound of each requirement. Raises ValueError for a requirement without one."""
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    lines = config["options"]["install_requires"].split("\n")
    for extra in extras:
        lines += config["options.extras_require"][extra].split("\n")
    bounds = {}
    for line in filter(None, lines):
        requirement = re.match(r"([\w-]+) >= ([\d.]+)", line)
        if requirement is None:
            raise ValueError(f"{setup}: {line!r} has no lower bound. Expected NAME >= VERSION.")
        bounds[requirement[1]] = requirement[2]
    return bounds


if __name__ == "__main__":
    print(*(f"{name}=={version}" for name, version in lower_bounds(sys.argv[1:]).items()), sep="\n")
