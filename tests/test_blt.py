import pytest
import torch
from conftest import CROSS, RULES, blt, blt_config, ids_of, noise, patcher
from torch import nn

from bytequilt.codec import BOS
from bytequilt.config import BLTConfig, EntropyConfig, HashConfig, StackConfig
from bytequilt.model.blt import BLT
from bytequilt.model.entropy import EntropyModel
from bytequilt.patching import rules


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def released(local, latent, layers, heads, slots, cross_heads):
    """Shape of a released model: local width and its heads, latent width, layers of latent and decoder."""
    stack = {"dim": local, "heads": cross_heads, "window": 512, "rope_theta": 500_000.0}
    return BLTConfig(
        encoder=StackConfig(layers=1, **stack),
        latent=StackConfig(dim=latent, layers=layers[0], heads=heads, rope_theta=500_000.0),
        decoder=StackConfig(layers=layers[1], **stack),
        slots=slots,
        cross_heads=cross_heads,
    )


RELEASED = {  # millions of parameters: encoder, latent, decoder, hash tables, total
    "1B": (released(1024, 2048, (25, 9), 16, 2, 16), [19.41, 1284.61, 157.85, 3072.01, 4533.88]),
    "8B": (released(1280, 4096, (32, 6), 32, 4, 20), [33.76, 6497.24, 182.55, 3840.02, 10553.57]),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_shapes_have_the_released_number_of_parameters(name):
    config, wanted = RELEASED[name]
    with torch.device("meta"):
        model = BLT(config)
    table = parameters(model.encoder.hash)
    parts = [
        parameters(model.encoder) - table,
        parameters(model.latent),
        parameters(model.decoder),
        table,
        parameters(model),
    ]
    assert [round(part / 1e6, 2) for part in parts] == wanted


def test_entropy_model_has_the_released_number_of_parameters():
    with torch.device("meta"):
        model = EntropyModel(EntropyConfig(dim=768, layers=14, heads=12))
    assert parameters(model) == 99_512_064


def logits(model, patch, ids_BN, count=None):
    nats = patch.entropy(ids_BN) if patch.rule.needs_entropy else None
    patches = rules.patches(patch.rule, ids_BN, nats, count)
    with torch.no_grad():
        return model(ids_BN, patches), patches


ROW = ids_of(noise(5, 1), noise(3, 2), noise(14, 3))  # three documents, the last longer than a window


@pytest.mark.parametrize("kind", RULES)
def test_a_later_byte_moves_no_earlier_logit(kind):
    model, patch, length = blt(), patcher(kind), ROW.shape[1]
    before, patches = logits(model, patch, ROW, length)
    for place in range(1, length):
        for id in (BOS, int(ROW[0, place]) % 256 + 4):
            changed = ROW.clone()
            changed[0, place] = id
            after, moved = logits(model, patch, changed, length)
            assert torch.equal(after[:, :place], before[:, :place]), place
            assert torch.equal(moved.closes_BN[:, :place], patches.closes_BN[:, :place]), place
            assert id == ROW[0, place] or not torch.equal(after[:, place], before[:, place])


VARIANTS = [{"encoder_cross": e, "decoder_cross": d} for e, d in CROSS]
VARIANTS += [
    {"hash": HashConfig(sizes=())},
    {"cross_residual": 1.0},
    {"cross_heads": (4, 8), "cross_kv_heads": (1, 2)},
    {"slots": 1, "latent": StackConfig(dim=32, layers=1, heads=2, ffn_dim=40)},
    {"latent": StackConfig(dim=64, layers=1, heads=2, ffn_dim=40, window=3)},
]


@pytest.mark.parametrize("change", VARIANTS, ids=lambda c: "-".join(map(str, c.values()))[:40])
def test_no_variant_reads_ahead(change):
    model, patch = blt(**change), patcher("entropy")
    before, _ = logits(model, patch, ROW, ROW.shape[1])
    for place in (2, 7, 13, 20, 26):
        changed = ROW.clone()
        changed[0, place] = 99 if ROW[0, place] != 99 else 98
        after, _ = logits(model, patch, changed, ROW.shape[1])
        assert torch.equal(after[:, :place], before[:, :place])


@pytest.mark.parametrize("change", VARIANTS, ids=lambda c: "-".join(map(str, c.values()))[:40])
@pytest.mark.parametrize("kind", ["combined", "space"])
def test_packed_documents_are_the_same_alone(change, kind):
    model, patch = blt(**change), patcher(kind)
    documents = [noise(30, 1), noise(1, 2), b"", noise(50, 3)]
    together, _ = logits(model, patch, ids_of(*documents))
    alone = torch.cat([logits(model, patch, ids_of(d))[0] for d in documents], 1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", RULES)
def test_a_row_in_a_batch_is_the_same_alone_and_padding_changes_nothing(kind):
    model, patch = blt(), patcher(kind)
    rows = [ids_of(noise(length, length)) for length in (40, 3, 20)]
    batch = torch.zeros(3, 50, dtype=torch.long)
    for row, ids_1N in enumerate(rows):
        batch[row, : ids_1N.shape[1]] = ids_1N
    together, _ = logits(model, patch, batch)
    for row, ids_1N in enumerate(rows):
        alone, _ = logits(model, patch, ids_1N)
        torch.testing.assert_close(together[row : row + 1, : ids_1N.shape[1]], alone, atol=1e-5, rtol=1e-5)


def test_room_for_more_patches_changes_nothing():
    model, patch = blt(), patcher("space")
    tight, roomy = (logits(model, patch, ROW, count)[0] for count in (None, 99))
    torch.testing.assert_close(tight, roomy, atol=1e-6, rtol=1e-6)


def test_logits_are_one_row_of_260_an_id_in_fp32():
    model = blt().bfloat16()
    assert logits(model, patcher("byte"), ROW)[0].shape == (1, ROW.shape[1], 260)
    assert logits(model, patcher("byte"), ROW)[0].dtype == torch.float32


def test_every_parameter_learns():
    model, patch = blt(encoder_cross="all"), patcher("space")
    model(ROW, patch(ROW)).logsumexp(-1).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"encoder\.dim 32 and decoder\.dim 64 must be equal"):
        blt_config(decoder=StackConfig(dim=64, layers=1, heads=2))
    with pytest.raises(ValueError, match="cross_heads 5"):
        blt_config(cross_heads=5)
