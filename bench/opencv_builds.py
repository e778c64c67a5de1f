"""Whether two builds of OpenCV – opencv-python, opencv-python-headless – give the same bytes where we call them.

    python bench/opencv_builds.py PYTHON OTHER_PYTHON      # of two environments that differ in that

Each environment draws the same pictures, writes, reads, samples and converts them, and prints a digest of each result.
Exits 1 where one differs.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VECTORS = Path(__file__).parent.parent / "tests" / "vectors"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def results() -> Iterator[tuple[str, bytes]]:
    """A name and the bytes of each thing that OpenCV is asked for."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(20)
    noise = rng.integers(0, 256, (211, 307, 3), np.uint8)
    smooth = cv2.GaussianBlur(cv2.resize(noise, (1280, 720), interpolation=cv2.INTER_CUBIC), (0, 0), 3)
    for name, picture in (("noise", noise), ("smooth", smooth)):
        yield f"drawn {name}", picture.tobytes()
        deep = picture.astype(np.uint16) * 257
        for kind, source, words in [
            *((f"png {level}", picture, (".png", [cv2.IMWRITE_PNG_COMPRESSION, level])) for level in range(10)),
            ("png16", deep, (".png", [])),
            ("png grey", picture[:, :, 0].copy(), (".png", [])),
            ("png alpha", np.dstack([picture, picture[:, :, :1]]), (".png", [])),
            *((f"jpeg {quality}", picture, (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])) for quality in (10, 75, 100)),
            *(
                (f"webp {quality}", picture, (".webp", [cv2.IMWRITE_WEBP_QUALITY, quality]))
                for quality in (10, 75, 101)
            ),
            ("tiff", picture, (".tiff", [])),
            ("tiff16", deep, (".tiff", [])),
            ("bmp", picture, (".bmp", [])),
        ]:
            written = cv2.imencode(words[0], source, words[1])[1]
            yield f"{name} {kind} written", written.tobytes()
            for way in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE, cv2.IMREAD_REDUCED_COLOR_2):
                yield f"{name} {kind} read {way}", cv2.imdecode(written, way).tobytes()
        for way in (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA):
            for size in (64, 97, 256, 512):
                for turn in range(12):
                    matrix = cv2.getRotationMatrix2D((150.3, 101.7), 30.5 * turn, 0.4 + 0.2 * turn)
                    yield (
                        f"{name} warp {way} {size} {turn}",
                        cv2.warpAffine(picture, matrix, (size, size), flags=way).tobytes(),
                    )
                yield f"{name} resize {way} {size}", cv2.resize(picture, (size, size), interpolation=way).tobytes()
    for path in sorted(path for path in VECTORS.rglob("*") if path.suffix.lower() in PICTURES):
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for way in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED):
            read = cv2.imdecode(data, way)
            yield f"{path.relative_to(VECTORS)} read {way}", b"none" if read is None else read.tobytes()


def main() -> int:
    if len(sys.argv) != 3:
        import cv2

        print(json.dumps([cv2.__version__, {name: hashlib.sha256(data).hexdigest() for name, data in results()}]))
        return 0
    said = [subprocess.run([python, __file__], capture_output=True, check=True).stdout for python in sys.argv[1:]]
    (version, one), (other_version, other) = map(json.loads, said)
    different = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    print(f"OpenCV {version} and {other_version}: {len(one) - len(different)} of {len(one)} results equal")
    print(*sorted(different), sep="\n", end="")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
