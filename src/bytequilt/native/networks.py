"""One step of each network, compiled: entropy model, encoder, latent transformer with its patches, decoder.

Each function advances the cache rows `rows_n` by one position and changes the caches like the PyTorch step. `opens_n`
is True where a document starts. If a row number is repeated, the row advances by that many positions, in order.
"""

from collections import namedtuple

import numpy as np

from .compiled import kernel
from .layers import begin, block, exp, norm, project, read
from .products import add_product, add_row, f32, product

Cross = namedtuple("Cross", "weights_L52 heads kv_heads residual eps")
"""`weights_L52` has five weights per cross-attention layer: query norm, key norm, query, keys and values, out."""
Ends = namedtuple("Ends", "weights_32 eps")
"""`weights_32`: the weights of the embedding, the final norm and the output head."""
Hash = namedtuple("Hash", "weight_2 powers_KT rows")


@kernel
def logits_of(x_RD, ends):
    """Final norm and output head: states (R, D) -> logits (R, V)."""
    logits_RV, normed_RD = np.empty((len(x_RD), 260), f32), np.empty_like(x_RD)
    norm(normed_RD, x_RD, ends.weights_32[1], ends.eps)
    product(logits_RV, normed_RD, ends.weights_32[2])
    return logits_RV


@kernel
def entropies(ids_n, rows_n, opens_n, ends, stack, ring):
    """Entropies in nats (n,) of the byte after each id."""
    positions_n, since_n = begin(ring, rows_n, opens_n)
    x_nD = np.zeros((len(ids_n), stack.heads * ring.kv_LRGCd.shape[4]), f32)
    for r in range(len(ids_n)):
        add_row(x_nD[r], ends.weights_32[0], ids_n[r])
    for layer in range(len(stack.weights_L62)):
        block(x_nD, layer, stack, ring, rows_n, positions_n, since_n)
    logits_nV, nats_n = logits_of(x_nD, ends), np.empty(len(ids_n), f32)
    for r in range(len(ids_n)):
        nats_n[r] = _entropy(logits_nV[r])
    return nats_n


@kernel
def _entropy(logits_V):
    """Entropy in nats of softmax(logits): log Z minus the mean logit, with the largest logit subtracted from all."""
    largest, total, weighed = logits_V.max(), f32(0), f32(0)
    for i in range(len(logits_V)):
        power = exp(logits_V[i] - largest)
        total += power
        weighed += power * (logits_V[i] - largest)
    return np.log(total) - weighed / total


@kernel
def encoder_step(ids_n, rows_n, opens_n, ends, hashed, stack, ring, recent_RK, states_SRLd):
    """Byte states (n, d) of the next ids. The cache keeps the states of the layers that patches attend to."""
    positions_n, since_n = begin(ring, rows_n, opens_n)
    x_nd, layers = np.zeros((len(ids_n), states_SRLd.shape[3]), f32), len(stack.weights_L62)
    for r in range(len(ids_n)):
        add_row(x_nd[r], ends.weights_32[0], ids_n[r])
        if hashed.rows:
            _add_ngrams(x_nd[r], hashed, recent_RK[rows_n[r]], ids_n[r], since_n[r])
    for layer in range(layers):
        block(x_nd, layer, stack, ring, rows_n, positions_n, since_n)
        reading = layer - layers + len(states_SRLd)
        if reading >= 0:
            for r in range(len(ids_n)):
                states_SRLd[reading, rows_n[r], positions_n[r] % states_SRLd.shape[2]] = x_nd[r]
    return x_nd


@kernel
def _add_ngrams(x_d, hashed, recent_K, id, since):
    """Add the hash embeddings of all n-grams that end with this id to x (d,), and append the id to `recent_K`."""
    reach, kept = len(hashed.powers_KT) - 1, len(recent_K)
    for table in range(hashed.powers_KT.shape[1]):
        polynomial = id * hashed.powers_KT[reach, table]
        for back in range(1, min(reach, since) + 1):
            polynomial += recent_K[kept - back] * hashed.powers_KT[reach - back, table]
        add_row(x_d, hashed.weight_2, table * hashed.rows + polynomial % hashed.rows)
    for k in range(kept - 1):
        recent_K[k] = recent_K[k + 1]
    recent_K[kept - 1] = id


@kernel
def patch_step(rows_n, opens_n, lengths_n, ends_n, states_SRLd, writes, reads, joins_32, slots, stack, ring):
    """Latents (n, D) of one patch of each row, and the decoder's inputs from them (n, X).

    A patch consists of the `lengths_n` byte states before position `ends_n`. `joins_32` are three projections: of the
    pooled bytes, to the latent transformer, and from it.
    """
    width, local = stack.heads * ring.kv_LRGCd.shape[4], states_SRLd.shape[3]
    slots_nX = project(_pooled(rows_n, lengths_n, ends_n, states_SRLd[0]), joins_32[0], slots * local)
    for layer in range(len(writes.weights_L52)):
        bytes_Sd = _gathered(rows_n, lengths_n, ends_n, states_SRLd[layer])
        _patches_read(slots_nX.reshape(-1, local), bytes_Sd, lengths_n, writes, layer)
    x_nD = project(slots_nX, joins_32[1], width)
    positions_n, since_n = begin(ring, rows_n, opens_n)
    for layer in range(len(stack.weights_L62)):
        block(x_nD, layer, stack, ring, rows_n, positions_n, since_n)
    return x_nD, read_of(x_nD, reads, joins_32[2], slots, local)


@kernel
def _pooled(rows_n, lengths_n, ends_n, states_RLd):
    """Max pooling: the largest byte state of each patch in each channel, (n, d)."""
    pooled_nd, room = np.full((len(rows_n), states_RLd.shape[2]), f32(-np.inf), f32), states_RLd.shape[1]
    for r in range(len(rows_n)):
        for position in range(ends_n[r] - lengths_n[r], ends_n[r]):
            for i in range(pooled_nd.shape[1]):
                state = states_RLd[rows_n[r], position % room, i]
                pooled_nd[r, i] = state if state > pooled_nd[r, i] or state != state else pooled_nd[r, i]
    return pooled_nd


@kernel
def _gathered(rows_n, lengths_n, ends_n, states_RLd):
    """The byte states of all patches in one array (S, d), patch after patch."""
    bytes_Sd, at, room = np.empty((lengths_n.sum(), states_RLd.shape[2]), f32), 0, states_RLd.shape[1]
    for r in range(len(rows_n)):
        for position in range(ends_n[r] - lengths_n[r], ends_n[r]):
            bytes_Sd[at] = states_RLd[rows_n[r], position % room]
            at += 1
    return bytes_Sd


@kernel
def _queries(x_Rd, cross, weights_52):
    normed_Rd, q_Rd = np.empty_like(x_Rd), np.empty_like(x_Rd)
    norm(normed_Rd, x_Rd, weights_52[0], cross.eps)
    product(q_Rd, normed_Rd, weights_52[2])
    q_Rd *= f32(1 / np.sqrt(x_Rd.shape[1] // cross.heads))
    return q_Rd


@kernel
def _keys_values(x_Rd, cross, weights_52):
    """The G key heads, then the G value heads, of x: (R, 2 * G * head_dim)."""
    width = x_Rd.shape[1] // cross.heads
    normed_Rd, kv_RX = np.empty_like(x_Rd), np.empty((len(x_Rd), 2 * cross.kv_heads * width), f32)
    norm(normed_Rd, x_Rd, weights_52[1], cross.eps)
    product(kv_RX, normed_Rd, weights_52[3])
    return kv_RX


@kernel
def _patches_read(slots_Xd, bytes_Sd, lengths_n, cross, layer):
    """Cross-attention of the slots of each patch to its bytes; the slots are changed in place."""
    weights_52, out_Xd = cross.weights_L52[layer], np.empty_like(slots_Xd)
    q_Xd, kv_SX = _queries(slots_Xd, cross, weights_52), _keys_values(bytes_Sd, cross, weights_52)
    width, slots, begin = slots_Xd.shape[1] // cross.heads, len(slots_Xd) // len(lengths_n), 0
    values, scores_S = cross.kv_heads * width, np.empty(len(bytes_Sd), f32)
    for x in range(len(slots_Xd)):
        length = lengths_n[x // slots]
        kv_LX = kv_SX[begin : begin + length]
        for head in range(cross.heads):
            at, key = head * width, head // (cross.heads // cross.kv_heads) * width
            out_d, q_d = out_Xd[x, at : at + width], q_Xd[x, at : at + width]
            read(out_d, q_d, kv_LX, key, kv_LX, values + key, 0, scores_S[:length])
        if x % slots == slots - 1:
            begin += length
    add_product(slots_Xd, out_Xd, weights_52[4], f32(cross.residual))


@kernel
def read_of(x_nD, cross, weight_2, slots, local):
    """The decoder's inputs from latents (n, D): keys and values of its cross-attention for every head (n, layers * k *
    2 * d); without cross-attention the sum of the k slots (n, d)."""
    slots_nX, layers = project(x_nD, weight_2, slots * local), len(cross.weights_L52)
    if not layers:
        return slots_nX.reshape(len(x_nD), slots, local).sum(1)
    read_nLkX, width = np.empty((len(x_nD), layers, slots, 2 * local), f32), local // cross.heads
    for layer in range(layers):
        kv_XX = _keys_values(slots_nX.reshape(-1, local), cross, cross.weights_L52[layer])
        for x in range(len(kv_XX)):
            for head in range(2 * cross.heads):  # key heads, then value heads
                shared = head // (cross.heads // cross.kv_heads) * width
                for i in range(width):
                    read_nLkX[x // slots, layer, x % slots, head * width + i] = kv_XX[x, shared + i]
    return read_nLkX.reshape(len(x_nD), -1)


@kernel
def decoder_step(x_nd, rows_n, opens_n, patch_nX, slots, cross, ends, stack, ring):
    """Logits (n, V) from byte states x (n, d) and the inputs `patch_nX` from patches (`read_of`); x is overwritten."""
    positions_n, since_n = begin(ring, rows_n, opens_n)
    if not len(cross.weights_L52):
        for r in range(len(rows_n)):
            x_nd[r] += patch_nX[r]
    for layer in range(len(stack.weights_L62)):
        if layer < len(cross.weights_L52):
            _bytes_read(x_nd, patch_nX, slots, cross, layer)
        block(x_nd, layer, stack, ring, rows_n, positions_n, since_n)
    return logits_of(x_nd, ends)


@kernel
def _bytes_read(x_nd, patch_nX, slots, cross, layer):
    """Cross-attention of each byte to the slots of its patch; x (n, d) is changed in place."""
    weights_52, out_nd, width = cross.weights_L52[layer], np.empty_like(x_nd), x_nd.shape[1] // cross.heads
    q_nd, scores_k = _queries(x_nd, cross, weights_52), np.empty(slots, f32)
    for r in range(len(x_nd)):
        kv_kX = patch_nX[r].reshape(-1, 2 * x_nd.shape[1])[layer * slots : (layer + 1) * slots]
        for head in range(cross.heads):
            at, values = head * width, x_nd.shape[1] + head * width
            read(out_nd[r, at : at + width], q_nd[r, at : at + width], kv_kX, at, kv_kX, values, 0, scores_k)
    add_product(x_nd, out_nd, weights_52[4], f32(cross.residual))
