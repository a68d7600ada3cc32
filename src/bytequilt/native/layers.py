"""Transformer blocks: RMS norm, rotary positions, softmax attention over a ring buffer of keys, SwiGLU."""

from collections import namedtuple

import numpy as np

from .compiled import kernel
from .products import add_product, carray, f32, float_of, floats, product
from .tiles import AHEAD, LINE, fetch

Stack = namedtuple("Stack", "weights_L62 heads kv_heads hidden window eps")
"""`weights_L62` has six weights per layer: attention norm, qkv, out, feed-forward norm, gate and up, down."""
Ring = namedtuple("Ring", "kv_LRGCd position_R opened_RE low_Td high_Td")
"""The tensors of a StackCache, and rotary factors: `low_Td` of positions 0 to T - 1, `high_Td` of multiples of T."""
LOG2E = f32(1.4426950408889634)
HALF, ONE = f32(0.5), f32(1)
C1, C2, C3 = f32(0.6931471806), f32(0.2402265070), f32(0.0555041087)
C4, C5, C6 = f32(0.0096181291), f32(0.0013333558), f32(0.0001540353)


@kernel
def exp(x):
    """e**x in fp32, accurate to 2e-7. It has no branch, so that loops over it become vector instructions."""
    power = min(max(x * LOG2E, f32(-126)), f32(126))
    whole = np.floor(power + HALF)
    part = power - whole
    fraction = ONE + part * (C1 + part * (C2 + part * (C3 + part * (C4 + part * (C5 + part * C6)))))
    return fraction * float_of((np.int32(whole) + np.int32(127)) << np.int32(23)) + (x - x)


@kernel
def norm(out_RD, x_RD, weight, eps):
    """RMS norm of each row of x (R, D), written to out (R, D)."""
    width = x_RD.shape[1]
    weight_D = carray(floats(weight[0]), width)
    for r in range(len(x_RD)):
        total = f32(0)
        for i in range(width):
            total += x_RD[r, i] * x_RD[r, i]
        scale = f32(1 / np.sqrt(total / width + eps))
        for i in range(width):
            out_RD[r, i] = x_RD[r, i] * scale * weight_D[i]


@kernel
def read(out_d, q_d, keys_CX, key, values_CX, value, first, scores_C):
    """Softmax attention of one query (d,) to `len(scores_C)` keys of a ring buffer, from position `first` on.

    The query is scaled already. A key starts at index `key` of its column, a value at index `value`. The visible
    columns are one run, or two if the ring wraps around.
    """
    count, begin = len(scores_C), first % len(keys_CX)
    run = min(count, len(keys_CX) - begin)
    _scores(scores_C, 0, q_d, keys_CX, key, begin, run)
    _scores(scores_C, run, q_d, keys_CX, key, 0, count - run)
    largest, total = f32(-np.inf), f32(0)
    for j in range(count):
        largest = max(largest, scores_C[j])
    for j in range(count):
        scores_C[j] = exp(scores_C[j] - largest)
        total += scores_C[j]
    out_d[:] = 0
    _add_values(out_d, scores_C, 0, values_CX, value, begin, run)
    _add_values(out_d, scores_C, run, values_CX, value, 0, count - run)
    for i in range(len(out_d)):
        out_d[i] /= total


@kernel
def _scores(scores_C, at, q_d, keys_CX, key, begin, run):
    """Dot products of the query with `run` keys, four keys at a time. They are stored from `scores_C[at]` on."""
    fours = run - run % 4
    for j in range(0, fours, 4):
        _fetch_four(keys_CX, begin + j, key, len(q_d))
        a = b = c = d = f32(0)
        for i in range(len(q_d)):
            a += q_d[i] * keys_CX[begin + j, key + i]
            b += q_d[i] * keys_CX[begin + j + 1, key + i]
            c += q_d[i] * keys_CX[begin + j + 2, key + i]
            d += q_d[i] * keys_CX[begin + j + 3, key + i]
        scores_C[at + j], scores_C[at + j + 1], scores_C[at + j + 2], scores_C[at + j + 3] = a, b, c, d
    for j in range(fours, run):
        a = f32(0)
        for i in range(len(q_d)):
            a += q_d[i] * keys_CX[begin + j, key + i]
        scores_C[at + j] = a


@kernel
def _fetch_four(keys_CX, j, key, width):
    """Prefetch four keys or values, AHEAD / 2 bytes after number j."""
    row = 4 * keys_CX.shape[1]
    first = keys_CX.ctypes.data + j * row + 4 * key + AHEAD // 2
    for address in range(first, first + 4 * row, row):
        for line in range(address, address + 4 * width, LINE):
            fetch(line)


@kernel
def _add_values(out_d, scores_C, at, values_CX, value, begin, run):
    """Add `run` values to out (d,), weighted by `scores_C[at:]`, four values at a time."""
    fours = run - run % 4
    for j in range(0, fours, 4):
        _fetch_four(values_CX, begin + j, value, len(out_d))
        a, b, c, d = scores_C[at + j], scores_C[at + j + 1], scores_C[at + j + 2], scores_C[at + j + 3]
        for i in range(len(out_d)):
            total = a * values_CX[begin + j, value + i] + b * values_CX[begin + j + 1, value + i]
            out_d[i] += total + c * values_CX[begin + j + 2, value + i] + d * values_CX[begin + j + 3, value + i]
    for j in range(fours, run):
        for i in range(len(out_d)):
            out_d[i] += scores_C[at + j] * values_CX[begin + j, value + i]


@kernel
def begin(ring, rows_R, opens_R):
    """Start the next position of each row. Returns the positions (R,), and the numbers of positions (R,) since the
    attention contexts of the rows started."""
    positions_R, since_R = np.empty(len(rows_R), np.int64), np.empty(len(rows_R), np.int64)
    entries = ring.opened_RE.shape[1]
    for r in range(len(rows_R)):
        row = rows_R[r]
        position = ring.position_R[row]
        opened = position if opens_R[r] else ring.opened_RE[row, (position - 1) % entries]
        ring.opened_RE[row, position % entries] = opened
        ring.position_R[row] = position + 1
        positions_R[r], since_R[r] = position, position - opened
    return positions_R, since_R


@kernel
def _turn(x_d, position, ring):
    """Rotate x (d,) by the factors of a position, in place. A position beyond the table combines two factors."""
    table = len(ring.low_Td)
    for i in range(0, len(x_d), 2):
        cos, sin = ring.low_Td[position % table, i], ring.low_Td[position % table, i + 1]
        if position >= table:
            c, s = ring.high_Td[position // table, i], ring.high_Td[position // table, i + 1]
            cos, sin = cos * c - sin * s, cos * s + sin * c
        a, b = x_d[i], x_d[i + 1]
        x_d[i], x_d[i + 1] = a * cos - b * sin, a * sin + b * cos


@kernel
def _attend(out_RD, qkv_RX, layer, stack, ring, rows_R, positions_R, since_R):
    """Store keys and values of the new positions, and attend to the visible keys: out (R, heads * width)."""
    heads, groups, width = stack.heads, stack.kv_heads, ring.kv_LRGCd.shape[4]
    scores_C, scale = np.empty(ring.kv_LRGCd.shape[3], f32), f32(1 / np.sqrt(width))
    for r in range(len(rows_R)):
        kv_GCd, qkv_Hd = ring.kv_LRGCd[layer, rows_R[r]], qkv_RX[r].reshape(heads + 2 * groups, width)
        for head in range(heads + groups):
            _turn(qkv_Hd[head], positions_R[r], ring)
        for head in range(2 * groups):
            kv_GCd[head, positions_R[r] % len(scores_C)] = qkv_Hd[heads + head]
        seen = min(since_R[r] + 1, stack.window)
        for head in range(heads):
            group, q_d = head // (heads // groups), qkv_Hd[head]
            q_d *= scale
            out_d = out_RD[r, head * width : (head + 1) * width]
            read(out_d, q_d, kv_GCd[group], 0, kv_GCd[groups + group], 0, positions_R[r] + 1 - seen, scores_C[:seen])


@kernel
def block(x_RD, layer, stack, ring, rows_R, positions_R, since_R):
    """One transformer block for one position of each row; x (R, D) is changed in place."""
    weights_62, hidden, (rows, width) = stack.weights_L62[layer], stack.hidden, x_RD.shape
    normed_RD, out_RD = np.empty_like(x_RD), np.empty_like(x_RD)
    qkv_RX = np.empty((rows, (stack.heads + 2 * stack.kv_heads) * (width // stack.heads)), f32)
    norm(normed_RD, x_RD, weights_62[0], stack.eps)
    product(qkv_RX, normed_RD, weights_62[1])
    _attend(out_RD, qkv_RX, layer, stack, ring, rows_R, positions_R, since_R)
    add_product(x_RD, out_RD, weights_62[2], ONE)
    norm(normed_RD, x_RD, weights_62[3], stack.eps)
    both_RX, hidden_RX = np.empty((rows, 2 * hidden), f32), np.empty((rows, hidden), f32)
    product(both_RX, normed_RD, weights_62[4])
    for r in range(rows):
        for i in range(hidden):
            gate = both_RX[r, i]
            hidden_RX[r, i] = gate * both_RX[r, hidden + i] / (ONE + exp(-gate))
    add_product(x_RD, hidden_RX, weights_62[5], ONE)


@kernel
def project(x_RK, weight, width):
    """x @ weight.T as a new array (R, width); a copy of x if the weight is absent (its address is 0)."""
    out_RM = np.empty((len(x_RK), width), f32)
    if weight[0] == 0:
        out_RM[:] = x_RK
    else:
        product(out_RM, x_RK, weight)
    return out_RM
