"""`health`: whether a server is ready, in one line, as a container's runtime asks every few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpu_extract.client.server import CutError, Server, read_whole
from gpu_extract.errors import GpuExtractError

TIMEOUT_SECONDS = 3.0
MOST_ANSWER = 1 << 16


@dataclass(frozen=True)
class Health:
    """Whether a job that comes now would be cut, and what is in the way."""

    ready: bool
    reasons: tuple[str, ...]

    @property
    def line(self) -> str:
        return "ready" if self.ready else f"not ready: {', '.join(self.reasons) or 'no reason given'}"


def health(url: str) -> Health:
    """Ask a server once.

    Raises:
        UsageError: for an address that cannot be one.
    """
    server = Server(url)
    try:
        with server.stream("GET", "/readyz", allowed=(503,), timeout=TIMEOUT_SECONDS) as found:
            from json import loads

            said: Any = loads(read_whole(found, MOST_ANSWER))
            if not isinstance(said, dict) or not isinstance(said.get("reasons"), list):
                return Health(False, ("the answer is not gpu-extract's",))
            return Health(said.get("ready") is True and found.status == 200, tuple(map(str, said["reasons"])))
    except ValueError:
        return Health(False, ("the answer is not gpu-extract's",))
    except (CutError, GpuExtractError) as error:
        return Health(False, (str(error).removesuffix("."),))
    finally:
        server.close()
