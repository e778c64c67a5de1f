"""An engine that averages over what a shrunken face would leave out; wraps any other engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from gpu_extract.engines.base import Crops, Engine, Ticket
from gpu_extract.errors import DeviceError
from gpu_extract.kernels import antialias
from gpu_extract.patch import Patch


class AntialiasedEngine(Engine):
    """Crops that shrink are sampled at several points a pixel by the wrapped engine and averaged in integers.

    Patches must hold `kernels.antialias.source_region` of each crop. The result is as exact as the wrapped engine's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.device, self.inline = engine.name, engine.device, engine.inline
        self.takes_surfaces = engine.takes_surfaces
        self.implementation = f"{engine.implementation}, antialiased"

    @property
    def batch_bytes(self) -> int:  # type: ignore[override]  # nobody but the engine itself sets it
        """The wrapped engine's at this moment: it makes its batches smaller when memory runs out."""
        return self._engine.batch_bytes

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        return self._collected(patches, crops, _parts(crops), None)

    def submit(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        """The first part is on its way at once, beside other batches; the others follow when the result is asked for.

        Until then a batch holds one of the wrapped engine's slots, as any other batch does; then also those that are
        free, so that its parts overlap, but it waits for none that only its own result would free.
        """
        parts = _parts(crops)
        first = self._begun(patches, crops, *parts[0]) if parts else None
        return _Averaged(partial(self._collected, patches, crops, parts, first))

    def close(self) -> None:
        self._engine.close()

    def has_room(self) -> bool:
        return self._engine.has_room()

    def _begun(self, patches: Sequence[Patch], crops: Crops, n: int, part: np.ndarray) -> Ticket:
        matrices, size = crops.crop_from_frame[part], crops.size
        if n > 1:
            matrices, size = antialias.finer(matrices, n), size * n
        used, patch = np.unique(crops.patch[part], return_inverse=True)
        return self._engine.submit([patches[i] for i in used], Crops(patch, matrices, crops.cubic[part], size))

    def _collected(
        self, patches: Sequence[Patch], crops: Crops, parts: list[tuple[int, np.ndarray]], first: Ticket | None
    ) -> np.ndarray:
        """All crops; `first` is the ticket of the first part, where it was begun."""
        out = np.empty((len(crops), crops.size, crops.size, 3), np.uint8)
        begun = deque([] if first is None else [first])
        ahead = iter(parts[len(begun) :])
        try:
            for n, part in parts:
                while (not begun or self._engine.has_room()) and (following := next(ahead, None)) is not None:
                    begun.append(self._begun(patches, crops, *following))
                fine = begun[0].result()
                out[part] = fine if n == 1 else antialias.mean(fine, n)
                begun.popleft().release()
        finally:
            for ticket in begun:
                with suppress(DeviceError):  # whatever failed is on its way to the caller
                    ticket.result()  # or the device might still write where the next batch goes
                ticket.release()
        return out


class _Averaged(Ticket):
    def __init__(self, collect: Callable[[], np.ndarray]) -> None:
        self._collect: Callable[[], np.ndarray] | None = collect
        self._crops: np.ndarray | None = None

    def result(self) -> np.ndarray:
        if self._collect is not None:
            self._crops = self._collect()
            self._collect = None  # which holds the patches
        assert self._crops is not None
        return self._crops


def _parts(crops: Crops) -> list[tuple[int, np.ndarray]]:
    """Which crops [k] go through the wrapped engine together, and with how many points a side of a pixel.

    Several points a pixel make images of up to 50 MB, so these go one by one, after the plain ones.
    """
    points = antialias.points_per_side(crops.crop_from_frame, crops.size)
    plain = np.flatnonzero(points == 1)
    fine = [(int(points[k]), np.array([k])) for k in np.flatnonzero(points > 1)]
    return [(1, plain), *fine] if len(plain) else fine
