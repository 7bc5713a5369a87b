"""Measures on one GPU in minutes: correctness, recipes, training steps, synchronisations, operations.

    python tools/benchmarks/gpu.py --minutes 8 --out gpu_results

The parts run in this order, each in a separate process, the most valuable cases first. A case that fails leaves the
others. `results.json` and `table.md` are written after each case, the output of the processes is in `log.txt`. Nothing
is downloaded. `--smoke` runs all parts on a CPU with small sizes; its figures mean nothing.

A machine with PyTorch and without a network needs densevit's other requirements as wheels, made elsewhere:

    pip wheel --no-deps --wheel-dir wheels .
    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest wheels albumentations==2.0.8 \
        albucore==0.0.24 stringzilla simsimd pycocotools simplejpeg pydantic==2.14.4 pydantic-core==2.50.5 \
        annotated-types typing-inspection

and there: pip install --no-index --no-deps --target site wheels/*.whl; PYTHONPATH=site python tools/benchmarks/gpu.py.
Missing requirements are listed at the start. Without timm or transformers their cases are left out.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path

import torch
from gpu_parts.results import MissingPackageError, Results, Setting

PARTS = {"correctness": 0.35, "recipes": 0.25, "steps": 0.25, "syncs": 0.05, "operations": 0.1}
"""The parts, modules of `gpu_parts`, with their shares of the minutes. Time that is left goes to the next parts."""
_BROKEN = 3  # exit code of a process whose CUDA context is unusable after a failed case


def missing_requirements() -> list[str]:
    """The hard requirements of densevit that are not installed."""
    names = [r.split(";")[0] for r in metadata.requires("densevit") or [] if "extra ==" not in r]
    names = [
        next(part for part in name.replace(">", " ").replace("<", " ").replace("=", " ").split()) for name in names
    ]
    installed = {d.metadata["Name"].lower().replace("_", "-") for d in metadata.distributions() if d.metadata["Name"]}
    return [name for name in names if name.lower().replace("_", "-") not in installed]


def run_parts(args: argparse.Namespace, results: Results) -> None:
    """Runs each part in a process until its share of the time is used."""
    start, share = time.monotonic(), 0.0
    for name in args.parts:
        share += PARTS[name] / sum(PARTS[part] for part in args.parts)
        end = start + 60 * args.minutes * share
        command = [sys.executable, __file__, "--part", name, "--out", str(args.out), *(["--smoke"] * args.smoke)]
        code = _BROKEN
        while code == _BROKEN:  # goes on with the next case
            seconds = end - time.monotonic()
            if seconds < 1:
                break
            with (args.out / "log.txt").open("a") as log:
                try:
                    process = subprocess.Popen([*command, "--seconds", str(seconds)], stdout=log, stderr=log)
                    code = process.wait(seconds + 30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    code = process.wait()
        results.load()
        left = results.not_run(name)
        print(f"{name}: {time.monotonic() - start:.0f} s, exit code {code}, {len(results.rows)} results"
              f"{f', not run: {left}' if left else ''}", flush=True)  # fmt: skip


def run_cases(args: argparse.Namespace, results: Results) -> int:
    """Runs the cases of one part that have no result yet, while there is time. Returns the exit code."""
    end = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory() as folder:
        device = torch.device("cpu" if args.smoke else "cuda")
        setting = Setting(device, args.smoke, Path(folder), end)
        cases = importlib.import_module(f"gpu_parts.{args.part}").cases(setting)
        results.plan(args.part, [name for name, _ in cases])
        for name, case in cases:
            if results.has(args.part, name) or time.monotonic() > end:
                continue
            print(f"---- {args.part}: {name}", flush=True)
            start, values, error = time.monotonic(), {}, ""
            try:
                values = case(setting)
            except MissingPackageError as missing:
                error = f"left out: {missing}"
            except BaseException as failure:  # the remaining cases still run
                traceback.print_exc()
                error = f"{type(failure).__name__}: {failure}".splitlines()[0]
            results.add(args.part, name, values, error, time.monotonic() - start)
            if error and device.type == "cuda" and not _is_usable():
                return _BROKEN
    return 0


def _is_usable() -> bool:
    try:
        torch.cuda.empty_cache()
        return float(torch.ones(1, device="cuda").sum()) == 1.0
    except RuntimeError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="all parts on a CPU, with small sizes")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)  # in the process of this part
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = Results(args.out)
    if args.part:
        return run_cases(args, results)
    if missing := missing_requirements():
        print(f"Not installed: {', '.join(missing)}. The first lines of {__file__} say how to bring them.")
        return 1
    if not args.smoke and not torch.cuda.is_available():
        print("torch sees no GPU. --smoke runs the parts on a CPU.")
        return 1
    results.start(args.smoke)
    os.environ.setdefault("DENSEVIT_CACHE", "off")
    run_parts(args, results)
    print((args.out / "table.md").read_text())
    return 1 if args.smoke and any(row.get("error") and "left out" not in row["error"] for row in results.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
