"""AdamW for tables of which a step reads only few rows: hash embeddings and byte embeddings.

Dense AdamW moves every row at every step: a row without gradient still moves by its shrinking momentum. Here a row is
not changed until a step reads it; then all missed moves are applied at once, in closed form. The result is that of
dense AdamW without weight decay, except that `eps` is neglected in the missed steps. (SparseAdam, which does not shrink
the moments either, trains a worse model.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..model.embedding import Embedding
from ..model.hashing import HashEmbedding
from .drift import CHUNK, Moments, Step, catch_up_, caught_up, next_drift, update_


@dataclass
class Read:
    """The table rows that a step reads: their numbers and their caught-up values, which collect the gradient."""

    rows_U: Tensor | slice
    values_UD: Tensor
    slot_U: Tensor | None = None
    """If rows are padded with repeats of the last one: for each entry, the index of the entry that holds its
    gradient."""

    @property
    def grads_UD(self) -> Tensor:
        grads_UD = self.values_UD.grad
        assert grads_UD is not None
        return grads_UD if self.slot_U is None else grads_UD.index_select(0, self.slot_U)


def distinct(places_M: Tensor, size: int, fixed: bool) -> tuple[Tensor | slice, Tensor, Tensor | None]:
    """The distinct rows among `places_M`, the index of each place in them, and `Read.slot_U`.

    If there are at least as many places as rows in the table (`size`), the whole table is taken. With `fixed`, shapes
    do not depend on values and nothing is copied from the device: there are M rows, the last one repeated.
    """
    if len(places_M) >= size:
        return slice(None), places_M, None
    if not fixed:
        return *places_M.unique(return_inverse=True), None
    sorted_M, order_M = places_M.sort()
    slot_M = torch.cat([torch.zeros_like(sorted_M[:1]), (sorted_M[1:] != sorted_M[:-1]).long()]).cumsum(0)
    rows_M = sorted_M[-1:].repeat(len(sorted_M)).scatter_(0, slot_M, sorted_M)
    count = torch.arange(len(sorted_M), device=sorted_M.device)
    return rows_M, torch.empty_like(slot_M).scatter_(0, order_M, slot_M), count.minimum(slot_M[-1])


Part = tuple[Tensor | slice, Tensor]
"""Row numbers of a table (or a slice) and their gradients."""


def summed(parts: list[Part], weight_RD: Tensor, fixed: bool) -> tuple[Tensor | slice, Tensor | None, Tensor]:
    """Add up the gradients of several parts of a table: distinct rows, `Read.slot_U`, and summed gradients."""
    if len(parts) == 1 and isinstance(parts[0][0], slice):
        return parts[0][0], None, parts[0][1]
    all_rows = torch.arange(len(weight_RD), device=weight_RD.device)
    rows_M = torch.cat([all_rows if isinstance(rows, slice) else rows for rows, _ in parts])
    grads_MD = torch.cat([grads for _, grads in parts])
    rows_U, where_M, slot_U = distinct(rows_M, len(weight_RD), fixed)
    count = len(weight_RD) if isinstance(rows_U, slice) else len(rows_U)
    return rows_U, slot_U, weight_RD.new_zeros(count, weight_RD.shape[1]).index_add_(0, where_M, grads_MD)


def own(x: Tensor) -> Tensor:
    """This process's part of a tensor: the local shard, or the tensor itself if it is not sharded."""
    return x.to_local() if isinstance(x, DTensor) else x


def like(x: Tensor, weight: Tensor) -> Tensor:
    """Mark a local tensor as this process's shard of a tensor that is sharded like `weight`."""
    return DTensor.from_local(x, weight.device_mesh, weight.placements) if isinstance(weight, DTensor) else x


class Rows(torch.optim.Optimizer):
    """AdamW without weight decay that updates only the rows in use of Embedding and HashEmbedding tables.

    It replaces the look-up of each table. A look-up with gradients returns caught-up values and records the rows. A
    look-up without gradients reads the table directly, so `catch_up` must be called before.
    """

    def __init__(self, tables: list[Embedding | HashEmbedding], lr: float, betas: tuple[float, float]) -> None:
        group = {"params": [table.weight for table in tables], "weight_decay": 0.0, "peak": lr}
        super().__init__([group], {"lr": lr, "betas": betas, "eps": 1e-8, "step": 0})
        self.tables = tables
        self.moments = {table.weight: Moments.of(own(table.weight.detach())) for table in tables}
        self.reads: dict[Tensor, list[Read]] = {}
        self.fixed = any(table.weight.device.type != "cpu" for table in tables)
        """True if shapes must not depend on values, since that would require reading the device."""
        for table in tables:
            table.gather = self._reader(table)

    def detach(self) -> None:
        """Apply the missed steps and remove the look-ups from the tables."""
        self.catch_up()
        for table in self.tables:
            table.gather = None

    @torch.no_grad()
    def catch_up(self) -> None:
        """Apply the missed steps to every row; needed before evaluation and export."""
        for weight, moments in self.moments.items():
            catch_up_(own(weight.detach()), moments, self._step)

    @torch.no_grad()
    def caught_up(self, weight: Tensor) -> Tensor:
        """A copy on the CPU of a table with all missed steps applied."""
        parts = (slice(begin, begin + CHUNK) for begin in range(0, len(weight), CHUNK))
        return torch.cat([caught_up(weight, self.moments[weight], rows, self._step.eps).cpu() for rows in parts])

    def leaves(self) -> list[Tensor]:
        """One tensor per table that was read; its `grad` is the gradient of the rows read, each row once."""
        return [view.values_UD for weight in self.reads for view in self.merged(weight)]

    @torch.no_grad()
    def merged(self, weight: Tensor) -> list[Read]:
        """All reads of a table that have a gradient, merged into one; an empty list if there are none."""
        reads = [view for view in self.reads.get(weight, []) if view.values_UD.grad is not None]
        if len(reads) > 1:
            self.put(weight, [(view.rows_U, view.values_UD.grad) for view in reads])
            reads = self.reads[weight]
        return reads

    @torch.no_grad()
    def put(self, weight: Tensor, parts: list[Part]) -> None:
        """Replace all recorded reads of a table by these gradients, summed."""
        rows_U, slot_U, grads_UD = summed(parts, own(weight), self.fixed)
        values_UD = caught_up(own(weight), self.moments[weight], rows_U, self._step.eps)
        values_UD.grad = grads_UD
        self.reads[weight] = [Read(rows_U, values_UD, slot_U)]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update the rows that were read since the last step; other rows are caught up later."""
        self.param_groups[0]["step"] += 1
        now = self._step
        for weight, moments in self.moments.items():
            for view in self.merged(weight):
                update_(own(weight.detach()), moments, view.rows_U, view.values_UD.detach(), view.grads_UD, now)
            moments.drift_S = next_drift(moments.drift_S, now)
        self.reads.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Discard all recorded reads."""
        self.reads.clear()

    def state_dict(self) -> dict[str, Any]:
        """The exact state for a checkpoint; rows are saved without applying missed steps."""
        state = [
            {name: like(x, weight) if x.ndim == 2 else x for name, x in vars(moments).items()}
            | {"weight": weight.detach()}
            for weight, moments in self.moments.items()
        ]
        return {"state": dict(enumerate(state)), "param_groups": super().state_dict()["param_groups"]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state."""
        for number, (weight, moments) in enumerate(self.moments.items()):
            state = state_dict["state"][number]
            weight.copy_(state["weight"])
            for name in vars(moments):
                setattr(moments, name, own(state[name]).to(weight.device))
        (group,) = state_dict["param_groups"]
        self.param_groups[0] |= {name: value for name, value in group.items() if name != "params"}

    @property
    def _step(self) -> Step:
        group = self.param_groups[0]
        return Step(group["step"], group["lr"], group["betas"], group["eps"])

    def _reader(self, table: Embedding | HashEmbedding) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def gather(places: Tensor) -> tuple[Tensor, Tensor]:
            weight = table.weight
            if not torch.is_grad_enabled():
                return own(weight), places
            rows_U, where_M, slot_U = distinct(places.flatten(), len(weight), self.fixed)
            reads = self.reads.get(weight, [])
            if isinstance(rows_U, slice) and reads and isinstance(reads[0].rows_U, slice):
                return reads[0].values_UD, where_M.view(places.shape)  # the whole table again: its gradient is summed
            with torch.no_grad():
                values_UD = caught_up(own(weight), self.moments[weight], rows_U, self._step.eps)
            self.reads[weight] = [*self.merged(weight), Read(rows_U, values_UD.requires_grad_(), slot_U)]
            return values_UD, where_M.view(places.shape)

        return gather
