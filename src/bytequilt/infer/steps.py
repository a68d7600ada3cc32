"""The functions that advance rows of caches by one position through each network of a BLT and its entropy model."""

from typing import TYPE_CHECKING, Union

from ..model.blt import BLT
from ..patching.patcher import Patcher
from .recorded import RecordedSteps
from .torch_steps import TorchSteps

if TYPE_CHECKING:
    from ..native.steps import CompiledSteps

Steps = Union[TorchSteps, "CompiledSteps"]


def steps_of(model: BLT, patcher: Patcher, rows: int, native: bool) -> Steps:
    """The steps of a model and its patcher in a session of `rows` rows. With `native`, they are compiled on a CPU and
    recorded on a GPU; otherwise PyTorch runs each operation by itself."""
    if not native:
        return TorchSteps(model, patcher)
    if model.decoder.norm.weight.is_cuda:
        return RecordedSteps(model, patcher, rows)
    from ..native.steps import CompiledSteps

    return CompiledSteps(model, patcher)
