import pytest
import torch
from conftest import RULES, ids_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bytequilt.codec import BOE, BOS, EOS
from bytequilt.config import RuleConfig
from bytequilt.patching import rules

ENTROPIES = [0, 0, 2, 1, 3, 0, 2, 2]  # after the BOS and seven bytes
TEXT = b"ab, c\xc3\xa9"
HAND_WORKED = {  # x where the byte closes its patch; the BOS comes first
    "entropy: above, not at, the threshold": ({"kind": "entropy", "threshold": 2}, "x...x..."),
    "monotonic: the first byte closes whatever its rise": ({"kind": "monotonic", "rise": 1}, "xxx.x.x."),
    "monotonic: rises of 2 do not exceed 2": ({"kind": "monotonic", "rise": 2}, "xx......"),
    "combined: first byte forced, second suppressed": ({"kind": "combined", "threshold": 1, "rise": 1}, "xx..x.x."),
    "combined: both must hold": ({"kind": "combined", "threshold": 2.5, "rise": 1}, "xx..x..."),
    "longest length, cut from the left": ({"kind": "entropy", "threshold": 2.5, "max_length": 3}, "x..xx..x"),
    "longest length starts again at each patch": ({"kind": "entropy", "threshold": 2.5, "max_length": 2}, "x.x.x.x."),
    "space: first of a run, lead bytes, not letters": ({"kind": "space"}, "x..x..x."),
    "space, cut": ({"kind": "space", "max_length": 2}, "x.xx.xx."),
    "fixed": ({"kind": "fixed", "stride": 3}, "x..x..x."),
    "byte": ({"kind": "byte"}, "xxxxxxxx"),
}


def shown(closes_N):
    return "".join("x" if closed else "." for closed in closes_N)


@pytest.mark.parametrize("name", HAND_WORKED)
def test_hand_worked(name):
    fields, wanted = HAND_WORKED[name]
    closes_BN = rules.closes(RuleConfig(**fields), ids_of(TEXT, eos=False), torch.tensor([ENTROPIES]).float())
    assert shown(closes_BN[0]) == wanted


def test_every_special_id_but_padding_ends_a_patch_of_spaces():
    ids_BN = torch.tensor([[BOS, 69, EOS, 3, 69, BOE, BOE]])
    assert shown(rules.closes(RULES["space"], ids_BN)[0]) == "x.xx..."


def test_rules_that_need_entropies_say_so():
    with pytest.raises(ValueError, match="needs entropies"):
        rules.closes(RULES["entropy"], ids_of(TEXT))


NATS = st.one_of(st.floats(0, 6, width=32), st.sampled_from([0.0, 0.1, 1.0, 1.1, 2.0, 4.18]))
ID = st.one_of(st.integers(0, 259), st.sampled_from([BOE, BOS, EOS, ord(" ") + 4, ord("a") + 4, 0xC3 + 4, 0xA9 + 4]))
ROW = st.tuples(st.lists(st.tuples(ID, NATS), min_size=1, max_size=40), st.integers(0, 4))
RULE = st.builds(
    lambda rule, limit: rule.model_copy(update={"max_length": limit}),
    st.sampled_from(
        [*RULES.values(), RuleConfig(kind="entropy", threshold=1.1), RuleConfig(kind="monotonic", rise=1.1)]
    ),
    st.one_of(st.none(), st.integers(1, 7)),
)


def tensors(row):
    """Ids and entropies (1, N) of a drawn row, with its padding."""
    drawn, padding = row
    ids, nats = zip(*drawn, *[(0, 0.0)] * padding, strict=True)
    return torch.tensor([ids]), torch.tensor([nats], dtype=torch.float32)


@settings(max_examples=200, deadline=None)
@given(RULE, ROW)
def test_byte_by_byte_decides_as_the_batch_does(rule, row):
    ids_BN, nats_BN = tensors(row)
    stream = rules.Stream(rule)
    fed = [stream.feed(id, nat) for id, nat in zip(ids_BN[0].tolist(), nats_BN[0].tolist(), strict=True)]
    assert fed == rules.closes(rule, ids_BN, nats_BN)[0].tolist()


@settings(deadline=None)
@given(RULE, ROW, st.integers(1, 40))
def test_boundaries_depend_on_the_past_alone(rule, row, length):
    ids_BN, nats_BN = tensors(row)
    whole = rules.closes(rule, ids_BN, nats_BN)[:, :length]
    assert torch.equal(rules.closes(rule, ids_BN[:, :length], nats_BN[:, :length]), whole)


@settings(deadline=None)
@given(RULE, ROW, ROW)
def test_documents_of_a_row_open_alike(rule, one, two):
    rows = [
        (torch.cat([torch.tensor([[BOS]]), i], 1), torch.cat([torch.ones(1, 1), e], 1))
        for i, e in map(tensors, (one, two))
    ]
    together = rules.closes(rule, *(torch.cat(parts, 1) for parts in zip(*rows, strict=True)))
    assert torch.equal(together, torch.cat([rules.closes(rule, *row) for row in rows], 1))


@settings(deadline=None)
@given(RULE, st.lists(st.tuples(ID, NATS, ID, NATS), min_size=1, max_size=30))
def test_rows_do_not_see_each_other(rule, columns):
    a, x, b, y = zip(*columns, strict=True)
    ids_BN, nats_BN = torch.tensor([a, b]), torch.tensor([x, y])
    alone = [rules.closes(rule, ids_BN[i : i + 1], nats_BN[i : i + 1]) for i in range(2)]
    assert torch.equal(rules.closes(rule, ids_BN, nats_BN), torch.cat(alone))


@pytest.mark.parametrize("kind", RULES)
def test_a_longest_length_is_never_exceeded(kind):
    rule = RULES[kind].model_copy(update={"max_length": 4})
    ids_BN = ids_of(b"a" * 50)
    assert rules.patches(rule, ids_BN, torch.rand(ids_BN.shape)).lengths_BP.max() <= 4
