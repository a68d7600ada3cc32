import pytest
import torch

from bytequilt.model.attention import BLOCK, Spans, attend, blocked, causal, choose_attention, flex, in_fp32, paired

HEADS, KV_HEADS, DIM = 4, 2, 8


def tensors(rows, queries, keys, kv_heads=KV_HEADS):
    torch.manual_seed(queries)
    shapes = [(HEADS, queries), (kv_heads, keys), (kv_heads, keys)]
    return [torch.randn(rows, heads, length, DIM, requires_grad=True) for heads, length in shapes]


def openings(rows, length, every):
    """Documents of about `every` positions; the first row has but one."""
    torch.manual_seed(every)
    opens = torch.rand(rows, length) < 1 / every
    opens[0] = False
    return opens


def visible(opens_BN, window):
    """Who sees whom, in the plainest words: the past, inside the window, with no opening in between."""
    document = opens_BN.long().cumsum(1)
    far = torch.arange(opens_BN.shape[1])[:, None] - torch.arange(opens_BN.shape[1])
    near = (far >= 0) & (far < (window or 10**9))
    return near & (document[:, :, None] == document[:, None, :])


def dense(q, k, v, mask_BNM):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2)) / DIM**0.5
    return scores.masked_fill(~mask_BNM[:, None], -torch.inf).softmax(-1) @ v


def assert_same(fast, slow, inputs):
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(fast)
    both = [torch.autograd.grad((out * weight).sum(), inputs) for out in (fast, slow)]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 1, 7, BLOCK, BLOCK + 1, 600])
@pytest.mark.parametrize("rows", [1, 2])
def test_windows_and_documents_over_several_blocks(window, rows):
    length = 2 * BLOCK + 19
    opens = openings(rows, length, 90)
    q, k, v = tensors(rows, length, length)
    assert_same(attend(q, k, v, Spans.of(opens, window)), dense(q, k, v, visible(opens, window)), (q, k, v))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 5, 50])
def test_one_document_is_plainly_causal(window, kv_heads):
    opens = torch.zeros(2, 40, dtype=torch.bool)
    q, k, v = tensors(2, 40, 40, kv_heads)
    assert_same(attend(q, k, v, Spans.of(opens, window)), dense(q, k, v, visible(opens, window)), (q, k, v))


@pytest.mark.parametrize(
    ("window", "before", "new"), [(None, 50, 1), (None, 50, 300), (20, 50, 1), (20, 50, 300), (20, 7, 40), (1, 9, 9)]
)
def test_queries_behind_cached_keys(window, before, new):
    opens = openings(2, before + new, 25)
    q, k, v = tensors(2, before + new, before + new)
    slow = dense(q, k, v, visible(opens, window))[:, :, before:]
    held = before if window is None else min(before, window - 1)
    position = torch.arange(before) - (before - held)  # counted from the first key at hand
    context = torch.where(opens[:, :before], position, -(before - held)).amax(1)
    spans = Spans.after(opens[:, before:], context, held, window)
    assert spans.keys == held + new
    fast = attend(q[:, :, before:], k[:, :, before - held :], v[:, :, before - held :], spans)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("before", [0, 1, 5, 39, 90])
@pytest.mark.parametrize("window", [1, 7, 16, 40, 64])
def test_pairs_of_blocks_see_the_same_behind_cached_keys(window, before):
    opens = openings(2, before + 40, 25)
    q, k, v = tensors(2, 40, before + 40)
    context = torch.where(opens[:, :before], torch.arange(before), 0).amax(1) if before else torch.zeros(2).long()
    spans = Spans.after(opens[:, before:], context, before, window)
    assert_same(paired(q, k, v, spans), blocked(q, k, v, spans), (q, k, v))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("window", [1, 7, 16, 40, 64])
def test_pairs_of_blocks_see_the_same(window, single):
    opens = torch.zeros(2, 40, dtype=torch.bool) if single else openings(2, 40, 10)
    q, k, v = tensors(2, 40, 40)
    spans = Spans.of(opens, window, single)
    assert_same(paired(q, k, v, spans), blocked(q, k, v, spans), (q, k, v))


@pytest.mark.parametrize("way", [paired, in_fp32])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_bf16_is_fp32_but_for_rounding(way, kv_heads):
    q, k, v = tensors(2, 70, 70, kv_heads)
    spans = Spans.of(openings(2, 70, 30), 16)
    slow = blocked(q, k, v, spans)
    weight, results = torch.randn_like(slow), []
    for out in (way(*(x.bfloat16() for x in (q, k, v)), spans).float(), slow):
        results.append((out, *torch.autograd.grad((out * weight).sum(), (q, k, v))))
    for fast, exact in zip(*results, strict=True):
        assert (fast - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(("window", "length"), [(None, 300), (512, 300), (16, 300), (16, 16)])
def test_a_single_document_needs_no_mask_inside_its_window(window, length):
    opens = torch.zeros(2, length, dtype=torch.bool)
    opens[:, 0] = True
    q, k, v = tensors(2, length, length)
    single, masked = Spans.of(opens, window, single=True), Spans.of(opens, window)
    assert single.causal == (window is None or length <= window)
    assert not masked.causal
    assert_same(attend(q, k, v, single), attend(q, k, v, masked), (q, k, v))


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("held", [0, 8])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_mask_of_flex_attention_is_the_same_mask(window, held):
    opens = openings(2, 40, 10)
    q, k, v = (x.detach() for x in tensors(2, 40, 40 + held))
    spans = Spans.after(opens, torch.zeros(2, dtype=torch.long), held, window)
    torch.testing.assert_close(flex(q, k, v, spans), blocked(q, k, v, spans), atol=1e-5, rtol=1e-5)


FULL, BF16 = torch.float32, torch.bfloat16
WAYS = [  # device, dtype, head size, training, window, one document, same shape at every step -> how to attend
    (("cpu", FULL, 12, True, 128, False, True), blocked),
    (("cpu", FULL, 64, True, None, True, True), causal),
    (("cpu", BF16, 12, True, 128, False, True), paired),
    (("cpu", BF16, 64, True, 128, False, True), in_fp32),
    (("cpu", BF16, 12, True, None, True, True), in_fp32),
    (("cuda", BF16, 64, True, 128, False, True), flex),
    (("cuda", BF16, 8, True, 128, False, True), paired),
    (("cuda", BF16, 64, False, 128, False, True), paired),
    (("cuda", BF16, 64, False, 512, False, True), blocked),
    (("cuda", BF16, 64, True, None, False, False), blocked),
    (("cuda", BF16, 64, True, None, True, True), causal),
    (("mps", FULL, 64, True, 128, False, True), blocked),
]


@pytest.mark.parametrize(("given", "way"), WAYS)
def test_the_way_fits_device_and_shape(given, way):
    device, dtype, head_dim, training, window, single, fixed = given
    spans = Spans.of(torch.zeros(2, 300, dtype=torch.bool), window, single, fixed)
    assert choose_attention(device, dtype, head_dim, training, spans) is way


def test_masks_are_made_once():
    spans = Spans.of(openings(2, 40, 10), 9)
    assert spans.biases(FULL) is spans.biases(FULL)
    assert spans.pair_bias is spans.pair_bias
