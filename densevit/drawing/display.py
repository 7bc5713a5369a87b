"""Displays an image in a notebook or in a window."""

import os
import sys

from PIL import Image, ImageShow


def display(image: Image.Image) -> bool:
    """Shows an image below the cell of a notebook, else in the system's image viewer. Returns False if there is no
    display or no viewer."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is not None:  # a Jupyter kernel
        from IPython.display import display as in_notebook

        in_notebook(image)
        return True
    has_screen = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return has_screen and ImageShow.show(image)
