"""What a batch does of what was named, beside what its journal says."""

import pytest

from glassrt.engine.production.entries import Entry
from glassrt.engine.production.journal import Row
from glassrt.engine.production.plan import plan_batch

ENTRY = Entry("a", "/s/a.svs", columns={"label": "1"})
DONE = Row("a", 9, "/s/a.svs", "done", 1, input="i", work="w", windows=7, columns={"label": "0"})


@pytest.mark.parametrize(
    ("known", "changes", "kind"),
    [
        (None, {}, "new"),
        (DONE, {}, "done"),
        (DONE, {"standing": frozenset()}, "changed"),
        (DONE, {"inputs": {"a": "other"}}, "changed"),
        (DONE._replace(input=""), {"inputs": {"a": ""}}, "changed"),
        (DONE, {"works": {"a": "other"}}, "otherwise"),
        (DONE._replace(address="/t/a.svs"), {}, "changed"),
        (DONE, {"force": True}, "otherwise"),
        (DONE._replace(state="failed"), {}, "failed"),
        (DONE._replace(state="waiting"), {}, "new"),
    ],
)
def test_what_is_done_with_the_same_is_skipped(known: Row | None, changes: dict, kind: str) -> None:
    given = {"inputs": {"a": "i"}, "works": {"a": "w"}, "standing": frozenset("a")} | changes
    plan = plan_batch([ENTRY], known={"a": known} if known else {}, **given)
    counts = plan._asdict()
    del counts["rows"]
    assert counts == {each: int(kind == each) for each in ("done", "failed", "changed", "otherwise", "new")}
    (row,) = plan.rows
    assert (row.place, row.address, row.columns) == (9 if known else 0, "/s/a.svs", {"label": "1"})
    assert (row.state, row.windows) == (("done", 7) if kind == "done" else ("waiting", 0))


def test_what_failed_alone_is_tried_where_that_is_asked() -> None:
    known = {"a": DONE, "b": DONE._replace(id="b", state="failed", error="broken")}
    entries = [ENTRY, ENTRY._replace(id="b"), ENTRY._replace(id="c")]
    every = dict.fromkeys("abc", "i")
    plan = plan_batch(entries, every, dict.fromkeys("abc", "w"), known, frozenset("ab"), failed_alone=True)
    assert [(row.id, row.state) for row in plan.rows] == [("b", "waiting")]
    assert (plan.done, plan.failed, plan.changed, plan.new) == (0, 1, 0, 0)
