"""An engine that averages over what a shrunken face would leave out; wraps any other engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_extract.engines.base import Crops, Engine
from gpu_extract.kernels import antialias
from gpu_extract.patch import Patch


class AntialiasedEngine(Engine):
    """Crops that shrink are sampled at several points a pixel by the wrapped engine and averaged in integers.

    Patches must hold `kernels.antialias.source_region` of each crop. The result is as exact as the wrapped engine's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.device, self.inline = engine.name, engine.device, engine.inline
        self.implementation = f"{engine.implementation}, antialiased"
        self.batch_bytes = engine.batch_bytes

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        points = antialias.points_per_side(crops.crop_from_frame, crops.size)
        out = np.empty((len(crops), crops.size, crops.size, 3), np.uint8)
        for n in np.unique(points):
            chosen = np.flatnonzero(points == n)
            # Several points a pixel make images of up to 50 MB: one at a time.
            for part in [chosen] if n == 1 else np.split(chosen, len(chosen)):
                out[part] = self._warp_at(int(n), patches, crops, part)
        return out

    def _warp_at(self, n: int, patches: Sequence[Patch], crops: Crops, part: np.ndarray) -> np.ndarray:
        matrices = crops.crop_from_frame[part]
        if n == 1:
            return self._engine.warp(patches, Crops(crops.patch[part], matrices, crops.cubic[part], crops.size))
        fine = Crops(crops.patch[part], antialias.finer(matrices, n), crops.cubic[part], crops.size * n)
        return antialias.mean(self._engine.warp(patches, fine), n)

    def close(self) -> None:
        self._engine.close()
