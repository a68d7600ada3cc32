"""The engine by itself: what it admits, what it ends, and what it frees."""

import asyncio
import threading
import time

import pytest
from serving import WAIT, limits, untrained

from bytequilt.infer.batcher import Batcher
from bytequilt.infer.sampling import Sampling
from bytequilt.infer.writer import Step
from bytequilt.serve.engine import Engine
from bytequilt.serve.errors import Expired, Overloaded, TextFailed, TooSlow, Unavailable
from bytequilt.serve.metrics import Meters, Metrics
from bytequilt.serve.scoring import score
from bytequilt.serve.stream import steps_of

LM = untrained()
LONG = Sampling(max_bytes=10_000, temperature=0)  # what the model would say then has no end


def engine(**change) -> Engine:
    return Engine("tiny", LM, limits(**change), Meters(Metrics(), "tiny"))


def run(test, **change):
    """Run a test in an event loop with an engine that has begun to work."""

    async def main():
        working = engine(**change)
        working.start()
        try:
            async with asyncio.timeout(WAIT):
                return await test(working)
        finally:
            working.stop(Unavailable("the test is over"))
            assert working.joined(WAIT)

    return asyncio.run(main())


async def data_of(streams):
    """The bytes of each text."""
    data = [b""] * len(streams)
    async for index, steps in steps_of(streams):
        data[index] += b"".join(step.data for step in steps)
    return data


async def until(true):
    while not true():
        await asyncio.sleep(0.005)


class Slow(Batcher):
    """A batcher whose steps take a while, and that can be made to fail or to hang."""

    fault = None

    def step(self):
        if self.fault is not None:
            self.fault()
        time.sleep(0.002)
        return super().step()


# ------------------------------------------------------------------------------------------------------------- texts


def test_a_text_is_that_of_the_model_alone_and_among_others():
    asked = Sampling(max_bytes=30, seed=3)
    others = [(b"abc"[:i], Sampling(max_bytes=10 + i, seed=i)) for i in range(3)]

    async def test(working):
        alone = await data_of(working.submit([(b"Once", asked)]))
        among = await data_of(working.submit([*others, (b"Once", asked)]))
        assert among[-1] == alone[0] == LM.generate(b"Once", max_bytes=30, seed=3).data
        assert not working.open

    run(test)


def test_what_has_no_room_is_refused_at_once_and_all_or_nothing():
    text = (b"a", Sampling(max_bytes=200))

    async def test(working):
        streams = working.submit([text] * 5)
        with pytest.raises(Overloaded) as refusal:
            working.submit([text] * 4)
        assert 1 <= refusal.value.retry_after <= 60
        assert len(await data_of(streams)) == 5
        assert len(await data_of(working.submit([text] * 8))) == 8

    run(test)


def test_a_reader_that_goes_frees_its_row_within_a_step():
    async def test(working):
        working._batcher = Slow(LM.batcher(4).decoder)
        (stream,) = working.submit([(b"a", LONG)])
        await until(lambda: stream.given > 3)
        working.cancel(stream)
        given = stream.given
        await until(lambda: not working.open)
        assert len(working._batcher) == 0
        assert stream.given <= given + 8  # steps that were under way, or waited to be handed over

    run(test)


def test_a_waiting_text_can_be_cancelled_too():
    async def test(working):
        streams = working.submit([(b"a", LONG)] * 6)
        working.cancel(streams[-1])
        await until(lambda: len(working.open) == 5)
        for stream in streams:
            working.cancel(stream)
        await until(lambda: not working.open)
        assert len(working._batcher) == 0

    run(test)


def test_a_reader_that_does_not_read_is_dropped():
    async def test(working):
        (stream,) = working.submit([(b"a", LONG)])
        await until(lambda: not working.open)
        assert stream.given < 200
        with pytest.raises(TooSlow):
            await data_of([stream])

    run(test, unread=50)


def test_a_text_ends_at_its_deadline():
    async def test(working):
        working._batcher = Slow(LM.batcher(4).decoder)
        with pytest.raises(Expired):
            await data_of(working.submit([(b"a", LONG)]))
        assert len(working._batcher) == 0

    run(test, seconds=0.2)


def test_a_long_prompt_does_not_hold_up_a_text_that_runs():
    async def test(working):
        (short,) = working.submit([(b"a", LONG)])
        await until(lambda: short.given)
        (long,) = working.submit([(b"b" * 20_000, Sampling(max_bytes=1))])
        before = short.given
        await until(lambda: long.first)
        assert short.given - before >= 20_000 // 512
        working.cancel(short)
        await data_of([long])

    run(test, prompt_bytes=20_000, unread=6000)


# ------------------------------------------------------------------------------------------------------ computations


def test_a_score_is_that_of_the_model_and_takes_turns_with_texts():
    text = b"Once upon a time" * 80

    async def test(working):
        (stream,) = working.submit([(b"a", Sampling(max_bytes=500, temperature=1.0))])
        scored = await working.compute(score(LM.session(), text, 2))
        assert sum(entry.logprob for entry in scored.entries) == pytest.approx(-LM.score(b"", text).nats, rel=1e-4)
        assert [entry.byte for entry in scored.entries] == list(text)
        assert scored.end.byte is None
        await data_of([stream])

    run(test)


def test_a_computation_that_fails_fails_alone():
    def broken():
        yield
        raise RuntimeError("secret")

    async def test(working):
        (stream,) = working.submit([(b"a", Sampling(max_bytes=50, temperature=1.0, seed=0))])
        with pytest.raises(TextFailed) as failure:
            await working.compute(broken())
        assert "secret" not in str(failure.value)
        assert len((await data_of([stream]))[0]) > 0
        assert working.fault is None

    run(test)


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_text_that_fails_ends_alone():
    class Failing(Batcher):
        def step(self):
            steps = super().step()
            return [(key, Step("", b"", "error") if key == 1 and step.data else step) for key, step in steps]

    async def test(working):
        working._batcher = Failing(LM.batcher(4).decoder)
        bad, good = working.submit([(b"a", Sampling(max_bytes=1)), (b"b", Sampling(max_bytes=1))])
        with pytest.raises(TextFailed):
            await data_of([bad, good])
        assert working.fault is None
        await until(lambda: not working.open)

    run(test)


def test_an_engine_that_fails_tells_everybody_and_admits_nothing_more():
    def fault():
        raise RuntimeError("secret")

    async def test(working):
        working._batcher = Slow(LM.batcher(4).decoder)
        streams = working.submit([(b"a", LONG)] * 3)
        await until(lambda: streams[0].given > 0)
        working._batcher.fault = fault
        with pytest.raises(Unavailable) as failure:
            await data_of(streams)
        assert "secret" not in str(failure.value)
        assert working.fault is not None
        with pytest.raises(Unavailable):
            working.submit([(b"a", Sampling())])

    run(test)


def test_an_engine_that_hangs_is_noticed():
    freed = threading.Event()

    async def test(working):
        working._batcher = Slow(LM.batcher(4).decoder)
        working._batcher.fault = freed.wait
        try:
            streams = working.submit([(b"a", Sampling(max_bytes=10))])
            working.check()
            assert working.fault is None
            await until(lambda: working.check() or working.fault is not None)
            with pytest.raises(Unavailable):
                await data_of(streams)
        finally:
            freed.set()

    run(test, stall=1)


def test_an_idle_engine_is_no_dead_one():
    async def test(working):
        await asyncio.sleep(0.3)
        working.check()
        assert working.fault is None

    run(test, stall=0.1)
