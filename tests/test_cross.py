import pytest
import torch
from conftest import blt_config

from bytequilt.model.cross import ByteReadsPatch, PatchReadsBytes
from bytequilt.model.segments import Patches, flat

CLOSES = torch.tensor([[1, 0, 0, 1, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0]]).bool()
PATCHES = Patches.from_closes(torch.full((3, 8), 70), CLOSES, 6)  # every row has empty patches
CONFIG = blt_config()
DIM, SLOTS, HEADS = CONFIG.encoder.dim, CONFIG.slots, CONFIG.cross_heads


def states():
    torch.manual_seed(1)
    return torch.randn(3, 6, SLOTS, DIM, requires_grad=True), torch.randn(3, 8, DIM, requires_grad=True)


def dense(cross, readers_BQd, read_BMd, sees_BQM):
    """Masked softmax attention with a [B, Q, M] mask; a reader that sees nothing reads zeros."""
    q = cross.query(cross.query_norm(readers_BQd)).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    k, v = cross.key_value(cross.key_norm(read_BMd)).chunk(2, -1)
    k, v = (x.unflatten(-1, (cross.kv_heads, -1)).transpose(1, 2) for x in (k, v))
    k, v = (x[:, [head * cross.kv_heads // HEADS for head in range(HEADS)]] for x in (k, v))
    scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~sees_BQM[:, None], -1e30).softmax(-1) * sees_BQM[:, None]
    return cross.residual * readers_BQd + cross.out((weights @ v).transpose(1, 2).flatten(2))


def assert_same(fast, slow, cross, inputs):
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(fast)
    both = [torch.autograd.grad((out * weight).sum(), [*inputs, *cross.parameters()]) for out in (fast, slow)]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


SHARED = pytest.mark.parametrize("kv_heads", [None, 1, (2, 2)])


@SHARED
def test_a_patch_reads_its_own_bytes(kv_heads):
    cross, (slots, x_BNd) = PatchReadsBytes(blt_config(cross_kv_heads=kv_heads)), states()
    own_BPN = PATCHES.of_byte_BN[:, None] == torch.arange(6)[:, None]
    assert not own_BPN.any(2).all()
    slow = dense(cross, slots.flatten(1, 2), x_BNd, own_BPN.repeat_interleave(SLOTS, 1))
    assert_same(cross(slots, x_BNd, PATCHES), slow.view_as(slots), cross, (slots, x_BNd))


@SHARED
def test_a_byte_reads_the_slots_of_one_patch(kv_heads):
    cross, (slots, x_BNd) = ByteReadsPatch(blt_config(cross_kv_heads=kv_heads)), states()
    reads_BNP = PATCHES.read_BN[..., None] == torch.arange(6)
    slow = dense(cross, x_BNd, slots.flatten(1, 2), reads_BNP.repeat_interleave(SLOTS, 2))
    assert_same(cross(x_BNd, cross.keys_values(slots), flat(PATCHES.read_BN, 6)), slow, cross, (slots, x_BNd))


def test_encoder_and_decoder_may_differ_in_heads():
    config = blt_config(cross_heads=(4, 8), cross_kv_heads=(1, 2))
    encoder, decoder = PatchReadsBytes(config), ByteReadsPatch(config)
    assert (encoder.heads, encoder.kv_heads, decoder.heads, decoder.kv_heads) == (4, 1, 8, 2)
    with pytest.raises(ValueError, match="cross_heads 4 must be a multiple of cross_kv_heads 3"):
        blt_config(cross_kv_heads=3)


def test_the_residual_is_that_of_the_configuration():
    for residual in (1.0, 2.0):
        cross, (slots, x_BNd) = ByteReadsPatch(blt_config(cross_residual=residual)), states()
        torch.nn.init.zeros_(cross.out.weight)
        torch.testing.assert_close(cross(x_BNd, cross.keys_values(slots), flat(PATCHES.read_BN, 6)), residual * x_BNd)
