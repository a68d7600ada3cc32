"""Jobs that several processes share: done once, resumed, passed over where others do them."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bytequilt.config import UserError
from bytequilt.files import locked
from bytequilt.study import jobs
from bytequilt.study.jobs import done, results_in, run_all
from bytequilt.train.loop import Diverged


@dataclass
class Sum:
    """A job that adds numbers up, each of which may interrupt it once."""

    root: Path
    name: str
    recipe: dict = field(default_factory=dict)
    diverges: bool = False
    ran: list = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / "sums" / self.name

    def run(self) -> dict:
        self.ran.append(threading.current_thread().name)
        if self.diverges:
            raise Diverged(f"{self.name} is not finite")
        return {"name": self.name}


def test_jobs_are_done_in_order_and_once(tmp_path):
    plan = [Sum(tmp_path, name) for name in "abc"]
    results = run_all(lambda _: plan, tmp_path)
    assert done(plan, results) == [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    assert results == results_in(tmp_path) == run_all(lambda _: plan, tmp_path)
    assert [len(job.ran) for job in plan] == [1, 1, 1]


def test_a_plan_may_grow_from_its_results(tmp_path):
    results = run_all(lambda results: [Sum(tmp_path, "abcd"[at]) for at in range(min(4, len(results) + 1))], tmp_path)
    assert [folder.name for folder in results] == ["a", "b", "c", "d"]


def test_results_are_read_once_a_round(tmp_path, monkeypatch):
    reads, read = [], jobs.results_in
    monkeypatch.setattr(jobs, "results_in", lambda folder: reads.append(folder) or read(folder))
    run_all(lambda _: [Sum(tmp_path, name) for name in "abc"], tmp_path)
    assert len(reads) == 4


def test_a_job_in_other_hands_is_passed_over_and_waited_for(tmp_path):
    plan = [Sum(tmp_path, name) for name in "abc"]
    worker = threading.Thread(target=lambda: run_all(lambda _: plan, tmp_path, wait=0.01))
    with locked(plan[0].folder):
        worker.start()
        while not (plan[2].folder / jobs.RESULT).is_file():
            assert worker.is_alive()
        assert plan[0].ran == []
    worker.join()
    assert [len(job.ran) for job in plan] == [1, 1, 1]


def test_a_job_that_diverges_is_left_out_with_a_warning(tmp_path, capsys):
    plan = [Sum(tmp_path, "a", diverges=True), Sum(tmp_path, "b")]
    assert done(plan, run_all(lambda _: plan, tmp_path)) == [{"name": "b"}]
    assert len(plan[0].ran) == 1
    assert "warning: a is not finite" in capsys.readouterr().err


def test_an_interrupted_job_is_run_again(tmp_path):
    class Interrupted(Sum):
        def run(self) -> dict:
            if not self.ran:
                self.ran.append("stopped")
                raise KeyboardInterrupt
            return super().run()

    job = Interrupted(tmp_path, "a")
    with pytest.raises(KeyboardInterrupt):
        run_all(lambda _: [job], tmp_path)
    assert results_in(tmp_path) == {}
    assert done([job], run_all(lambda _: [job], tmp_path)) == [{"name": "a"}]


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_recipe_is_refused(tmp_path, finished):
    job = Sum(tmp_path, "a", {"rate": 1}, diverges=not finished)
    run_all(lambda _: [job], tmp_path)
    other = Sum(tmp_path, "a", {"rate": 2})
    with pytest.raises(UserError, match="is of another recipe; delete"):
        done([other], run_all(lambda _: [other], tmp_path))
