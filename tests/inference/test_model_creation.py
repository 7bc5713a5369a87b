"""Own parts as objects, without YAML: trained in a plain loop and by `fit`, saved, loaded, evaluated, exported and
resumed, with the numbers of the same parts by a config."""

import copy
import functools
import pickle
import warnings
from typing import Any

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.errors import DensevitError
from densevit.model import DenseModel
from tests.inference.own_parts import Accuracy, Doubled, Halves, Labels, Momentum, Net, Unchanged

MODULE = "tests.inference.own_parts"
CLASSES = ["left", "right"]
HEAD = {"name": functools.partial(Labels, depth=2), "evaluation": functools.partial(Accuracy, per_cent=True)}
KEYS: dict[str, Any] = {
    **{"max_steps": 20, "batch_size": 4, "num_workers": 0, "lr": 1e-2, "precision": "32", "log_every": 1},
    **{"replace_layers": False, "accelerator": "cpu", "devices": 1},
}
CONFIG = {
    "backbone": {"name": f"{MODULE}:Net", "width": 12},
    "heads": {
        "seg": {
            **{"name": f"{MODULE}:Labels", "depth": 2},
            "evaluation": {"name": f"{MODULE}:Accuracy", "per_cent": True},
        }
    },
    "data": {
        "train": {"name": f"{MODULE}:Halves", "count": 16},
        "val": {"name": f"{MODULE}:Halves", "count": 8, "seed": 1},
    },
}


pytestmark = pytest.mark.usefixtures("cwd")


def own_model(net: Any = None, head: Any = HEAD, classes: Any = CLASSES) -> DenseModel:
    torch.manual_seed(0)
    return densevit.create_model(Net(width=12) if net is None else net, heads={"seg": head}, classes=classes)


def trained(model: Any, **keys: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes() of the data set
        return densevit.fit(model, **KEYS | {"train": Halves(16), "val": Halves(8, seed=1)} | keys)


def losses_of(model: DenseModel, steps: int = 20) -> list[float]:
    data, optimizer = Halves(4), torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.stack([data[i]["image"] for i in range(4)])
    masks = torch.stack([data[i]["targets"]["semantic"] for i in range(4)])
    history = []
    for _ in range(steps):
        loss = torch.stack([*model.loss(images, masks).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    return history


def test_a_plain_loop_has_the_losses_and_weights_of_the_config():
    model, head = own_model(), {"name": f"{MODULE}:Labels", "depth": 2}
    torch.manual_seed(0)
    by_config = densevit.create_model(CONFIG["backbone"], {"seg": head}, classes=CLASSES)
    history = losses_of(model)
    assert history == losses_of(by_config) and history[-1] < history[0]
    assert model.fingerprint() == by_config.fingerprint()
    image = Halves(1, seed=2)[0]["image"]
    assert torch.equal(model.predict(image).semantic, by_config.predict(image).semantic)


@pytest.mark.parametrize("copied", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_saved_model_has_its_classes_by_name(copied):
    model = own_model()
    losses_of(model, 2)
    copied(model).save("m.safetensors")
    with pytest.raises(densevit.ConfigError, match=f"{MODULE}:.*trust=True"):
        densevit.load("m.safetensors")
    loaded = densevit.load("m.safetensors", trust=True)
    assert type(loaded.backbone) is Net and loaded.fingerprint() == model.fingerprint()
    assert len(loaded.heads["seg"].layers) == 3


@pytest.mark.integration
def test_fit_has_the_numbers_of_the_config_and_its_folder_gives_them_again(tmp_path, capsys):
    model = own_model()
    run = trained(model, run_dir="objects")
    by_config = trained(CONFIG, train=None, val=None, run_dir="config")
    assert run.model is model and run.metrics == by_config.metrics and run.metrics["seg/accuracy"] > 90
    assert run.model.fingerprint() == by_config.model.fingerprint()
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines()[:20] for name in ("objects", "config")]
    columns = rows[0][0].split(",").index("train/loss")
    assert [row.split(",")[columns] for row in rows[0]] == [row.split(",")[columns] for row in rows[1]]
    assert not (tmp_path / "objects/start.safetensors").exists()  # as building the config gives them
    assert densevit.evaluate(model, data=Halves(8, seed=1)) == run.metrics == densevit.evaluate("objects")
    assert "hold" not in capsys.readouterr().out
    image = Halves(1, seed=2)[0]["image"]
    assert torch.equal(densevit.load("objects").predict(image).semantic, model.predict(image).semantic)


@pytest.mark.integration
def test_weights_in_hand_are_kept_and_runs_are_resumed(tmp_path):
    model = own_model()
    losses_of(model, 5)
    run = trained(model, run_dir="first")
    assert (tmp_path / "first/start.safetensors").is_file()
    again = trained("first/config.yaml", train=None, val=None, run_dir="again", name=None)
    assert again.metrics == run.metrics and again.model.fingerprint() == model.fingerprint()
    half = trained(own_model(), max_steps=10, run_dir="half")
    resumed = trained(None, resume="half", train=Halves(16), val=Halves(8, seed=1), max_steps=20)
    assert resumed.path == half.path and len((tmp_path / "half/metrics.csv").read_text().splitlines()) > 20


def in_a_function() -> Any:
    class Local(Net):
        pass

    return Local


UNWRITTEN = {
    "a function": (lambda: own_model(Net(12, act=torch.relu)), "backbone.act", "relu"),
    "a module": (lambda: own_model(Net(12, act=torch.nn.GELU())), "backbone.act", "GELU"),
    "a class of a function": (lambda: own_model(in_a_function()(12)), "backbone.name", "<locals>.Local"),
}


@pytest.mark.integration
@pytest.mark.parametrize("case", UNWRITTEN)
def test_what_files_cannot_hold_is_named_and_the_model_in_hand_gets_the_weights(case, tmp_path, capsys):
    build, key, text = UNWRITTEN[case]
    model = build()
    with pytest.warns(UserWarning, match=rf"m\.safetensors: {key}: files cannot hold .*{text}.*Fix: .*model=model"):
        model.save("m.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # also of the report
        warnings.filterwarnings("ignore", "(?s).*sizes|.*worker|.*shuffl")
        run = densevit.fit(model, **KEYS, train=Halves(16), val=Halves(8, seed=1), run_dir="run")
    assert f"{key}: files cannot hold" in capsys.readouterr().out.replace("\n", " ")
    config = (tmp_path / "run/config.yaml").read_text()
    assert f"# {key}: files cannot hold" in config and run.model is model
    with pytest.raises(DensevitError, match="model=model" if "function" in case[:3] else text):
        densevit.load("run")
    other = build()
    assert densevit.load("run", model=other) is other and other.fingerprint() == model.fingerprint()


class Maps(torch.nn.Module):
    """Returns feature maps, and is no Backbone."""

    def __init__(self, **known: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 6, 8, stride=8)
        vars(self).update(known)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"fine": self.layer(images)}


def test_modules_of_other_libraries_are_wrapped_where_their_sizes_are_known():
    model = own_model(Maps(channels=[6], strides=[8]))
    assert losses_of(model, 2)[1] > 0 and model.backbone.channels == (6,)
    with pytest.raises(
        densevit.PluginError, match=r"Maps, which is not a densevit\.Backbone.*ModuleBackbone\(model, ch"
    ):
        own_model(Maps())
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet18", features_only=True, out_indices=(2, 3), pretrained=False)
    model = own_model(net)
    assert (model.backbone.channels, model.backbone.strides) == ((128, 256), (8, 16)) and model.backbone.module is net
    torch.testing.assert_close(model.backbone.mean, net.pretrained_cfg["mean"], rtol=0, atol=0)


SGD = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"overrides": ["backbone.freeze=true"]}, r"^backbone\.freeze=true: the model exists, and cannot change"),
        ({"overrides": {"heads.seg.depth": 3}}, r"^heads\.seg\.depth: the model exists"),
        ({"max_stepz": 3}, r"max_stepz is not a key\. Keys: .*backbone"),
        ({"overrides": {"optim.name": SGD}}, r"optim\.name: .*SGD' is an instance\. Fix: its class"),  # of all groups
    ],
)
def test_keys_that_a_given_model_cannot_follow_are_refused(keys, message):
    with pytest.raises(densevit.ConfigError, match=message):
        trained(own_model(), **keys)


def test_other_classes_than_the_data_s_are_refused_and_numbers_get_its_names():
    with pytest.raises(densevit.ConfigError, match=r"heads\.seg has the classes a, b; expected left, right\. Fix:"):
        trained(own_model(classes=["a", "b"]))
    own_model(classes=["left", "right"]).save("m.safetensors")
    numbered = densevit.load("m.safetensors", model=own_model(classes=2))
    assert [c.name for c in numbered.classes["seg"]] == CLASSES == [c.name for c in numbered.heads["seg"].classes]


@pytest.mark.integration
def test_a_training_of_objects_alone(tmp_path):
    head, seen = Labels([12, 12], [8, 16], CLASSES), []
    stop = pytest.importorskip("pytorch_lightning").callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, *_: seen.append(trainer.global_step)
    )
    neck = densevit.create_neck("fpn", (12, 24), (8, 16), width=12)
    model = own_model(head={"name": head, "neck": neck, "evaluation": Accuracy(CLASSES, per_cent=True)})
    objects = {"data.transforms": Unchanged(64), "optim.name": Momentum, "trainer.callbacks": [stop]}
    run = trained(
        model,
        overrides=objects,
        method=functools.partial(Doubled, factor=3),
        max_steps=3,
        weight_decay=0,
        run_dir="run",
    )
    assert run.model.heads["seg"] is head and run.model.necks["seg"] is neck and seen == [1, 2, 3]
    config = configs.load(tmp_path / "run/config.yaml")
    names = (config.data.transforms.name, config.optim.name, config.method.name, config.heads["seg"].neck.name)
    assert names == (f"{MODULE}:Unchanged", f"{MODULE}:Momentum", f"{MODULE}:Doubled", "fpn")
    assert config.method.options == {"factor": 3} and config.heads["seg"].neck.options == {"width": 12}
    assert config.trainer.callbacks[0].options == {"arguments": "LambdaCallback"}


def test_options_beside_an_instance_are_refused_and_keys_of_the_section_are_not_taken_from_its_constructor():
    net = densevit.create_backbone("resnet", depth=18)
    with pytest.raises(densevit.ConfigError, match=r"backbone: depth: the ResNet is built already\. Fix: leave it out"):
        densevit.create_model({"name": net, "depth": 34}, "setr", classes=2)
    wrapped = densevit.interfaces.ModuleBackbone(net, channels=net.channels, strides=net.strides)  # not image channels
    model = densevit.create_model({"name": wrapped, "freeze": True}, "setr", classes=2)
    assert model.backbone is wrapped and model.sections.backbone.freeze
