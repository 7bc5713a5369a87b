"""Code in checkpoints is never run, whatever objects they contain, and tensors are still read."""

import argparse
import contextlib
import functools
import os
import pathlib
import pickle
import re
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.checkpoint_io import read
from tests.weights.states import STATE, assert_state


def save(content, path: Path, legacy: bool = False, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return path


both = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


# ---- malicious files ----


class Call:
    """Calls a function with arguments when unpickled."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.call = function, arguments
        self.state = state

    def __reduce__(self):
        return (*self.call, self.state) if self.state is not None else self.call


def touch(path) -> None:
    Path(path).touch()


ATTACKS = {
    "os.system": lambda file: Call(os.system, f"touch {file}"),  # of a module that no checkpoint needs
    "subprocess": lambda file: Call(subprocess.check_call, ["touch", str(file)]),
    "exec": lambda file: Call(exec, f"open({str(file)!r}, 'w')"),  # a builtin
    "getattr": lambda file: Call(getattr, pathlib.Path(file), "touch"),  # allowed, as another function
    "partial": lambda file: Call(functools.partial(touch, str(file))),
    "touch": lambda file: Call(touch, str(file)),  # of any module
    "state": lambda file: Call(argparse.Namespace, state={"f": Call(touch, str(file))}),
    "storage": lambda file: Call(torch.storage._load_from_bytes, pickle.dumps(Call(touch, str(file)))),  # a pickle
}
PLACES = {
    "alone": lambda trap: trap,
    "beside": lambda trap: {"args": trap, "state_dict": STATE},
    "nested": lambda trap: {"model": STATE, "meta": {"hooks": [({"a": trap},)]}},
}


@pytest.mark.filterwarnings("error")
@both
@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_files_are_inert_or_refused(attack, legacy, tmp_path):
    for place, put in PLACES.items():
        target = tmp_path / f"touched_{place}"
        path = save(put(ATTACKS[attack](target)), tmp_path / f"{place}.pth", legacy)
        try:
            tensors = read(path).tensors
        except WeightsError as error:
            assert (attack in ("os.system", "subprocess", "partial") or place == "alone") and str(path) in str(error), (
                place
            )
            assert attack != "os.system" or re.search(r"with (posix|nt)\.system in it", str(error))
        else:
            assert_state(tensors)
            assert place != "alone"
        assert not target.exists(), place
    if attack not in ("getattr", "partial"):  # the test is meaningful: torch runs the last file
        with contextlib.suppress(Exception), warnings.catch_warnings():  # after its effect
            warnings.simplefilter("ignore")
            torch.load(path, weights_only=False)
        assert target.exists()
