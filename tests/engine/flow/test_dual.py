"""Both networks of a dual-input bundle at work on a slide: what each is given, how often, and what is kept by then."""

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_dual import MPP, make_dual

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.errors import SlideError
from glassrt.engine.flow import dual
from glassrt.engine.flow.cut import cut_windows, each_batch
from glassrt.engine.flow.dual import DualRunner
from glassrt.engine.flow.host import HostRunner
from glassrt.engine.geometry.plan import InputSpec, Plan, plan
from glassrt.engine.runtimes.chain import Chain
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.slides.array import ArraySlide
from glassrt.engine.slides.grid import GridReader
from glassrt.engine.tasks.segment import choose_runner, lay_windows
from glassrt.engine.watch import Clock, Watch

Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module", params=["tile", "centre"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(make_dual(tmp_path_factory.mktemp("dual") / "small.glass", request.param, maps=True))


def noise(width: int, height: int) -> GridReader:
    """A slide no two windows of which are alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return GridReader(ArraySlide(pixels, MPP), MPP)


def open_chain(bundle: Bundle, name: str = "ort", batch: int = 3) -> Chain:
    chain = open_backend(bundle, name, batch, throughput=True)
    assert isinstance(chain, Chain)
    return chain


class Noting:
    """Keeps what comes."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.logits: list[NDArray[np.float32]] = []
        self.finished = False

    def add(self, indices: NDArray[np.int64], outputs: Arrays) -> None:
        self.numbers.extend(indices.tolist())
        self.logits.append(outputs["logits"].copy())

    def drop(self, indices: NDArray[np.int64]) -> None:
        pytest.fail("nothing is missing")

    def finish(self) -> None:
        self.finished = True


class Counting:
    """Counts the windows that a network is given."""

    def __init__(self, backend: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows: Counter[bytes] = Counter()
        self.calls = 0
        self._infer, self._name, self._lock = backend.infer, name, threading.Lock()
        monkeypatch.setattr(backend, "infer", self)

    def __call__(self, inputs: Arrays) -> Arrays:
        with self._lock:
            self.calls += 1
            self.windows.update(window.tobytes() for window in inputs[self._name] if window.any())
        given: Arrays = self._infer(inputs)
        return given


@pytest.mark.parametrize("name", ["ort", "openvino"])
@pytest.mark.parametrize(("scales", "flips"), [((1.0,), False), ((0.5, 1.0, 1.5), True)])
def test_surroundings_are_computed_once_each(
    bundle: Bundle, name: str, scales: tuple[float, ...], flips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, tested = noise(500, 420), bundle.replace(scales, flips)
    laid = lay_windows(grid, tested)
    chain, watch, sink = open_chain(tested, name), Watch(), Noting()
    contexts, fines = (Counting(part, part.inputs[0].name, monkeypatch) for part in (chain.context, chain.fine))
    DualRunner(chain, 2).run(grid, laid, sink, watch)
    chain.close()
    assert sink.finished
    assert sink.numbers == list(range(len(laid.windows)))
    count = len(laid.layers[1].windows)
    assert set(contexts.windows.values()) == set(fines.windows.values()) == {1}
    assert len(contexts.windows) == watch.contexts == count
    assert contexts.calls == -(-count // 3)
    assert len(fines.windows) == len(laid.windows)
    assert count < len(laid.windows) / 4 if bundle.manifest.context_anchor == "tile" else count == len(laid.windows)


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_it_gives_what_the_chain_gives_as_a_whole(bundle: Bundle, name: str) -> None:
    """The latter computes the surroundings of every window anew."""
    grid, tested = noise(300, 260), bundle.replace((1.0, 0.5), True)
    laid, chain = lay_windows(grid, tested), open_chain(tested, name)
    shared, anew = Noting(), Noting()
    choose_runner(chain, 2).run(grid, laid, shared, Watch())
    HostRunner(chain, 2).run(grid, laid, anew, Watch())
    assert isinstance(choose_runner(chain, 2), DualRunner)
    assert type(choose_runner(chain.fine, 2)) is HostRunner
    one = cut_windows(grid, laid, np.arange(7, 10), Clock())
    assert {given: values.dtype.name for given, values in one.items()} == {
        "fine": "uint8",
        "context": "uint8",
        "place": "float32",
    }
    given = chain.infer(one)["logits"]
    chain.close()
    assert shared.numbers == anew.numbers
    assert np.abs(np.concatenate(shared.logits) - np.concatenate(anew.logits)).max() < 1e-5
    assert np.abs(np.concatenate(shared.logits)[7:10] - given).max() < 1e-5


class Measured(dual.Features):
    """Notes the most surroundings whose features were held at once."""

    def __init__(self, computed: Any, of: NDArray[np.int64]) -> None:
        super().__init__(computed, of)
        self.most = 0

    def _keep(self, numbers: NDArray[np.int64], features: Arrays) -> None:
        super()._keep(numbers, features)
        self.most = max(self.most, len(self.held))


def held_most(bundle: Bundle, grid: GridReader, laid: Plan, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most surroundings whose features a run held at once; in the end none are."""
    made: list[Measured] = []

    def make(computed: Any, of: NDArray[np.int64]) -> Measured:
        made.append(Measured(computed, of))
        return made[-1]

    monkeypatch.setattr(dual, "Features", make)
    chain = open_chain(bundle)
    DualRunner(chain, 2).run(grid, laid, Noting(), Watch())
    chain.close()
    (features,) = made
    assert features.held == {}
    return features.most


def test_few_features_are_kept(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one batch that came and of the one before, whatever the slide's size."""
    grid = noise(1500, 1400)
    laid = lay_windows(grid, bundle)
    assert len(laid.layers[1].windows) > 200
    assert held_most(bundle, grid, laid, monkeypatch) <= 2 * 3


def test_features_of_other_scales_are_kept_no_longer_than_needed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, tested = noise(800, 700), bundle.replace((0.5, 1.0, 2.0), True)
    laid = lay_windows(grid, tested)
    most = held_most(tested, grid, laid, monkeypatch)
    assert most < len(laid.layers[1].windows) / 4
    assert most == dual.count_held(laid.layers[1].of, 3, 3)


@pytest.mark.parametrize(("fine_batch", "context_batch"), [(1, 1), (2, 5), (7, 3)])
def test_how_many_features_are_held_is_known_before(fine_batch: int, context_batch: int) -> None:
    random = np.random.default_rng(fine_batch)
    for _ in range(20):
        few = random.integers(0, 1 + random.integers(40), random.integers(1, 120))
        _, first, place = np.unique(few, return_index=True, return_inverse=True)
        of = np.argsort(np.argsort(first))[place.reshape(-1)]  # numbered as they are needed
        batches = each_batch(int(of.max()) + 1, context_batch)
        features = Measured(((numbers, {"map": np.zeros((len(numbers), 2))}) for numbers in batches), of)
        for indices in each_batch(len(of), fine_batch):
            features.take(indices, fine_batch)
        assert features.held == {}
        assert dual.count_held(of, fine_batch, context_batch) == features.most


def test_at_several_scales_what_is_held_grows_with_the_slide() -> None:
    inputs = InputSpec("fine", 320), InputSpec("context", 320, 4.0, "tile")

    def held(size: tuple[int, int], scales: tuple[float, ...], flips: bool) -> int:
        return dual.count_held(plan(size, scales, flips, inputs, 256).layers[1].of, 4, 4)

    assert held((40_000, 20_000), (1.0,), False) == held((8_000, 8_000), (1.0,), False) < 9
    narrow, wide = (held((width, 20_000), (0.75, 1.0, 1.25), True) for width in (20_000, 40_000))
    assert 20 < 1.5 * narrow < wide
    assert dual.count_held(np.zeros(0, np.int64), 4, 4) == 0


def test_features_that_would_fill_the_memory_are_refused_before_anything_is_read(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, tested = noise(800, 700), bundle.replace((0.5, 1.0, 2.0), True)
    laid, chain, sink = lay_windows(grid, tested), open_chain(tested), Noting()
    most = dual.count_held(laid.layers[1].of, 3, 3)
    monkeypatch.setattr(dual, "MOST_BYTES", 4 * 4 * 4 * 4 * most)
    DualRunner(chain, 2).run(grid, laid, Noting(), Watch())
    monkeypatch.setattr(dual, "MOST_BYTES", 4 * 4 * 4 * 4 * most - 1)
    monkeypatch.setattr(GridReader, "read", lambda *box: pytest.fail("it was read"))
    says = rf"array: at scales 0\.5, 1, 2, mirrored too, .* {most} surroundings .* fewer --scales, --no-flip or"
    with pytest.raises(SlideError, match=says) as told:
        DualRunner(chain, 2).run(grid, laid, sink, Watch())
    assert "\n" not in str(told.value)
    assert sink.numbers == []
    chain.close()


@pytest.mark.parametrize("part", ["context", "fine"])
def test_outputs_that_are_no_numbers_are_refused(bundle: Bundle, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, chain = noise(500, 420), open_chain(bundle)
    backend, calls = getattr(chain, part), []

    def infer(inputs: Arrays, infer: Any = backend.infer) -> Arrays:
        calls.append(1)
        given = {name: values.copy() for name, values in infer(inputs).items()}
        if len(calls) == 2:
            next(iter(given.values()))[1] = np.nan
        return given

    monkeypatch.setattr(backend, "infer", infer)
    laid = lay_windows(grid, bundle)
    layer = laid.layers[part == "context"]
    _, *xy = (np.maximum(layer.windows[4], 0) * layer.input.factor).tolist()
    before = threading.active_count()
    what = "the context network" if part == "context" else "the network"
    with pytest.raises(
        SlideError, match=rf"array: {what} gave NaN or infinity for the window at x {xy[0]:g}, y {xy[1]:g} "
    ):
        DualRunner(chain, 2).run(grid, laid, Noting(), Watch())
    assert threading.active_count() == before
    chain.close()


@pytest.mark.parametrize("who", ["context", "fine", "the reader"])
def test_a_failure_of_any_thread_ends_all(bundle: Bundle, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, chain = noise(900, 800), open_chain(bundle)
    calls: list[str] = []

    def fail_in(what: str) -> None:
        calls.append(what)
        if what == who and calls.count(what) == 3:
            raise RuntimeError(f"{who} failed")

    for part in ("context", "fine"):
        backend = getattr(chain, part)

        def infer(inputs: Arrays, infer: Any = backend.infer, part: str = part) -> Arrays:
            fail_in(part)
            given: Arrays = infer(inputs)
            return given

        monkeypatch.setattr(backend, "infer", infer)

    def read(self: GridReader, *box: int, read: Any = GridReader.read) -> NDArray[np.uint8]:
        fail_in("the reader")
        given: NDArray[np.uint8] = read(self, *box)
        return given

    monkeypatch.setattr(GridReader, "read", read)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match=f"{who} failed"):
        DualRunner(chain, 2).run(grid, lay_windows(grid, bundle), Noting(), Watch())
    assert threading.active_count() == before
    chain.close()


def test_a_slide_without_tissue_needs_no_surroundings(bundle: Bundle, tmp_path: Path) -> None:
    grid, chain, watch, sink = noise(300, 300), open_chain(bundle), Watch(), Noting()
    DualRunner(chain, 2).run(grid, lay_windows(grid, bundle, np.zeros((3, 3), bool)), sink, watch)
    chain.close()
    assert sink.finished
    assert (sink.numbers, watch.contexts) == ([], 0)
