from itertools import chain

import pytest
import torch
from conftest import RULES, ids_of
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import Stream

from bytequilt.codec import BOE, BOS, EOS
from bytequilt.config import PatchingConfig, RuleConfig
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
    "budget: exceeded, and the byte that exceeds it counts for the next": (
        {"kind": "budget", "threshold": 2.5, "max_length": None},
        "x..xxx.x",
    ),
    "budget: cut, after whole characters": ({"kind": "budget", "threshold": 9, "max_length": 3}, "x..x...x"),
    "budget: no cut inside a character": ({"kind": "budget", "threshold": 9, "max_length": 6}, "x......x"),
    "words: letters of all scripts": ({"kind": "words"}, "x..x...."),
    "after given bytes": ({"kind": "entropy", "threshold": 9, "after": " b"}, "x.x.x..."),
    "characters: a start waits for the last byte": (
        {"kind": "entropy", "threshold": 1.5, "characters": True},
        "x.x.x..x",
    ),
    "characters: of a length, too": (
        {"kind": "entropy", "threshold": 9, "characters": True, "max_length": 6},
        "x......x",
    ),
    "characters, space": ({"kind": "space", "characters": True}, "x..x...x"),
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


def test_each_digit_ends_a_patch():
    closes_BN = rules.closes(RuleConfig(kind="words", digits="each"), ids_of(b"a 380=", eos=False))
    assert shown(closes_BN[0]) == "x.xxxxx"


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        (b"\xe2\x82\xac", "..x"),
        (b"\xf0\x9f\x98\x80", "...x"),
        (b"\xff\x80\x80\x80\x80", "...xx"),
        (b"\xe2a\x80", ".xx"),
        (b"\xc3\xc3\xa9\xa9", "..xx"),
        (b"\x80\x80", "xx"),
        (b"\xff\x80\xff\x80\xff\x80a", "...xxxx"),
    ],
)
def test_characters_that_are_none_are_waited_for_as_long_as_they_could_be_one(text, waits):
    rule = RuleConfig(kind="budget", threshold=-1)
    ids_BN = ids_of(text, eos=False)
    assert shown(rules.closes(rule, ids_BN, torch.zeros(ids_BN.shape))[0]) == "x" + waits


def test_a_budget_is_bounded_unless_told_otherwise():
    assert RuleConfig(kind="budget", threshold=1).max_length == 16
    unbounded = RuleConfig(kind="budget", threshold=1, max_length=None)
    assert RuleConfig.model_validate_json(unbounded.model_dump_json()) == unbounded
    assert PatchingConfig(kind="budget", target_bytes=4.5).rule(threshold=2.0).max_length == 16
    assert RuleConfig(kind="entropy", threshold=1).max_length is None


def test_a_recipe_hands_its_options_to_its_rule():
    options = {"kind": "words", "characters": True, "after": "=\n", "digits": "each", "max_length": 5}
    assert PatchingConfig(**options).rule() == RuleConfig(**options)


@pytest.mark.parametrize("after", ["я", "a\x80", "\udcff"])
def test_starts_are_forced_after_single_bytes_alone(after):
    with pytest.raises(ValueError, match="characters of one byte"):
        RuleConfig(kind="byte", after=after)


NATS = st.one_of(st.floats(0, 6, width=32), st.sampled_from([0.0, 0.1, 1.0, 1.1, 2.0, 4.18]))
ID = st.one_of(
    st.integers(0, 259),
    st.sampled_from([BOE, BOS, EOS, *(byte + 4 for byte in b" a1=\xc3\xa9\xe2\x82\xac\xf0\x9f\xff")]),
)
ROW = st.tuples(st.lists(st.tuples(ID, NATS), min_size=1, max_size=40), st.integers(0, 4))
RULE = st.builds(
    lambda rule, limit, characters, after, digits: rule.model_copy(
        update={"max_length": limit, "characters": characters, "after": after, "digits": digits}
    ),
    st.sampled_from(
        [
            *RULES.values(),
            RuleConfig(kind="entropy", threshold=1.1),
            RuleConfig(kind="monotonic", rise=1.1),
            RuleConfig(kind="budget", threshold=3.1),
        ]
    ),
    st.one_of(st.none(), st.integers(1, 7)),
    st.booleans(),
    st.sampled_from(["", "=\n", "a "]),
    st.sampled_from([None, "each"]),
)


def tensors(row):
    """Ids and entropies (1, N) of a drawn row, with its padding."""
    drawn, padding = row
    ids, nats = zip(*drawn, *[(0, 0.0)] * padding, strict=True)
    return torch.tensor([ids]), torch.tensor([nats], dtype=torch.float32)


@settings(max_examples=200, deadline=None)
@given(RULE, ROW)
def test_plain_python_decides_as_the_batch_does(rule, row):
    ids_BN, nats_BN = tensors(row)
    stream = Stream(rule)
    fed = [stream.feed(id, nat) for id, nat in zip(ids_BN[0].tolist(), nats_BN[0].tolist(), strict=True)]
    assert fed == rules.closes(rule, ids_BN, nats_BN)[0].tolist()


def stepped(rule, ids_BN, nats_BN):
    """Decisions (B, N) and states (B, N, F), id after id."""
    state, closed, states = rules.start(rule, len(ids_BN)), [], []
    for ids_R, nats_R in zip(ids_BN.T, nats_BN.T, strict=True):
        before = state.clone()
        closes_R, after = rules.step(rule, state, ids_R, nats_R)
        assert torch.equal(state, before)
        state = after
        closed.append(closes_R)
        states.append(state)
    return torch.stack(closed, 1), torch.stack(states, 1)


@settings(max_examples=200, deadline=None)
@given(RULE, ROW)
def test_steps_decide_as_the_batch_does(rule, row):
    ids_BN, nats_BN = tensors(row)
    assert torch.equal(stepped(rule, ids_BN, nats_BN)[0], rules.closes(rule, ids_BN, nats_BN))


@settings(max_examples=200, deadline=None)
@given(RULE, ROW, st.lists(st.integers(1, 12), min_size=1))
def test_chunks_of_any_sizes_leave_what_steps_leave(rule, row, sizes):
    ids_BN, nats_BN = tensors(row)
    closed, states = stepped(rule, ids_BN, nats_BN)
    state, begin = rules.start(rule, 1), 0
    for size in sizes * ids_BN.shape[1]:
        ids_N, nats_N = ids_BN[0, begin : begin + size], nats_BN[0, begin : begin + size]
        if not len(ids_N):
            break
        closes_N, states_NF = rules.feed(rule, state, ids_N, nats_N)
        assert torch.equal(closes_N, closed[0, begin : begin + size])
        assert torch.equal(states_NF, states[0, begin : begin + size])
        state, begin = states_NF[-1:], begin + size
    assert begin >= ids_BN.shape[1]


@settings(deadline=None)
@given(RULE, st.lists(st.tuples(ID, NATS, ID, NATS), min_size=1, max_size=20))
def test_steps_of_rows_do_not_see_each_other(rule, columns):
    a, x, b, y = zip(*columns, strict=True)
    ids_BN, nats_BN = torch.tensor([a, b]), torch.tensor([x, y])
    assert torch.equal(stepped(rule, ids_BN, nats_BN)[0], rules.closes(rule, ids_BN, nats_BN))


def test_rules_without_entropies_stream_without_them():
    ids_N = ids_of(b"two words, 3 signs")[0]
    for rule in (rule for rule in RULES.values() if not rule.needs_entropy):
        state, closed = rules.start(rule, 1), []
        for i in range(len(ids_N)):
            closes_R, state = rules.step(rule, state, ids_N[i : i + 1])
            closed.append(bool(closes_R))
        assert closed == rules.closes(rule, ids_N[None])[0].tolist()
        assert closed == rules.feed(rule, rules.start(rule, 1), ids_N)[0].tolist()


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


@settings(deadline=None)
@given(RULE, ROW, st.integers(1, 40), st.randoms())
def test_bytes_to_come_move_no_boundary(rule, row, length, random):
    ids_BN, nats_BN = tensors(row)
    other_BN, nats = ids_BN.clone(), nats_BN.clone()
    for i in range(length, ids_BN.shape[1]):
        other_BN[0, i], nats[0, i] = random.randrange(260), random.random() * 6
    before, after = rules.closes(rule, ids_BN, nats_BN), rules.closes(rule, other_BN, nats)
    assert torch.equal(before[:, :length], after[:, :length])


def budget_by_hand(limit: int, length: int, data: bytes, nats: list[float]) -> list[int]:
    """Where patches of a text start under a budget in parts: an obvious loop over characters, in whole numbers."""
    starts, spent, place = [0], round(nats[0] * 4096), 0
    for character in data.decode():
        for _ in character.encode():
            place += 1
            spent += round(nats[place] * 4096)
        if spent > limit or place - starts[-1] >= length:
            starts.append(place)
            spent = round(nats[place] * 4096)
    return starts


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(0, 8), st.integers(1, 20), st.randoms())
def test_budgets_are_spent_character_by_character(text, budget, length, random):
    documents = [text.encode(), b"another", text.encode()]
    nats = [[random.random() * 3 for _ in range(len(data) + 1)] for data in documents]
    ids_BN = ids_of(*documents, eos=False)
    rule = RuleConfig(kind="budget", threshold=budget, max_length=length)
    found = rules.closes(rule, ids_BN, torch.tensor([[*chain(*nats)]]))[0]
    at = 0
    for data, entropies in zip(documents, nats, strict=True):
        part = found[at : at + len(data) + 1]
        entropies = torch.tensor(entropies).tolist()  # as fp32 holds them
        assert part.nonzero().flatten().tolist() == budget_by_hand(budget * 4096, length, data, entropies)
        at += len(part)


@pytest.mark.parametrize("kind", RULES)
def test_a_longest_length_is_never_exceeded(kind):
    rule = RULES[kind].model_copy(update={"max_length": 4})
    for data in (b"a" * 50, "\N{GRINNING FACE}я".encode() * 9, b"\xff\x80" * 30):
        ids_BN = ids_of(data)
        longest = rules.patches(rule, ids_BN, torch.rand(ids_BN.shape)).lengths_BP.max()
        assert longest <= (7 if rule.whole else 4)
