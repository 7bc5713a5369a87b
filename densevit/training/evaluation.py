"""Evaluation of a model on the validation data."""

from densevit import registry
from densevit.config import Config
from densevit.data.build import Data
from densevit.errors import ConfigError
from densevit.inference.predictor import Predictor, dense_model
from densevit.interfaces import Evaluator
from densevit.model import DenseModel
from densevit.training.callbacks.evaluation import EvaluationCallback, Write
from densevit.training.dense_module import DenseModule
from densevit.training.lightning_logging import silence_lightning
from densevit.training.peers import Peers, watching
from densevit.training.trainer import build_trainer


def evaluate(
    model: DenseModel | Predictor, data: Data, config: Config, write: Write | None = None
) -> tuple[dict[str, float], dict[str, Evaluator]]:
    """Evaluates a model on the validation data. Returns the metrics, named HEAD/METRIC, and the evaluators.

    write: called with each image's predictions; with several processes, in each for its own images. The precision and
    the devices are those of the config, so that the metrics equal those of the validation during training.
    """
    model = dense_model(model)
    silence_lightning()
    evaluation = EvaluationCallback(build_evaluators(model, config, data), write)
    peers = Peers()
    trainer = build_trainer(config.trainer, callbacks=[evaluation, peers], enable_progress_bar=False)
    with watching(trainer, peers):
        trainer.validate(DenseModule(model, config, data), verbose=False)
    return evaluation.metrics, evaluation.evaluators


def build_evaluators(model: DenseModel, config: Config, data: Data) -> dict[str, Evaluator]:
    """Builds the evaluator of each head: the one that its config names, else the one named like its task.

    Raises ConfigError if an evaluator cannot evaluate its head on the validation data.
    """
    evaluators: dict[str, Evaluator] = {}
    for name, section in config.heads.items():
        plugin = section.evaluation.name or str(model.heads[name].task)
        evaluators[name] = registry.create(
            "evaluators",
            plugin,
            model.classes[name],
            options=section.evaluation.options,
            where=f"heads.{name}.evaluation",
        )
        try:
            evaluators[name].prepare(model.heads[name], data.val)  # type: ignore[arg-type]  # a Head
        except ConfigError as error:
            raise ConfigError(f"heads.{name}.evaluation.{error}") from None
    return evaluators
