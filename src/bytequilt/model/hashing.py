"""Hashed byte n-grams and their embeddings, looked up in one table."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..codec import BOS
from ..config import HashConfig
from .embedding import Gather
from .initial import init_normal

# One prime per hash function, in the order of the released models.
PRIMES = (
    1000000007, 5915587277, 1500450271, 3267000013, 5754853343, 4093082899,
    9576890767, 3628273133, 2860486313, 5463458053, 3367900313,
)  # fmt: skip


def hashes(config: HashConfig, ids_BN: Tensor) -> Tensor:
    """Table row of every n-gram that ends at each id: (B, N, T).

    T = hash functions x n-gram sizes, ordered by function first; rows count within each table. The hash of n ids is
    their polynomial in the prime of the function, with the oldest id at power 0, in wrapping int64, modulo `rows`
    (Pagnoni et al. 2024, section 3.2.1, as in the released code). Ids before the BOS of a document count as 0.
    """
    rows, longest = len(ids_BN), max(config.sizes)
    opens = torch.where(ids_BN == BOS, torch.arange(ids_BN.shape[1], device=ids_BN.device), 0).cummax(1).values
    place = torch.arange(ids_BN.shape[1], device=ids_BN.device) - opens
    padded = torch.cat([ids_BN.new_zeros(rows, longest - 1), ids_BN], 1)
    out = []
    for prime in PRIMES[: config.functions]:
        polynomial = ids_BN
        for n in range(2, longest + 1):
            oldest = padded[:, longest - n : longest - n + ids_BN.shape[1]]
            polynomial = torch.where(place >= n - 1, oldest, 0) + prime * polynomial
            if n in config.sizes:
                out.append(polynomial % config.rows)
    return torch.stack(out, -1)


class HashEmbedding(nn.Module):
    """Sum of the embeddings of all n-grams that end at each id: (B, N) -> (B, N, d)."""

    gather: Gather | None = None
    """Set during training by an optimizer that updates only the rows in use; otherwise None."""

    def __init__(self, config: HashConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.tables * config.rows, dim))
        self.register_buffer("scale", None)  # one scale per table row, for int8 weights only
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_normal(self.weight, self.weight.shape[1])

    @property
    def reach(self) -> int:
        """Number of ids before the newest id in the longest n-gram."""
        return max(self.config.sizes) - 1

    def forward(self, ids_BN: Tensor, recent_BM: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Embeddings (B, N, d) of the ids (B, N), summed in `dtype`, which may differ from the stored type. `recent_BM`
        are the same ids with earlier ids of their rows before them; None where there are no earlier ids."""
        rows_BNT = hashes(self.config, ids_BN if recent_BM is None else recent_BM)[:, -ids_BN.shape[1] :]
        return self._embedded(rows_BNT.flatten(0, 1), dtype).view(*ids_BN.shape, -1)

    def step(self, recent_RM: Tensor, since_R: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor:
        """The sum of the n-gram embeddings (R, d) that end in the newest id of each row. `recent_RM` holds the `reach`
        ids before it and then that id: (R, reach + 1).

        `since_R` is the distance from the newest id back to the BOS of its document, 0 if it is the BOS; ids of earlier
        documents are then left out. None means that the row has no earlier document: zeros stand before its BOS.
        """
        if since_R is not None:
            recent_RM = recent_RM * (_distances(self.reach, recent_RM.device) <= since_R[:, None])
        polynomials_RT = (recent_RM[:, :, None] * powers(self.config, recent_RM.device)).sum(1)
        places_RT = polynomials_RT % self.config.rows + _offsets(self.config, recent_RM.device)
        embedded = self.weight.index_select(0, places_RT.flatten())  # for few rows faster than embedding_bag
        return self._scaled(embedded.view(*places_RT.shape, -1).to(dtype), places_RT).sum(1)

    def _embedded(self, rows_ST: Tensor, dtype: torch.dtype) -> Tensor:
        places_ST = rows_ST + _offsets(self.config, rows_ST.device)
        weight, places_ST = (self.weight, places_ST) if self.gather is None else self.gather(places_ST)
        if weight.dtype is dtype:
            return F.embedding_bag(places_ST, weight, mode="sum")
        return self._scaled(F.embedding(places_ST, weight).to(dtype), places_ST).sum(1)

    def _scaled(self, vectors: Tensor, places: Tensor) -> Tensor:
        return vectors if self.scale is None else vectors * self.scale[places][..., None]


@cache
def _distances(reach: int, device: torch.device) -> Tensor:
    """Distance of each id of the longest n-gram from the newest id: reach, ..., 1, 0."""
    return torch.arange(reach, -1, -1, device=device)


@cache
def _offsets(config: HashConfig, device: torch.device) -> Tensor:
    """First row of each table (T,) in the common table of all n-grams."""
    return torch.arange(config.tables, device=device) * config.rows


@cache
def powers(config: HashConfig, device: torch.device) -> Tensor:
    """Factor of each id in the polynomial of each hash, in wrapping int64: (longest n-gram, T)."""
    longest = max(config.sizes)
    columns = [
        [0] * (longest - size) + [wrapped(prime**power) for power in range(size)]
        for prime in PRIMES[: config.functions]
        for size in sorted(config.sizes)
    ]
    return torch.tensor(columns, device=device).T.contiguous()


def wrapped(number: int) -> int:
    """The value of a Python integer after overflow in int64."""
    return (number + 2**63) % 2**64 - 2**63
