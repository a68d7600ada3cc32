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
def product(out_RM, x_RK, weight, beta):
    """out = beta * out + x @ weight.T; where beta is 0, whatever was in `out` does not count."""
    shape = (out_RM.shape[1], x_RK.shape[1])
    if weight[1] == PLAIN:
        _product(out_RM, x_RK, carray(floats(weight[0]), shape), out_RM[0, :0], beta)
    else:
        scales_M = carray(floats(weight[1]), shape[0])
        _product(out_RM, x_RK, carray(bytes_(weight[0]), shape), scales_M, beta)


@kernel
def _product(out_RM, x_RK, weight_MK, scales_M, beta):
    """Four rows by four outputs at a time: so wide, the products wait for arithmetic and not for memory."""
    rows, outputs = out_RM.shape
    tiled = rows - rows % 4
    for m in range(0, outputs - outputs % 4, 4):
        for r in range(0, tiled, 4):
            _tile(out_RM[r : r + 4, m : m + 4], x_RK[r : r + 4], weight_MK[m : m + 4], scales_M[m : m + 4], beta)
        for i in range(m, m + 4):
            _output(out_RM[tiled:], x_RK[tiled:], weight_MK, scales_M, beta, i)
    for m in range(outputs - outputs % 4, outputs):
        _output(out_RM, x_RK, weight_MK, scales_M, beta, m)


@kernel
def _output(out_RM, x_RK, weight_MK, scales_M, beta, m):
    """One output of each row."""
    for r in range(len(x_RK)):
        total = f32(0)
        for k in range(x_RK.shape[1]):
            total += f32(weight_MK[m, k]) * x_RK[r, k]
        _put(out_RM, r, m, total, scales_M, m, beta)


@kernel
def _put(out_RM, r, m, total, scales_M, scale, beta):
    if len(scales_M):
        total *= scales_M[scale]
    if beta != 0:
        total += beta * out_RM[r, m]
    out_RM[r, m] = total


@kernel
def _tile(out_44, x_4K, weight_4K, scales_4, beta):
    """Sixteen sums that stay in registers."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = f32(0)
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = f32(0)
    for k in range(x_4K.shape[1]):
        a, b, c, d = f32(weight_4K[0, k]), f32(weight_4K[1, k]), f32(weight_4K[2, k]), f32(weight_4K[3, k])
        x0, x1, x2, x3 = x_4K[0, k], x_4K[1, k], x_4K[2, k], x_4K[3, k]
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
    sums = ((a0, b0, c0, d0), (a1, b1, c1, d1), (a2, b2, c2, d2), (a3, b3, c3, d3))
    for r in range(4):
        for m in range(4):
            _put(out_44, r, m, sums[r][m], scales_4, m, beta)


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
