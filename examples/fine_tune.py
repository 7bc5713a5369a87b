"""Fine-tunes a model in a plain PyTorch loop, without the trainer.

    python examples/fine_tune.py --steps 500 --out mine.safetensors
    python examples/fine_tune.py --weights torchvision:resnet18 --lr 3e-4
    densevit predict mine.safetensors photos/

The config is any config file or a shipped config's name; by default a segmentation model on the rendered scenes.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import densevit
from densevit import config as configs


def batches(data: Any, device: torch.device) -> Iterator[Any]:
    """Shuffled, augmented batches on the device, epoch after epoch."""
    while True:
        for batch in data.train_loader():
            targets = [
                {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in target.items()}
                for target in batch["targets"]
            ]
            images, mask = batch["images"].to(device), batch["padding_mask"].to(device)
            yield {"images": images, "padding_mask": mask, "targets": targets}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="setr_resnet")
    parser.add_argument("--weights", help="pretrained weights of the backbone or the whole model")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="mine.safetensors")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_args(arguments)

    config = configs.load(args.config, args.overrides)
    torch.manual_seed(config.seed)
    predictor = densevit.create_model(config, weights=args.weights, device=args.device)
    model = predictor.model.train()
    data = densevit.build_data(config, model.multiple)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.05)
    for step, batch in zip(range(1, args.steps + 1), batches(data, predictor.device), strict=False):
        losses = model.loss(model(batch), batch["targets"])
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == args.steps:
            print(f"step {step}: {', '.join(f'{name} {value.item():.4f}' for name, value in losses.items())}")

    densevit.save(predictor, args.out)
    print(predictor.predict(data.val[0]["image"]))


if __name__ == "__main__":
    main()
