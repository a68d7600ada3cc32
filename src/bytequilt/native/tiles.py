"""The inner loop of a matrix product: four rows by four outputs in vector registers, with prefetch of the next weights.

The weights of a network exceed the processor's cache, so a product of few rows mostly waits for memory. numba has no
prefetch instruction. So this loop is written directly in LLVM's intermediate representation.
"""

from platform import machine
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

SIDE = 4
WIDTH = 4 if machine().lower() in ("arm64", "aarch64") else 16
"""Numbers per vector. If registers hold only half as many, LLVM uses two registers per vector."""
AHEAD = 8192
"""Prefetch distance in bytes, from the weights in use to the prefetched weights; at least four rows of weights."""
LINE = 64
INT64, INT32, INT8, FLOAT = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.FloatType()
VECTOR = ir.VectorType(FLOAT, WIDTH)
ANY_ORDER = ("reassoc", "contract", "nsz")


@intrinsic
def fetch(context: Any, address: Any) -> Any:
    """Prefetch a line of memory into the processor's cache. An invalid address does no harm."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _fetch(builder, arguments[0])
        return context.get_dummy_value()

    return types.none(types.int64), generate


@intrinsic
def tile(context: Any, weight_MK: Any, m: Any, x: Any, vectors: Any, ahead: Any, apart: Any, twice: Any) -> Any:
    """Dot products of four rows of x with weight rows m to m + 3 over `vectors` vectors: 16 numbers, ordered by output.

    The weights (M, K) are float32 or int8. `x` is the address of one group of `products._packed`. Four rows of weights
    are prefetched, from the addresses ahead, ahead + apart, ahead + twice and ahead + twice + apart.
    """
    kind, size = (FLOAT, 4) if weight_MK.dtype == types.float32 else (INT8, 1)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, m, x, vectors, ahead, apart, twice = arguments
        weights = context.make_array(weight_MK)(context, builder, array)
        row = cgutils.unpack_tuple(builder, weights.strides)[0]
        first = builder.add(builder.ptrtoint(weights.data, INT64), builder.mul(m, row))
        rows = [builder.add(first, builder.mul(row, INT64(i))) for i in range(SIDE)]
        both = builder.add(ahead, twice)
        fetched = [ahead, builder.add(ahead, apart), both, builder.add(both, apart)]
        sums = [cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [0.0] * WIDTH)) for _ in range(SIDE * SIDE)]
        with cgutils.for_range(builder, vectors) as loop:
            at = builder.mul(loop.index, INT64(WIDTH * size))
            for address in fetched:
                _fetch(builder, builder.add(address, at))
            x_4 = _vectors(builder, x, loop.index)
            for i, address in enumerate(rows):
                w = _load(builder, builder.add(address, at), ir.VectorType(kind, WIDTH), size)
                w = w if kind is FLOAT else builder.sitofp(w, VECTOR)
                for r in range(SIDE):
                    product, total = builder.fmul(w, x_4[r], ANY_ORDER), sums[SIDE * i + r]
                    builder.store(builder.fadd(builder.load(total), product, ANY_ORDER), total)
        return context.make_tuple(builder, signature.return_type, [_sum(builder, builder.load(s)) for s in sums])

    return types.UniTuple(types.float32, SIDE * SIDE)(weight_MK, *[types.int64] * 6), generate


def _vectors(builder: Any, x: Any, index: Any) -> list[Any]:
    at = builder.add(x, builder.mul(index, INT64(4 * SIDE * WIDTH)))
    return [_load(builder, builder.add(at, INT64(4 * WIDTH * r)), VECTOR, 4) for r in range(SIDE)]


def _load(builder: Any, address: Any, vector: ir.VectorType, align: int) -> Any:
    return builder.load(builder.inttoptr(address, vector.as_pointer()), align=align)


def _fetch(builder: Any, address: Any) -> None:
    pointer = INT8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    builder.call(function, [builder.inttoptr(address, pointer), INT32(0), INT32(3), INT32(1)])


def _sum(builder: Any, vector: Any) -> Any:
    """The sum of the numbers of a vector: its two halves are added until one number is left."""
    while (width := vector.type.count) > 1:
        mask = ir.VectorType(INT32, width // 2)
        halves = [ir.Constant(mask, [INT32(s + i) for i in range(width // 2)]) for s in (0, width // 2)]
        low, high = (builder.shuffle_vector(vector, vector, half) for half in halves)
        vector = builder.fadd(low, high, ANY_ORDER)
    return builder.extract_element(vector, INT32(0))
