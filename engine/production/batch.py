"""Many slides into one folder: a journal of each, workers that may die, one summary; a rerun does what is left."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.errors import FolderTaken, UsageError
from glassrt.engine.files import is_same_file, prepare_folder
from glassrt.engine.production.ahead import Ahead
from glassrt.engine.production.claim import claim_folder
from glassrt.engine.production.entries import Entry
from glassrt.engine.production.executor import Executor
from glassrt.engine.production.identity import identify_input, identify_work
from glassrt.engine.production.journal import JOURNAL, Journal, Row, open_journal, read_journals
from glassrt.engine.production.lead import Settings, Watcher, lead
from glassrt.engine.production.names import check_folders, is_unicode
from glassrt.engine.production.parts import Shard, check_parts
from glassrt.engine.production.places import is_address
from glassrt.engine.production.plan import Plan, plan_batch
from glassrt.engine.production.table import Table
from glassrt.engine.production.wire import Failed, Lost, Order, Setup
from glassrt.engine.results.figures import Result
from glassrt.engine.results.origin import RESULT, read_stored
from glassrt.engine.results.summary import SUMMARY, Outcome
from glassrt.engine.runtimes.choose import choose, choose_batch
from glassrt.engine.slides.tissue.annotations import AUTO, check_tissue
from glassrt.engine.staging import clear_left

LOOKING = 16  # threads that ask what lies elsewhere
More = Callable[["Batch"], Mapping[str, Order]]


class Options(NamedTuple):
    """How every slide of a batch is scored, and which: with `force` all anew, with `failed_alone` what failed before,
    of a `shard` its part.

    `backend`, `precision` and `batch` are as of `open_backend`; `mpp` replaces what the files say, `map_mpp` the map's
    pixel size; `tissue` is `auto`, `all`, the path of a mask, or a folder of masks named like the slides.
    """

    bundle: Path
    setup: Setup
    backend: str = "auto"
    precision: str = "auto"
    batch: int | None = None
    mpp: float | None = None
    map_mpp: float | None = None
    tissue: str = AUTO
    force: bool = False
    failed_alone: bool = False
    attempts: int = 2
    shard: Shard = Shard()


class Ended(NamedTuple):
    """What a batch came to: the journal's rows of its slides, whether all were tried, and what there was to do."""

    rows: Sequence[Row]
    finished: bool
    plan: Plan


class Batch:
    """A batch in its output folder, which is this process's while it runs."""

    def __init__(self, entries: Sequence[Entry], out: Path, options: Options) -> None:
        """Raises UsageError, FolderTaken, BackendUnavailable or BundleError for what could not be scored at all."""
        self.entries, self.out, self.options = options.shard.take(entries), out, options
        if not is_unicode(os.path.abspath(out)):
            raise UsageError(f"{str(out)!r}: the name is no valid UTF-8, which result files need; choose another --out")
        check_tissue(options.tissue, [Path(entry.address) for entry in self.entries])
        if (out / RESULT).is_file():
            raise FolderTaken(f"{out} is the folder of one slide's result; choose another --out")
        check_parts(out, JOURNAL, options.shard)
        self.journal, table = (options.shard.file(out, name) for name in (JOURNAL, SUMMARY))
        if os.path.lexists(table) and not (table.is_file() and (self.journal.exists() or read_journals(out))):
            raise FolderTaken(f"{table} is there without a journal, or no file: it is no batch's; choose another --out")
        named = dict.fromkeys([str(options.bundle), *(entry.bundle for entry in self.entries if entry.bundle)])
        self.bundles = {each: open_bundle(Path(each)) for each in named}
        self._chosen = {each: choose_runtime(bundle, options) for each, bundle in self.bundles.items()}
        self._rows: dict[str, Row] = {}
        self._orders: dict[str, Order] = {}
        self._ahead = Ahead(options.setup)

    def run(
        self, open_executor: Callable[[], Executor], watcher: Watcher, told: Callable[[Plan], None],
        stopped: Callable[[], bool] = lambda: False, more: More | None = None,
    ) -> Ended:  # fmt: skip
        """Score what is not done. `told` is given the plan before anything is scored. With `more`, which may `add`
        slides, it runs until it is `stopped`.

        Raises UsageError where another batch has the folder, FolderTaken for what must not be replaced, and OutputError
        where nothing can be written.
        """
        prepare_folder(self.out)
        with claim_folder(self.out, self.options.shard.tag), open_journal(self.journal) as journal:
            self._rows = {row.id: row for row in journal.rows()}
            plan, orders = self._add(self.entries, journal)
            told(plan)
            figures = [bundle.segmentation for bundle in self.bundles.values()]
            table = Table(self.options.shard.file(self.out, SUMMARY), self.out, list(self._rows.values()), figures)
            seen = Seen(watcher, lambda order, outcome: table.put(self._rows[order.id], outcome))
            finished = True
            if orders or more:
                asked = (lambda: more(self)) if more else None
                self.add = lambda entries: self._add(entries, journal)
                settings = Settings(self.options.attempts, stopped, self._ahead.come, asked)
                try:
                    finished = lead(orders, open_executor(), journal, self._read, seen, settings)
                finally:
                    clear_left(self.out)  # of what workers were at that were ended
            table.write()
            mine = [row for row in journal.rows() if row.id in self._orders]
        return Ended(mine, finished, plan)

    add: Callable[[Sequence[Entry]], tuple[Plan, Mapping[str, Order]]]  # more slides, while the batch runs

    @property
    def ids(self) -> dict[str, str]:
        """What slides are called, by where they lie."""
        return {row.address: row.id for row in self._rows.values()}

    def outcome(self, row: Row) -> Outcome:
        """What became of a slide."""
        order = self._orders.get(row.id)
        result = read_stored(self.out / row.id, Result) if row.state == "done" else None
        return Outcome(order.path if order else row.address, result, row.error)

    def _add(self, entries: Sequence[Entry], journal: Journal) -> tuple[Plan, Mapping[str, Order]]:
        """Plan slides and put them into the journal. Raises FolderTaken."""
        orders = {entry.id: self._order(entry) for entry in entries}
        plan = self._plan(entries, orders)
        waiting = [row for row in plan.rows if row.state == "waiting"]
        check_folders(self.out, waiting)
        journal.lay(plan.rows)
        self._rows |= {row.id: row for row in plan.rows}
        self._orders |= orders
        return plan, {row.id: orders[row.id] for row in waiting}

    def _order(self, entry: Entry) -> Order:
        options, bundle = self.options, entry.bundle or str(self.options.bundle)
        backend, precision, batch = self._chosen[bundle]
        return Order(
            id=entry.id, path=entry.address, folder=str(self.out / entry.id), bundle=bundle,
            identity=self.bundles[bundle].sha256, backend=backend, precision=precision, batch=batch,
            mpp=entry.mpp or options.mpp, map_mpp=options.map_mpp, tissue=options.tissue,
            own=bool(entry.mpp or entry.bundle),
        )  # fmt: skip

    def _plan(self, entries: Sequence[Entry], orders: Mapping[str, Order]) -> Plan:
        far = [entry.address for entry in entries if is_address(entry.address)]
        with ThreadPoolExecutor(LOOKING) as pool:
            found = dict(zip(far, pool.map(identify_input, far), strict=True))
        inputs = {
            entry.id: found[entry.address] if entry.address in found else identify_input(entry.address)
            for entry in entries
        }
        works = {id: identify_work(self.options.setup, order) for id, order in orders.items()}
        standing = frozenset(id for id, order in orders.items() if id in self._rows and self._stands(order))
        options = self.options
        return plan_batch(entries, inputs, works, self._rows, standing, options.force, options.failed_alone)

    def _stands(self, order: Order) -> bool:
        """Whether a whole result of this very slide lies in its folder."""
        found = self._read(order).result
        origin = str(found.slide.get("file") or "") if found else ""
        return origin == order.path or bool(origin and is_same_file(origin, order.path))

    def _read(self, order: Order) -> Outcome:
        return Outcome(order.path, read_stored(Path(order.folder), Result))


def choose_runtime(bundle: Bundle, options: Options) -> tuple[str, str, int]:
    """The runtime, precision and windows a call that all workers use. As `choose`."""
    name, precision = choose(bundle, options.backend, options.precision)
    return name, precision, options.batch or choose_batch(bundle, name, precision)


class Seen:
    """A `Watcher` that also takes note of what came of each slide."""

    def __init__(self, watcher: Watcher, note: Callable[[Order, Outcome], None]) -> None:
        self.begin, self.advance, self._watcher, self._note = watcher.begin, watcher.advance, watcher, note

    def end(self, order: Order, outcome: Outcome | None, failure: Failed | Lost | None, again: bool) -> None:
        """As `Watcher.end`."""
        if not again:
            self._note(order, outcome or Outcome(order.path, error=failure.error if failure else ""))
        self._watcher.end(order, outcome, failure, again)
