"""How long machines take over much footage, by what one core was measured to do: a simulation, no hardware.

Every machine works on some shards at once. Its life ends by chance, and with it the shards that it had begun, as on a
bucket, where what is not stored yet is lost with the disk; another machine takes its place and the shards begin anew.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass
from typing import Any

ASSUMED = {
    "footage_hours": 10_000,
    "film_hours": 2,
    "frames_per_second": 25,
    "faces_per_frame": 1,
    "cores": 16,
    "gpu_frames_per_second": 2_000,
    "gpu_processes": 4,
    "disk_bytes_per_second": 1e9,
    "store_bytes_per_second": 20e9,
    "machine_bytes_per_second": 1e9,
    "new_machine_seconds": 180,
}
MACHINES = (1, 8, 64, 1_000)
LIVES = {"never": None, "24 h": 24 * 3600.0, "4 h": 4 * 3600.0}
"""Mean time until a machine is lost."""
DIVISIONS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Of a film, in shards."""
SEEDS = (1, 2, 3)
MANY_SHARDS = 100_000
"""Among so many, chance evens out in one go."""


@dataclass(frozen=True)
class Machine:
    """What one machine does in a second, by stage, and how many shards it has at once."""

    stages: dict[str, float]  # frames a second
    slots: int

    @property
    def frames_per_second(self) -> float:
        return min(self.stages.values())

    @property
    def limit(self) -> str:
        return min(self.stages, key=self.stages.__getitem__)


def machines(measured: dict[str, float], count: int) -> dict[str, Machine]:
    """The machine without and with a GPU that decodes, as one of `count`."""
    faces, cores = ASSUMED["faces_per_frame"], ASSUMED["cores"]
    read, face, rest = measured["read_1080p"], measured["face"], measured["frame_besides"]
    nbytes = measured["face_bytes"] * faces
    store = min(ASSUMED["machine_bytes_per_second"], ASSUMED["store_bytes_per_second"] / count)
    shared = {"disk": ASSUMED["disk_bytes_per_second"] / nbytes, "store": store / nbytes}
    interpreter = 1 / measured["interpreter"]
    slots = int(ASSUMED["gpu_processes"])
    return {
        "16 cores": Machine(
            {"cores": cores / (read + faces * face + rest), "interpreter": cores * interpreter, **shared}, int(cores)
        ),
        "16 cores, GPU decodes": Machine(
            {
                "GPU": ASSUMED["gpu_frames_per_second"],
                "cores": cores / (faces * face + rest),
                "interpreter": slots * interpreter,
                **shared,
            },
            slots,
        ),
    }


@dataclass(frozen=True)
class Outcome:
    seconds: float  # until the last shard is whole
    lost: float  # of all the work that was done, the part that was done in vain
    shards_lost: int


def simulate(shards: int, shard_seconds: float, count: int, slots: int, life: float | None, seed: int) -> Outcome:
    """Work through a queue of equal shards with machines that live for a time by chance."""
    if life is None:
        return Outcome(-(-shards // (count * slots)) * shard_seconds, 0.0, 0)
    chance = random.Random(seed)
    births = [0.0] * count
    deaths = [chance.expovariate(1 / life) for _ in range(count)]
    generation = [0] * count
    waiting, idle = shards, deque[tuple[int, int]]()
    lost_seconds, shards_lost, end = 0.0, 0, 0.0
    # time, kind (a shard is back before somebody asks for one), machine, generation of the machine
    events: list[tuple[float, int, int, int]] = [(0.0, 1, m, 0) for m in range(count) for _ in range(slots)]
    heapq.heapify(events)
    while events:
        now, kind, m, of = heapq.heappop(events)
        if kind == 0:
            waiting += 1
            if idle:
                m, of = idle.popleft()
            else:
                continue
        if not waiting:
            idle.append((m, of))
            continue
        if of == generation[m] and now >= deaths[m]:  # it died while it had nothing to do, or at its last moment
            _renew(m, births, deaths, generation, chance, life)
        if of != generation[m]:
            of = generation[m]
            if births[m] > now:
                heapq.heappush(events, (births[m], 1, m, of))
                continue
        waiting -= 1
        if now + shard_seconds <= deaths[m]:
            end = max(end, now + shard_seconds)
            heapq.heappush(events, (now + shard_seconds, 1, m, of))
        else:
            lost_seconds += deaths[m] - now
            shards_lost += 1
            heapq.heappush(events, (deaths[m], 0, m, of))
            heapq.heappush(events, (deaths[m], 1, m, of))
    return Outcome(end, lost_seconds / (lost_seconds + shards * shard_seconds), shards_lost)


def _renew(
    m: int, births: list[float], deaths: list[float], generation: list[int], chance: random.Random, life: float
) -> None:
    births[m] = deaths[m] + ASSUMED["new_machine_seconds"]
    deaths[m] = births[m] + chance.expovariate(1 / life)
    generation[m] += 1


def divided(
    measured: dict[str, float], machine: Machine, count: int, division: int, life: float | None
) -> dict[str, float]:
    """All the footage, every film in so many shards."""
    film_frames = ASSUMED["film_hours"] * 3600 * ASSUMED["frames_per_second"]
    films = round(ASSUMED["footage_hours"] / ASSUMED["film_hours"])
    overhead = measured["start"] + measured["look_through"] * film_frames
    work = film_frames / division / (machine.frames_per_second / machine.slots)
    runs = [
        simulate(films * division, overhead + work, count, machine.slots, life, seed)
        for seed in (SEEDS if films * division < MANY_SHARDS else SEEDS[:1])
    ]
    merge = measured["start"] + measured["merge_per_face"] * film_frames * ASSUMED["faces_per_frame"]
    lasts = merge * max(1.0, films / (count * ASSUMED["cores"]))  # after the last shards, a core a film
    return {
        "hours": (sum(run.seconds for run in runs) / len(runs) + lasts) / 3600,
        "lost_percent": 100 * sum(run.lost for run in runs) / len(runs),
        "overhead_percent": 100 * overhead / (overhead + work),
        "shard_minutes": (overhead + work) / 60,
    }


def simulation(measured: dict[str, float]) -> list[dict[str, Any]]:
    """A row for every kind of machine, number of them, and life."""
    rows = []
    for count in MACHINES:
        for kind, machine in machines(measured, count).items():
            for life, mean in LIVES.items():
                tried = {division: divided(measured, machine, count, division, mean) for division in DIVISIONS}
                best = min(DIVISIONS, key=lambda division: (round(tried[division]["hours"], 4), division))
                least = tried[best]["hours"]
                good = [division for division in DIVISIONS if tried[division]["hours"] <= 1.05 * least]
                rows.append(
                    {
                        "machines": count,
                        "kind": kind,
                        "lost_after": life,
                        "frames_per_second": round(machine.frames_per_second),
                        "limit": machine.limit,
                        "best_division": best,
                        "within_5_percent": [good[0], good[-1]],
                        "hours": round(least, 3),
                        "by_division": {
                            str(division): {name: round(value, 3) for name, value in one.items()}
                            for division, one in tried.items()
                        },
                    }
                )
    return rows
