"""A fixed part of a batch, as one job of many scores it: `--shard 3/16`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from glassrt.engine.errors import UsageError

Kind = TypeVar("Kind")
MOST = 100_000


class Shard(NamedTuple):
    """The `number`th of so many `parts`, from 1 on; of one part, the whole."""

    number: int = 1
    parts: int = 1

    @property
    def tag(self) -> str:
        """What its files' names have more than those of a whole batch."""
        return f"-{self.number}-of-{self.parts}" if self.parts > 1 else ""

    def take(self, whole: Sequence[Kind]) -> Sequence[Kind]:
        """Its part, by turns: long slides that follow each other are shared."""
        return whole[self.number - 1 :: self.parts]

    def file(self, out: Path, name: str) -> Path:
        """Its file of that name in the output folder."""
        path = out / name
        return path.with_name(f"{path.stem}{self.tag}{path.suffix}")


def parse_shard(text: str) -> Shard:
    """A part from `3/16`; UsageError for anything else."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]) <= MOST:
        raise UsageError(f"--shard {text}: expected a part and how many there are, as in 3/16")
    return Shard(int(found[1]), int(found[2]))


def check_parts(out: Path, name: str, shard: Shard) -> None:
    """Raise UsageError if a batch in the output folder, by its files of that `name`, was cut in other parts."""
    stem, suffix = Path(name).stem, Path(name).suffix
    for path in sorted(out.glob(f"{stem}*{suffix}")):
        found = re.fullmatch(r"-\d+-of-(\d+)", path.name.removeprefix(stem).removesuffix(suffix))
        count = int(found[1]) if found else 1
        if count != shard.parts:
            told = f"was cut in {count} parts" if count > 1 else "was scored as a whole"
            raise UsageError(f"{out}: what is here {told}; go on so, or choose another --out")
