"""Weights by address, and their products with a few rows: each weight is read once for all rows.

A weight is two numbers, its address and that of its scales: fp32 where there are none (`PLAIN`), bf16 where they are
`BRAIN`, and otherwise int8 with a scale for each row. So one compiled function serves networks of any depth and type.
"""

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from .compiled import kernel

PLAIN, BRAIN = 0, 1
f32 = np.float32


@intrinsic
def floats(context, address):
    """float32 numbers at an address."""
    return types.CPointer(types.float32)(types.int64), _pointer


@intrinsic
def bytes_(context, address):
    """int8 numbers at an address."""
    return types.CPointer(types.int8)(types.int64), _pointer


@intrinsic
def halves(context, address):
    """uint16 numbers at an address."""
    return types.CPointer(types.uint16)(types.int64), _pointer


def _pointer(context, builder, signature, arguments):
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


@intrinsic
def float_of(context, bits):
    """The float32 of these bits."""

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
    """Four rows by four outputs at a time: so wide, the products wait for arithmetic and not for memory.

    Where two or three rows are left over, the last of them counts several times.
    """
    rows, outputs = out_RM.shape
    tiled, wide, last = rows - rows % 4 if rows % 4 == 1 else rows, outputs - outputs % 4, rows - 1
    for m in range(0, wide, 4):
        for r in range(0, tiled, 4):
            _tile(out_RM, x_RK, weight_MK, m, r, min(r + 1, last), min(r + 2, last), min(r + 3, last))
        for i in range(m, m + 4):
            for r in range(tiled, rows):
                out_RM[r, i] = _dot(x_RK, r, weight_MK, i)
    for m in range(wide, outputs):
        for r in range(rows):
            out_RM[r, m] = _dot(x_RK, r, weight_MK, m)


@kernel
def _dot(x_RK, r, weight_MK, m):
    total = f32(0)
    for k in range(x_RK.shape[1]):
        total += f32(weight_MK[m, k]) * x_RK[r, k]
    return total


@kernel
def _tile(out_RM, x_RK, weight_MK, m, r0, r1, r2, r3):
    """Sixteen sums that stay in registers."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = f32(0)
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = f32(0)
    for k in range(x_RK.shape[1]):
        a, b = f32(weight_MK[m, k]), f32(weight_MK[m + 1, k])
        c, d = f32(weight_MK[m + 2, k]), f32(weight_MK[m + 3, k])
        x0, x1, x2, x3 = x_RK[r0, k], x_RK[r1, k], x_RK[r2, k], x_RK[r3, k]
        a0 += a * x0
        a1 += a * x1
        a2 += a * x2
        a3 += a * x3
        b0 += b * x0
        b1 += b * x1
        b2 += b * x2
        b3 += b * x3
        c0 += c * x0
        c1 += c * x1
        c2 += c * x2
        c3 += c * x3
        d0 += d * x0
        d1 += d * x1
        d2 += d * x2
        d3 += d * x3
    out_RM[r0, m], out_RM[r0, m + 1], out_RM[r0, m + 2], out_RM[r0, m + 3] = a0, b0, c0, d0
    out_RM[r1, m], out_RM[r1, m + 1], out_RM[r1, m + 2], out_RM[r1, m + 3] = a1, b1, c1, d1
    out_RM[r2, m], out_RM[r2, m + 1], out_RM[r2, m + 2], out_RM[r2, m + 3] = a2, b2, c2, d2
    out_RM[r3, m], out_RM[r3, m + 1], out_RM[r3, m + 2], out_RM[r3, m + 3] = a3, b3, c3, d3


@kernel
def add_row(out_D, weight, row):
    """Add a row of a table."""
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
