"""A batch on a real Ray cluster of several nodes, one of which is killed while it works."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from plain_batch import SETUP, Ran, Unseen, make_slide, read_all, run_batch, run_here

from glassrt.engine.bundles.bundle import DEFAULT_BUNDLE
from glassrt.engine.errors import BackendUnavailable
from glassrt.engine.production.batch import Batch, Options
from glassrt.engine.production.entries import list_entries
from glassrt.engine.production.on_ray import OnRay
from glassrt.engine.production.processes import Limits
from glassrt.engine.production.wire import Failed, Lost, Order
from glassrt.engine.results.summary import Outcome

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores, and two nodes of one core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def run_on(cluster: Any, paths: list[Path], out: Path, watcher: Unseen) -> Ran:
    entries = list_entries([str(path) for path in paths], None, (), {})
    batch = Batch(entries, out, Options(DEFAULT_BUNDLE, SETUP, "ort", "fp32"))
    return run_batch(batch, lambda: OnRay(cluster.address, SETUP, Limits(), None, 1, 0.0), watcher)


class KillsNode(Unseen):
    """Kills a node of the cluster, with all its processes, as soon as three slides are done."""

    def __init__(self, cluster: Any) -> None:
        self._cluster, self.done, self.killed = cluster, 0, False
        self.failures: list[Failed | Lost] = []

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None:
        self.done += outcome is not None
        self.failures += [failure] if failure else []
        if self.done == 3 and not self.killed:
            self.killed = True
            self._cluster.remove_node(self._cluster.worker_nodes and next(iter(self._cluster.worker_nodes)))


def test_a_lost_node_costs_an_attempt_and_outputs_are_those_of_one_machine(cluster: Any, tmp_path: Path) -> None:
    paths = [make_slide(tmp_path / "in" / f"{name}.tif", 200 + 5 * at) for at, name in enumerate("abcdefgh")]
    (tmp_path / "in" / "bad.tif").write_bytes(b"no slide")
    paths.append(tmp_path / "in" / "bad.tif")
    watcher = KillsNode(cluster)
    ended = run_on(cluster, paths, tmp_path / "ray", watcher)
    assert watcher.killed
    assert ended.finished
    assert {id for id, outcome in ended.outcomes.items() if outcome.result is None} == {"bad"}
    lost = [each for each in watcher.failures if isinstance(each, Lost)]
    assert len(lost) <= 1
    assert all(each.reason == "machine" for each in lost)
    assert {each.reason for each in watcher.failures if isinstance(each, Failed)} == {"slide"}
    run_here(paths, tmp_path / "here")
    for name in "abcdefgh":
        one, other = (
            {Path(path).name: content for path, content in read_all(tmp_path / where / name).items()}
            for where in ("ray", "here")
        )
        assert one.keys() == other.keys()
        assert [file for file in one if one[file] != other[file]] in ([], ["result.json"])  # which holds timings
    until = time.monotonic() + 10
    while left := [each.pid for each in psutil.process_iter(["cmdline"]) if is_orphan(each)]:
        assert time.monotonic() < until, left
        time.sleep(0.2)


def test_a_machine_that_joins_is_given_work(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassrt.engine.production.on_ray.LOOK_S", 0.5)
    executor = OnRay(cluster.address, SETUP, Limits(), None, 1, 0.0)
    try:
        nodes = len(cluster.worker_nodes)
        for expected in (nodes, nodes + 1):
            until = time.monotonic() + 120
            while executor.free < expected:
                assert time.monotonic() < until, executor.free
                executor.poll(0.5)
            assert executor.free == expected
            cluster.add_node(num_cpus=1)
    finally:
        executor.close()


def is_orphan(process: psutil.Process) -> bool:
    """Whether it is a worker whose actor is gone."""
    return any("production.worker" in part for part in process.info["cmdline"] or ()) and process.ppid() == 1


def test_a_cluster_that_is_not_there_is_told(tmp_path: Path) -> None:
    ray.shutdown()
    with pytest.raises(BackendUnavailable, match=r"--ray 127\.0\.0\.1:1: no cluster answers"):
        OnRay("127.0.0.1:1", SETUP, Limits(), None, 1, 0.0)


def test_workers_that_do_not_fit_are_told(cluster: Any) -> None:
    with pytest.raises(BackendUnavailable, match="no worker of 64 cores and 0 GPUs fits"):
        OnRay(cluster.address, SETUP, Limits(), None, 64, 0.0)
