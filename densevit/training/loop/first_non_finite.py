"""Finds the module with the first non-finite output or gradient.

Activations are checked by forward hooks in the order of computation, gradients by tensor hooks in the order of the
backward pass. Negative infinities in tensors without gradient count as finite: these are attention masks, which are
added to the scores.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from densevit.interfaces import Batch, LossContext, Method
from densevit.model import DenseModel


@dataclass(frozen=True)
class FirstNonFinite:
    """The first value that is not finite.

    layer: the module's name and class. what: "value" (of a parameter), "output", "gradient" or "loss"; "" if all are
    finite. tensors: the shapes and ranges of the module's inputs and outputs, or of the gradient.
    """

    layer: str = ""
    what: str = ""
    tensors: str = ""

    def __str__(self) -> str:
        if not self.what:
            return "All outputs, gradients and losses are finite"
        if self.what == "loss":
            return "All outputs of modules are finite; the loss computed from them is not"
        return f"The first non-finite {self.what} is that of {self.layer}{self.tensors and f': {self.tensors}'}"


def find(modules: Mapping[str, nn.Module], step: Callable[[], Mapping[str, Tensor]]) -> FirstNonFinite:
    """Runs the forward and backward pass of a training step and returns the first module with a non-finite value.

    modules: the modules by name. step: returns the loss terms. `grad` of the parameters is unchanged.
    """
    parameters = {f"{prefix}.{name}": p for prefix, m in modules.items() for name, p in m.named_parameters()}
    for name, parameter in parameters.items():
        if not is_finite(parameter.detach()):
            return FirstNonFinite(f"the parameter {name}", "value", _described(parameter))
    search = _Search()
    handles = [
        handle
        for prefix, root in modules.items()
        for name, module in root.named_modules(prefix=prefix)
        for handle in search.attach(name, module)
    ]
    try:
        terms = step()
        search.backward = True
        loss = torch.stack(list(terms.values())).sum()
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    if search.found is not None:
        return search.found
    if not is_finite(loss.detach()):
        return FirstNonFinite(what="loss")
    if search.found_gradient is not None:
        return search.found_gradient
    broken = [name for name, g in zip(trained, gradients, strict=True) if g is not None and not is_finite(g)]
    return FirstNonFinite(f"the parameter {broken[-1]}", "gradient") if broken else FirstNonFinite()


class _Search:
    """The hooks of one step.

    found: the first non-finite output in the forward pass. found_gradient: the first non-finite gradient. backward:
    whether the forward pass is complete; modules that activation checkpointing runs again are not checked.
    """

    def __init__(self) -> None:
        self.found: FirstNonFinite | None = None
        self.found_gradient: FirstNonFinite | None = None
        self.backward = False
        self._running: list[tuple[str, nn.Module]] = []
        self._uses: dict[int, tuple[Tensor, list[str]]] = {}  # a tensor and the modules that use it, outermost first
        self._made_by: dict[int, str] = {}

    def attach(self, name: str, module: nn.Module) -> Iterator[Any]:
        """Registers the hooks of a module."""
        label = f"{name} ({type(module).__name__})"
        yield module.register_forward_pre_hook(
            lambda module, args, kwargs: self._before(label, module, (args, kwargs)), with_kwargs=True
        )
        yield module.register_forward_hook(
            lambda module, args, kwargs, output: self._after(label, module, (args, kwargs), output), with_kwargs=True
        )

    def _before(self, label: str, module: nn.Module, inputs: Any) -> None:
        if self.backward:
            return
        for x in _tensors(inputs):
            if self.found is None and self._running and x.is_floating_point() and bool(x.detach().isnan().any()):
                above = self._running[-1][0]  # the parent computed x between its submodules
                self.found = FirstNonFinite(above, "output", f"{_described(x)}, the input of {label}")
            self._watch(x, label)
        self._running.append((label, module))

    def _after(self, label: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self.backward:
            return
        self._running.pop()
        for x in _tensors(outputs):
            if self.found is None and not is_finite(x):
                tensors = f"input {_all_described(inputs)}; output {_all_described(outputs)}"
                self.found = FirstNonFinite(label, "output", tensors)
            self._made_by[id(x)] = label
            self._watch(x, None)

    def _watch(self, x: Tensor, user: str | None) -> None:
        if not x.requires_grad or not x.is_floating_point():
            return
        if id(x) not in self._uses:
            self._uses[id(x)] = (x, [])  # keeps it, so that its id stays unique
            x.register_hook(functools.partial(self._on_gradient, id(x)))
        if user is not None:
            self._uses[id(x)][1].append(user)

    def _on_gradient(self, key: int, gradient: Tensor) -> None:
        if self.found_gradient is not None or is_finite(gradient):
            return
        users = self._uses[key][1]
        if users:  # the innermost of the first nested modules
            inner = users[0]
            for user in users[1:]:
                if not user.startswith(inner.partition(" ")[0] + "."):
                    break
                inner = user
            self.found_gradient = FirstNonFinite(inner, "gradient", f"of its input, {_described(gradient)}")
            return
        made_by = self._made_by.get(key, "")
        layer = f"the loss of the output of {made_by}"
        self.found_gradient = FirstNonFinite(layer, "gradient", _described(gradient))


def is_finite(x: Tensor) -> bool:
    """Whether all values are finite. -inf in a tensor without gradient is a mask and counts as finite."""
    if not x.is_floating_point() or x.device.type == "meta":
        return True
    if bool(x.detach().isfinite().all()):
        return True
    return not x.requires_grad and not bool((x.isnan() | x.isposinf()).any())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in nested lists, tuples, dicts and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _tensors(getattr(value, name))


def _all_described(values: Any, most: int = 2) -> str:
    tensors = [x for x in _tensors(values) if x.is_floating_point() or x.dtype == torch.uint8]
    more = [f"and {len(tensors) - most} more"] if len(tensors) > most else []
    return ", ".join([*map(_described, tensors[:most]), *more])


def _described(x: Tensor) -> str:
    """Formats the dtype, shape, range and counts of non-finite values."""
    x = x.detach()
    text = f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
    finite = x[x.isfinite()].float()
    if finite.numel():
        text += f" from {float(finite.min()):.4g} to {float(finite.max()):.4g}"
    nan, infinite = int(x.isnan().sum()), int(x.isinf().sum())
    counts = [f"{count:,} {name}" for count, name in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"{text}, {' and '.join(counts)} of {x.numel():,} values" if counts else text


def find_in_batches(
    model: DenseModel, method: Method, batches: list[Batch], random_state: Mapping[str, Tensor], device: torch.device
) -> FirstNonFinite:
    """Returns the first finding in the batches of one optimiser step, in this process only and without torch.compile.

    The losses of each batch are normalised separately.
    """
    restore_random_state(random_state, device)
    found, context = FirstNonFinite(), LossContext(finite_costs=False)
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        for batch in batches:
            modules = {"model": model, "method": method}
            found = find(modules, lambda given=batch: method.training_step(model, given, context))  # type: ignore[misc]
            if found.what:
                break
    return found


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Returns the state of torch's generators of the CPU and of this device, without synchronisation."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restores a state from `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def image_ids(batch: Batch) -> list[int | str]:
    """Returns the ids of a batch's images."""
    return [target.get("image_id", index) for index, target in enumerate(batch["targets"])]
