"""A pretended GPU: its tensors lie on the CPU, but to mix them with the CPU's own raises.

Inside of `Present()` there is a device `DEVICE`. As on CUDA, an operation wants all its tensors
there, but for those of the CPU that have no dimension and for the indices into a tensor. None goes
to numpy; a copy (`.cpu()`, `.to`) brings one back. What is made on no device is made on the CPU.
Only `.data` of such a tensor must not be set, as `Module.to` would do for another dtype.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn
from torch.utils import backend_registration as registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from realqa_utils.model.backbone import Backbone

ATEN = torch.ops.aten
COPIES = {ATEN._to_copy, ATEN.copy_, ATEN.copy}
INDEXED = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_, ATEN._unsafe_index}


class Present(TorchDispatchMode):
    """Where the device is there: of what is made on it, torch alone would know nothing."""

    depth = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def __enter__(self):
        Present.depth += 1
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor`: first made, then moved
        return super().__enter__()

    def __exit__(self, *problem):
        Present.depth -= 1
        torch._C._set_only_lift_cpu_tensors(Present.depth > 0)
        return super().__exit__(*problem)


class _Module(registration._DummyBackendModule):
    def is_available(self) -> bool:
        return Present.depth > 0  # to other tests there is none

    def device_count(self) -> int:
        return int(self.is_available())

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class _Hook(registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return Present.depth > 0


registration._setup_privateuseone_for_python_backend("elsewhere", _Module(), _Hook())
DEVICE = torch.device("elsewhere", 0)


class Elsewhere(torch.Tensor):
    """A tensor on `DEVICE`; its numbers are in `inner`, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def tolist(self) -> list:
        return self.cpu().tolist()

    def __format__(self, form: str) -> str:
        return format(self.detach().cpu(), form)

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner!r})"


@torch.library.impl("aten::_local_scalar_dense", "PrivateUse1")
def _number(tensor: Elsewhere):
    """Where `torch.tensor` reads the numbers in a list of tensors, nothing above is asked."""
    return tensor.inner.item()


def _run(function, args: tuple, kwargs: dict):
    """The function on the CPU; what comes out is where it would be. Raises for a mix of devices."""
    name, device = function.overloadpacket, kwargs.get("device")
    if name in COPIES:
        is_there = isinstance(args[0], Elsewhere)
    else:
        is_there = _one_device(function, args, kwargs)
    if device is not None:
        is_there, kwargs = device.type == DEVICE.type, kwargs | {"device": "cpu"}
    inner_args, inner_kwargs = tree_map_only(Elsewhere, lambda x: x.inner, (args, kwargs))
    out = function(*inner_args, **inner_kwargs)
    if not is_there:
        return out
    changed = _changed(function, args, kwargs)
    return tree_map_only(torch.Tensor, Elsewhere, out) if changed is None else changed


def _one_device(function, args: tuple, kwargs: dict) -> bool:
    """Whether the tensors of a call are on `DEVICE`. Raises RuntimeError where only some are."""
    if function.overloadpacket in INDEXED and isinstance(args[0], Elsewhere):
        args = (args[0], *args[2:])
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [isinstance(x, Elsewhere) for x in tensors]
    if not any(there):
        return False
    for tensor, is_there in zip(tensors, there, strict=True):
        if not is_there and tensor.dim():
            shape = tuple(tensor.shape)
            raise RuntimeError(f"{function}: a tensor {shape} is on {tensor.device}, not {DEVICE}")
    return True


def _changed(function, args: tuple, kwargs: dict) -> torch.Tensor | None:
    """The tensor that a call changes in place; None where it makes a new one."""
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            tensor = args[place] if place < len(args) else kwargs[argument.name]
            assert tensor.shape == tensor.inner.shape, f"{function} changes a shape"
            return tensor
    return None


def moved(backbone: Backbone) -> Backbone:
    """A copy of a backbone whose weights are on `DEVICE`; what is tied stays tied."""
    model = deepcopy(backbone.model)
    known: dict[nn.Parameter, nn.Parameter] = {}
    for part in model.modules():
        for name, weight in part.named_parameters(recurse=False):
            if weight not in known:
                known[weight] = nn.Parameter(Elsewhere(weight.detach()), weight.requires_grad)
            setattr(part, name, known[weight])
        for name, values in part.named_buffers(recurse=False):
            setattr(part, name, Elsewhere(values))
    return replace(backbone, model=model, prompts={})
