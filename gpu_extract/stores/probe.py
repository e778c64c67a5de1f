"""Whether a store keeps its word: what is to be put only where nothing is, or over one version, goes nowhere else."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass

from gpu_extract.errors import GpuExtractError, OutputError
from gpu_extract.naming import Url
from gpu_extract.stores.base import Store

NAME = ".gpu-extract.probe-"


@dataclass(frozen=True)
class Conditions:
    """Which conditions a store was seen to honour."""

    creates: bool
    """It does not put over what is there, where it is asked not to (`If-None-Match: *`)."""
    matches: bool
    """It does not put over a version that has changed (`If-Match`)."""

    @property
    def all(self) -> bool:
        return self.creates and self.matches

    def __str__(self) -> str:
        words = {True: "honoured", False: "ignored"}
        return f"create-only (If-None-Match) {words[self.creates]}, unchanged-only (If-Match) {words[self.matches]}"


def probe(store: Store, url: Url) -> Conditions:
    """Try with an object of a name of its own, which is removed.

    Raises:
        GpuExtractError: if the store cannot be reached, or lets nothing be written there.
    """
    key = url.below(f"{NAME}{secrets.token_hex(8)}").key
    try:
        first = store.create(key, b"1")
        if first is None:
            return Conditions(creates=False, matches=False)
        creates = store.create(key, b"2") is None
        found = store.read(key)
        current = first if found is None else found[1].version
        second = store.replace(key, b"3", current)
        matches = second is not None and second != current and store.replace(key, b"4", current) is None
        return Conditions(creates, matches and _content(store, key) == b"3")
    finally:
        with suppress(GpuExtractError):
            store.remove(key)


def _content(store: Store, key: str) -> bytes | None:
    found = store.read(key)
    return None if found is None else found[0]


def require(store: Store, url: Url) -> None:
    """Refuse to work where something might be overwritten that came up meanwhile.

    Raises:
        OutputError: if the store ignores a condition.
    """
    found = probe(store, url)
    if not found.all:
        raise OutputError(
            f"nothing is written to {url}, whose endpoint may overwrite what others put there ({found}): "
            "take one that honours conditional puts, or work on a path of this machine."
        )
