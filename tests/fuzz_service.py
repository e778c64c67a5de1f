"""The service against its own description: schemathesis asks whatever `/v1/openapi.json` allows, and what it does not.

`python -m tests.fuzz_service SECONDS` fails for an answer of 500, for one that the description does not have, and for
whatever else schemathesis can tell from it. `make fuzz-service` installs what it needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import schemathesis

from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.service.access import Tokens
from tests.helpers import write_clip
from tests.serving import Service

CONFIGURATION = Path(__file__).with_suffix(".toml")
FRAMES = 20


def as_bytes(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def of_lines(context: Any, response: Any) -> Any:
    return [json.loads(line) for line in response.content.splitlines()]


def filter_case(context: Any, case: Any) -> bool:
    """Not those that are wrong for a header that nobody knows: HTTP allows any."""
    return "x-schemathesis-unknown-property" not in (case.headers or {})


schemathesis.serializer("application/offset+octet-stream")(as_bytes)
schemathesis.deserializer("application/x-ndjson")(of_lines)
schemathesis.hook(filter_case)


def main(seconds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root, data = Path(folder) / "root", Path(folder) / "data"
        root.mkdir()
        data.mkdir()
        write_clip(root / "clip.mp4", FRAMES, (240, 320))
        angles = np.linspace(0, 6, 68)
        landmarks = np.stack([160 + 50 * np.cos(angles), 120 + 60 * np.sin(angles)], axis=1).astype(np.float32)
        face = face_record(landmarks)
        write_alignments(root / "clip.fsa", {f"clip_{number + 1:06d}.png": [face] for number in range(FRAMES)})
        said = {"Authorization": f"Bearer {Tokens.make(data / 'tokens.toml', 'anna', ['admin'])}"}
        with Service(data, {"root": root}, ("--devices=cpu,cpu",)).start() as service:
            assert service.process is not None
            assert service.process.stderr is not None
            threading.Thread(target=sys.stderr.writelines, args=(service.process.stderr,), daemon=True).start()
            job = {"alignments": {"root": "root", "path": "clip.fsa"}, "frames": {"root": "root", "path": "clip.mp4"}}
            assert service.ask("PUT", "/v1/jobs/clip", job, said).status == 201
            url = f"http://127.0.0.1:{service.port}/v1/openapi.json"
            words = ["--config-file", str(CONFIGURATION), "run", url, "--max-time", str(seconds)]
            return subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "schemathesis.cli",
                    *words,
                    "--header",
                    f"Authorization: {said['Authorization']}",
                ],
                env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz_service"},
            ).returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
