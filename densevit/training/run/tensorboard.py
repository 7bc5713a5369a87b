"""TensorBoard logger (extra `tensorboard`)."""

from pytorch_lightning.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Writes `events.*`, without Lightning's `hparams.yaml`, which repeats `config.yaml`."""

    def save(self) -> None:
        self.experiment.flush()
