"""Trains in a custom Lightning Trainer, with a logger and a callback.

python examples/own_trainer.py
"""

from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger

import densevit


def main(max_steps: int = 2000, folder: str = "logs", **data: Any) -> densevit.DenseModel:
    module_data = densevit.DenseDataModule({"name": "scenes", "image_size": 96, "batch_size": 16, **data})
    model = densevit.create_model(
        {"name": "swin", "variant": "nano"}, heads={"ground": "setr"}, classes=module_data.data.classes["segmentation"]
    )
    module = densevit.DenseModule(model, optim={"lr": 1e-3, "schedule": "cosine", "warmup": 0.05})
    trainer = lightning.Trainer(
        max_steps=max_steps,
        val_check_interval=max(1, max_steps // 4),
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        logger=CSVLogger(folder),
        callbacks=[EarlyStopping("ground/mIoU", mode="max", patience=2)],
    )
    trainer.fit(module, module_data)
    print({name: float(value) for name, value in trainer.callback_metrics.items()})
    densevit.save(model, f"{folder}/model.safetensors")
    return model


if __name__ == "__main__":
    main()
