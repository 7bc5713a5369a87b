"""The models inside of wrappers: of data-parallel training, of averaged weights, of `torch.compile`, of Lightning."""

from typing import Any

from torch import nn

from densevit.errors import DensevitError
from densevit.model.batch_checks import described
from densevit.model.inference_model import InferenceModel
from densevit.model.meta_device import check_values

_MODULE = "densevit.training.loop.dense_module.DenseModule"
_INSIDE = {  # the attribute of the wrapped model, by class; names, because importing some of them takes seconds
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "lightning_fabric.wrappers._FabricModule": "module",
    "lightning.fabric.wrappers._FabricModule": "module",
    _MODULE: "eval_model",
}


def unwrapped(model: Any, door: str, trains: bool = False) -> Any:
    """The model inside of wrappers; a model as it is. door: the called function, for the message. trains: whether a
    `DenseModule` stands for the model that it trains, or for the one that it validates and saves.

    An `AveragedModel` has a copy of the model, with the averaged weights. Raises DensevitError for other objects,
    and unless `trains` for a model on the meta device.
    """
    wrapper = model
    while not isinstance(model, InferenceModel):
        names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__]
        name = next((name for name in names if name in _INSIDE), None)
        if name is None:
            raise DensevitError(
                f"{door}: the model is {described(wrapper)}; a DenseModel is expected, as from densevit.load or "
                "densevit.create_model, also inside of DataParallel, DistributedDataParallel, AveragedModel, "
                "torch.compile, Fabric or a DenseModule. Fix: pass the DenseModel itself."
            )
        model = getattr(model, "model" if trains and name == _MODULE else _INSIDE[name])
    if not trains and isinstance(model, nn.Module):
        check_values(model, door)
    return model
