"""What a batch has to do of what was named, beside what the journal says is done."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from glassrt.engine.production.entries import Entry
from glassrt.engine.production.journal import Row


class Plan(NamedTuple):
    """The rows of all slides that were named, as the journal is to have them, and how many of each kind there are:
    `done` ones are skipped, `failed` ones tried again, scored anew those whose file is `changed` or that were scored
    `otherwise`, with another bundle or options; `new` ones were not known, or not begun.
    """

    rows: tuple[Row, ...]
    done: int = 0
    failed: int = 0
    changed: int = 0
    otherwise: int = 0
    new: int = 0


def plan_batch(
    entries: Sequence[Entry],
    inputs: Mapping[str, str],
    works: Mapping[str, str],
    known: Mapping[str, Row],
    standing: frozenset[str],
    force: bool = False,
    failed_alone: bool = False,
) -> Plan:
    """What to do of `entries`, whose files and work are identified by `inputs` and `works`, by their ids.

    `known` are the journal's rows, `standing` the ids of which results stand. With `force` all is scored anew, with
    `failed_alone` nothing but what failed before.
    """
    rows, counts = [], dict.fromkeys(("done", "failed", "changed", "otherwise", "new"), 0)
    last = max((row.place for row in known.values()), default=-1)
    for number, entry in enumerate(entries, 1):
        older = known.get(entry.id)
        fresh = Row(
            entry.id, older.place if older else last + number, entry.place, "waiting", input=inputs[entry.id],
            work=works[entry.id], columns=entry.columns,
        )  # fmt: skip
        kind = tell_kind(older, fresh, entry.id in standing, force)
        if older and kind == "failed":
            fresh = fresh._replace(reason=older.reason)  # by which it is known until it is done
        if failed_alone and kind != "failed":
            continue
        counts[kind] += 1
        rows.append(older._replace(columns=entry.columns) if kind == "done" and older else fresh)
    return Plan(tuple(rows), **counts)


def tell_kind(older: Row | None, fresh: Row, stands: bool, force: bool) -> str:
    """What became of a slide before: a field of `Plan`."""
    if older is None:
        return "new"
    if older.state != "done":
        return "failed" if older.state == "failed" or older.reason else "new"
    if (older.address, older.input) != (fresh.address, fresh.input) or not fresh.input or not stands:
        return "changed"
    return "otherwise" if older.work != fresh.work or force else "done"
