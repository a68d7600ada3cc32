"""Matrix products of weights with a few rows. Each weight is read from memory once for all rows.

A weight is passed as two numbers: the address of its values and the address of its scales. int8 weights have one scale
per row. `PLAIN` in place of the second address means fp32, `BRAIN` bf16 (look-up tables only). So one compiled function
serves networks of any depth and type.
"""

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from .compiled import kernel
from .tiles import AHEAD, SIDE, WIDTH, tile

PLAIN, BRAIN = 0, 1
f32 = np.float32


@intrinsic
def floats(context, address):
    """A pointer to float32 numbers at an address."""
    return types.CPointer(types.float32)(types.int64), _pointer


@intrinsic
def bytes_(context, address):
    """A pointer to int8 numbers at an address."""
    return types.CPointer(types.int8)(types.int64), _pointer


@intrinsic
def halves(context, address):
    """A pointer to uint16 numbers at an address."""
    return types.CPointer(types.uint16)(types.int64), _pointer


def _pointer(context, builder, signature, arguments):
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


@intrinsic
def float_of(context, bits):
    """The float32 number with these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@kernel
def product(out_RM, x_RK, weight):
    """out = x @ weight.T"""
    rows, outputs = out_RM.shape
    shape = (outputs, x_RK.shape[1])
    if weight[1] == PLAIN:
        _sums(out_RM, x_RK, carray(floats(weight[0]), shape))
        return
    _sums(out_RM, x_RK, carray(bytes_(weight[0]), shape))
    scales_M = carray(floats(weight[1]), outputs)
    for r in range(rows):
        for m in range(outputs):
            out_RM[r, m] *= scales_M[m]


@kernel
def add_product(x_RM, y_RK, weight, times):
    """x = times * x + y @ weight.T"""
    out_RM = np.empty_like(x_RM)
    product(out_RM, y_RK, weight)
    for r in range(len(x_RM)):
        for m in range(x_RM.shape[1]):
            x_RM[r, m] = times * x_RM[r, m] + out_RM[r, m]


@kernel
def _sums(out_RM, x_RK, weight_MK):
    """x @ weight.T without scales: one row by itself, more in tiles of four rows by four outputs, zeros at the end."""
    rows, outputs = out_RM.shape
    wide = outputs - outputs % SIDE if rows > 1 else 0
    if wide:
        _in_tiles(out_RM, x_RK, weight_MK, wide, _packed(x_RK))
    for r in range(rows):
        for m in range(wide, outputs):
            out_RM[r, m] = _dot(x_RK, r, weight_MK, m, 0)


@kernel
def _packed(x_RK):
    """Rearrange x in groups of four rows, (T, K / WIDTH, 4 * WIDTH): for each vector index, the vectors of the four
    rows lie side by side. The array is aligned for vector instructions."""
    rows, vectors = x_RK.shape[0], x_RK.shape[1] // WIDTH
    tiles, line = (rows + SIDE - 1) // SIDE, SIDE * WIDTH
    room = np.empty((tiles * vectors + 1) * line, f32)
    begin = -(room.ctypes.data // 4) % WIDTH
    x_TVX = room[begin : begin + tiles * vectors * line].reshape(tiles, vectors, line)
    for r in range(tiles * SIDE):
        for v in range(vectors):
            for i in range(WIDTH):
                x = x_RK[r, v * WIDTH + i] if r < rows else f32(0)
                x_TVX[r // SIDE, v, r % SIDE * WIDTH + i] = x
    return x_TVX


@kernel
def _in_tiles(out_RM, x_RK, weight_MK, wide, x_TVX):
    """Compute the outputs below `wide` in tiles, which read the same weights: each prefetches a share of the next."""
    rows, (tiles, vectors, line), whole = len(x_RK), x_TVX.shape, x_TVX.shape[1] * WIDTH
    row = weight_MK.itemsize * weight_MK.shape[1]
    share, ahead = max(1, SIDE // tiles), SIDE * row * max(1, AHEAD // (SIDE * row))
    apart, twice = row if share > 1 else 0, 2 * row if share == SIDE else 0
    for m in range(0, wide, SIDE):
        for t in range(tiles):
            fetched = weight_MK.ctypes.data + (m + t * share % SIDE) * row + ahead
            sums = tile(weight_MK, m, x_TVX.ctypes.data + 4 * t * vectors * line, vectors, fetched, apart, twice)
            for r in range(SIDE * t, min(SIDE * t + SIDE, rows)):
                for i in range(SIDE):
                    out_RM[r, m + i] = sums[SIDE * i + r % SIDE]
    if whole < x_RK.shape[1]:
        for r in range(rows):
            for m in range(wide):
                out_RM[r, m] += _dot(x_RK, r, weight_MK, m, whole)


@kernel
def _dot(x_RK, r, weight_MK, m, begin):
    total = f32(0)
    for k in range(begin, x_RK.shape[1]):
        total += f32(weight_MK[m, k]) * x_RK[r, k]
    return total


@kernel
def add_row(out_D, weight, row):
    """Add row number `row` of a look-up table to out (D,)."""
    width = len(out_D)
    if weight[1] == PLAIN:
        numbers = carray(floats(weight[0] + 4 * row * width), width)
        for i in range(width):
            out_D[i] += numbers[i]
    elif weight[1] == BRAIN:
        tops = carray(halves(weight[0] + 2 * row * width), width)
        for i in range(width):
            out_D[i] += float_of(np.int32(np.uint32(tops[i]) << np.uint32(16)))
    else:
        scale = carray(floats(weight[1]), row + 1)[row]
        whole = carray(bytes_(weight[0] + row * width), width)
        for i in range(width):
            out_D[i] += scale * f32(whole[i])
