"""`densevit convert`, from a clone."""

import sys

from densevit.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["convert", *sys.argv[1:]]))
