"""densevit/config/named_classes.py: loggers, callbacks and schedules named in a config."""

from functools import partial

from densevit.config import named_classes
from densevit.config.values import PluginSection


def test_trackers_have_short_names_and_mlflow_writes_to_the_run_unless_a_server_is_named(environment):
    check = partial(named_classes.check, "logger")
    environment(MLFLOW_TRACKING_URI=None)
    for name, logger in (("wandb", "WandbLogger"), ("mlflow", "MLFlowLogger")):
        assert named_classes.load("logger", name).__name__ == logger
        assert check(PluginSection(name=name), "trainer.loggers.0", "/runs/a")["save_dir"] == "/runs/a"
    mlflow = PluginSection(name="mlflow")
    assert check(mlflow, "loggers.0", "/runs/a")["tracking_uri"] == "sqlite:////runs/a/mlflow.db"
    environment(MLFLOW_TRACKING_URI="http://server")
    assert "tracking_uri" not in check(mlflow, "loggers.0", "/runs/a")
