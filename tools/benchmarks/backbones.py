"""Compares backbones with timm, torchvision and transformers: time and memory of a training step, in one run.

A step is forward and backward, from images to the gradients of all parameters, in training mode without stochastic
depth. Each backbone returns its feature maps, and the gradients of the maps are given, so that no loss is timed. Ratios
are to densevit's time; the first row of a case is the fastest. "plain" is densevit without `densevit.layers.fast`. With
AVX2 only: `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2` before the command.
"""

import statistics
from functools import partial

import torch
from backbone_peers import CASES, Size
from interleaved import Run, measure, milliseconds, parsed, parser, peak_memory, ratio, show, table
from torch import nn

import densevit
from densevit.layers.fast.replacement import replace_layers


def build(name: str, peer: str, size: Size) -> nn.Module:
    """densevit's or a peer's model of a case. peer: "plain" for densevit's without faster layers."""
    case = CASES[name]
    if peer not in ("densevit", "plain"):
        return case.peers[peer](size)
    model = densevit.create_backbone(case.plugin, **case.options)
    if peer == "densevit":
        replace_layers(model)
    return model


def made_step(name: str, peer: str, batch: int, size: Size, precision: str, device: str) -> Run:
    """Forward and backward of one model over one batch."""
    torch.manual_seed(0)
    model = build(name, peer, size).to(device).train()
    images = torch.randn(batch, 3, *size, device=device)
    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=precision == "bf16")
    with torch.no_grad(), autocast():
        gradients = [torch.randn_like(x) for x in model(images)]

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        with autocast():
            features = model(images)
        torch.autograd.backward(features, gradients)

    return step


def main() -> None:
    options = parser(__doc__, rounds=15)
    options.add_argument("cases", nargs="*", default=[*CASES], metavar="CASE", help=", ".join(CASES))
    options.add_argument("--size", default="224x224", help="height x width; %(default)s")
    options.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    options.add_argument("--batch-size", type=int, default=2)
    options.add_argument("--memory", action="store_true", help="peak memory, each in a separate process (Linux)")
    args = parsed(options)
    height, width = map(int, args.size.split("x"))
    title = f"Forward and backward, batch {args.batch_size}, {args.size}; {torch.backends.cpu.get_cpu_capability()}"
    libraries = ("torchvision", "timm", "transformers")
    comparison = table(title, args, "case", "by", "ms", "ratio to densevit", "peak MB", libraries=libraries)
    for name in args.cases:
        for precision in args.precision:
            arguments = (args.batch_size, (height, width), precision, args.device)
            steps = {peer: made_step(name, peer, *arguments) for peer in ("densevit", "plain", *CASES[name].peers)}
            times = measure(steps, args.rounds)
            for peer in sorted(times, key=lambda peer: statistics.median(times[peer])):
                memory = f"{peak_memory(made_step, name, peer, *arguments):.0f}" if args.memory else ""
                figures = milliseconds(times, peer), ratio(times, peer, "densevit")
                comparison.add_row(f"{name}, {precision}", peer, *figures, memory)
    show(comparison)


if __name__ == "__main__":
    main()
