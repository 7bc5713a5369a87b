"""`events.*` for TensorBoard (extra `tensorboard`)."""

from pytorch_lightning.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without its `hparams.yaml`: `config.yaml` holds more."""

    def save(self) -> None:
        self.experiment.flush()
