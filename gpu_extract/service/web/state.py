"""Whether the service lives and works, what it counts, its devices, roots and options."""

from __future__ import annotations

import shutil
import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from gpu_extract import __version__
from gpu_extract.service.office import Office
from gpu_extract.service.requests import InRoot, described, listed, open_options
from gpu_extract.service.table import ENDED, OPEN
from gpu_extract.service.uploads import Uploads
from gpu_extract.service.web.answers import OPEN as FOR_ALL
from gpu_extract.service.web.answers import sent, told
from gpu_extract.service.web.documents import Alive, Devices, Entries, Options, Readiness, Roots
from gpu_extract.service.web.jobs import Reader

MOST_LISTED = 10_000


def router(office: Office, uploads: Uploads) -> APIRouter:
    """The routes of one office and its uploads."""
    routes = APIRouter(tags=["state"])

    @routes.get("/healthz", openapi_extra=FOR_ALL, **told(Alive))
    async def healthz() -> dict[str, str]:
        """200 while the service answers at all."""
        return {"status": "alive", "version": __version__}

    @routes.get("/readyz", openapi_extra=FOR_ALL, **told(Readiness, statuses=(200, 503)))
    def readyz() -> JSONResponse:
        """200 where a job that comes now will be cut; else 503 and the reasons."""
        faults = office.faults()
        return JSONResponse({"ready": not faults, "reasons": faults}, status_code=503 if faults else 200)

    @routes.get("/v1/devices", **told(Devices))
    def devices(who: Reader) -> dict[str, Any]:
        """Where faces are cut, what runs there, and what keeps one from working."""
        rows = [
            {"name": lane.name, "kinds": lane.kinds, "busy": lane.running is not None, "fault": lane.fault}
            for lane in office.lanes
        ]
        disk = shutil.disk_usage(office.data.path)
        return {"devices": rows, "disk_free_bytes": disk.free, "jobs": office.table.counts()}

    @routes.get("/v1/options", **told(Options))
    def options(who: Reader) -> dict[str, Any]:
        """The options that a job may set."""
        return {"options": [described(row) for row in open_options()]}

    @routes.get("/v1/roots", **told(Roots))
    def roots(who: Reader) -> dict[str, Any]:
        """The names of the folders that jobs may name files of."""
        return {"roots": sorted(office.roots)}

    @routes.get("/v1/roots/{root}", **told(Entries))
    @routes.get("/v1/roots/{root}/{path:path}", **told(Entries))
    def in_root(root: str, who: Reader, path: str = "") -> dict[str, Any]:
        """What a root's folder holds."""
        entries = listed(InRoot.model_construct(root=root, path=path or "."), office.roots, MOST_LISTED)
        return {"entries": entries, "more": len(entries) == MOST_LISTED}

    @routes.get("/metrics", **sent("text/plain"))
    def metrics(who: Reader) -> Response:
        """Counters for Prometheus."""
        meters, lanes = office.meters, office.lanes
        oldest = office.table.oldest_queued()
        counts = office.table.counts()
        meters.set("jobs", "Jobs, by state.", "state", [(state, counts.get(state, 0)) for state in (*OPEN, *ENDED)])
        meters.set("uploaded_bytes", "That came since the service began.", None, [("", uploads.received)])
        age = 0.0 if oldest is None else time.time() - oldest
        meters.set("queue_oldest_seconds", "Age of the oldest job that waits.", None, [("", age)])
        meters.set("device_up", "Whether it takes work.", "device", [(lane.name, lane.fault is None) for lane in lanes])
        busy = [(lane.name, lane.busy_seconds) for lane in lanes]
        meters.set("device_busy_seconds", "That something ran there.", "device", busy)
        free = shutil.disk_usage(office.data.path).free
        meters.set("disk_free_bytes", "Of the data folder.", None, [("", free)])
        return Response(meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
