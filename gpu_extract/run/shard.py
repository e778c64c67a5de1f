"""What one part of a divided run is called. No NumPy here: a service tells of shards and cuts none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Shard:
    """Part `number`, from 0, of `count`."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """From what `Settings` has checked: "2/7"."""
        number, _, count = text.partition("/")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
