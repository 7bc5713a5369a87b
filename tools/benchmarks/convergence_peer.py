"""Trains transformers' DETR on the data and with the budget of one of densevit's configs, for `convergence.py`.

The model has a Swin of the same widths and depths as densevit's `nano`, with random weights, and transformers'
initialisation and loss. The head has the width and the numbers of layers and queries of the config's head. The
optimiser is AdamW with the weight decay of the paper (1e-4, on all parameters); learning rate, schedule and gradient
clipping are the config's. The batches, their augmentation and the evaluator are densevit's, identical for equal seeds.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from convergence_clock import Clock
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import DetrConfig, DetrForObjectDetection, SwinConfig

from densevit.config import Config, load
from densevit.data.build import Data, build_data
from densevit.interfaces import Batch, Predictions, Targets
from densevit.training.loop.budget import Budget
from densevit.training.loop.evaluators import create_evaluator
from densevit.training.loop.lr_schedule import schedule
from densevit.training.loop.precision import resolve
from densevit.training.run.metrics_csv import MetricsCsv

WEIGHT_DECAY = 1e-4  # Carion et al. 2020, section 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(config: Config, num_classes: int) -> nn.Module:
    """transformers' DETR of the size of the config's head, on a Swin."""
    head = config.heads["detection"].options
    transformer = head["transformer"]
    swin: dict[str, Any] = {
        "image_size": config.data.image_size,
        "embed_dim": 32,
        "depths": [1, 1, 3, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": 4,
        "drop_path_rate": 0.0,
        "out_features": ["stage4"],
    }
    detr: dict[str, Any] = {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": SwinConfig(**swin),
        "num_labels": num_classes,
        "num_queries": head["num_queries"],
        "d_model": transformer["width"],
        "encoder_layers": transformer["encoder_layers"],
        "decoder_layers": transformer["decoder_layers"],
        "encoder_attention_heads": transformer["num_heads"],
        "decoder_attention_heads": transformer["num_heads"],
        "encoder_ffn_dim": transformer["feedforward"],
        "decoder_ffn_dim": transformer["feedforward"],
        "auxiliary_loss": True,
    }
    return DetrForObjectDetection(DetrConfig(**detr))


def inputs(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Normalised pixels (B, 3, H, W), zero in the padding, and their mask (B, H, W), 1 inside images."""
    mask = ~batch["padding_mask"].to(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    pixels = (batch["images"].to(device).float() / 255 - mean) / std
    return {"pixel_values": pixels * mask[:, None], "pixel_mask": mask.long()}


def labels(targets: Sequence[Targets], device: torch.device) -> list[dict[str, Tensor]]:
    """Classes, and boxes as normalised cxcywh. targets: boxes xyxy in pixels of `size` (h, w)."""
    found = []
    for target in targets:
        height, width = (int(side) for side in target["size"])
        corners = target["boxes"] / torch.tensor([width, height, width, height])
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
        found.append({"class_labels": target["labels"].to(device), "boxes": boxes.to(device)})
    return found


def predictions(outputs: Any, targets: Sequence[Targets]) -> list[Predictions]:
    """Each query's best class other than "no object", with its probability, and boxes xyxy in original pixels."""
    scores, classes = outputs.logits.float().softmax(-1)[..., :-1].max(-1)
    found: list[Predictions] = []
    for number, target in enumerate(targets):
        height, width = (int(side) for side in target["original_size"])
        centre, size = outputs.pred_boxes[number].float().split(2, dim=-1)
        boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
        scale = torch.tensor([width, height, width, height], device=boxes.device)
        found.append({"boxes": boxes * scale, "scores": scores[number], "labels": classes[number]})
    return found


def validate(model: nn.Module, data: Data, device: torch.device, amp: Callable[[], Any]) -> dict[str, float]:
    evaluator = create_evaluator("detection", data.classes["detection"])
    model.eval()
    with torch.inference_mode():
        for batch in data.val_loader():
            with amp():
                outputs = model(**inputs(batch, device))
            evaluator.update(predictions(outputs, batch["targets"]), [one["truth"] for one in batch["targets"]])
    model.train()
    metrics = evaluator.compute()
    return {f"detection/{name}": metrics[name] for name in ("AP", "AP50")}


def train(config: Config, folder: Path, clock: Clock | None) -> None:
    """Trains, and writes the metrics of each validation to metrics.csv in the folder."""
    folder.mkdir(parents=True)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    low = resolve(config.trainer.precision).startswith("bf16")
    data = build_data(config)
    model = build(config, len(data.classes["detection"])).to(device).train()
    budget = Budget.of(config.trainer, data.batches_per_epoch(), config.data.batch_size, world_size=1)
    assert config.optim.lr is not None and config.trainer.clip_grad_norm is not None
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr, weight_decay=WEIGHT_DECAY, fused=True)
    rate = LambdaLR(optimizer, schedule(config.optim, budget.steps))
    log = MetricsCsv(folder / "metrics.csv")

    def amp() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=low)

    for step, batch in enumerate(_batches(data, budget.steps), start=1):
        with amp():
            loss = model(**inputs(batch, device), labels=labels(batch["targets"], device)).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.trainer.clip_grad_norm)
        optimizer.step()
        rate.step()
        if clock is not None:
            clock.tick()
        if budget.validates_after(step):
            if not loss.isfinite():
                raise SystemExit(f"transformers' DETR: the loss is {loss.item()} after {step} steps.")
            log.log_metrics({"train/loss": loss.item(), **validate(model, data, device, amp)}, step)
    if clock is not None:
        clock.write()


def _batches(data: Data, count: int) -> Iterator[Batch]:
    """The first `count` training batches, over as many epochs as necessary."""
    loader, epoch = data.train_loader(), 0
    while True:
        loader.set_epoch(epoch)
        for batch in loader:
            if not count:
                return
            count -= 1
            yield batch
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*")
    parser.add_argument("--run-dir", type=Path, required=True, help="a new folder")
    args = parser.parse_args()
    config = load(args.config, args.overrides)
    clocks = [Clock(**callback.options) for callback in config.trainer.callbacks]
    train(config, args.run_dir, clocks[0] if clocks else None)


if __name__ == "__main__":
    main()
