"""Whether a CUDA device decodes to the bytes of the CPU: whole runs of `--decoder cuda` and of `--decoder cpu`.

    python bench/decoders.py                    cartoon clips of H.264, HEVC and VP9, of several colours and depths
    python bench/decoders.py CLIP FILE          a video of one's own, and its alignments file

Prints a line a clip. Exit code 0: whatever the device decoded was equal in every byte, and it decoded something; 1: a
byte differs, or nothing could be decoded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from gpu_extract.demo.clip import HEIGHT, WIDTH, draw_frames, face_record, write_alignments

X265 = {"preset": "fast", "x265-params": "log-level=none"}
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("mp4", "libx264", {"preset": "veryfast", "bf": "3"}),
    "h264, BT.709, full": ("mp4", "libx264", {"x264-params": "colormatrix=bt709:fullrange=on"}),
    "h264, groups of 12": ("mkv", "libx264", {"preset": "veryfast", "g": "12"}),
    "hevc": ("mp4", "libx265", X265),
    "hevc, BT.2020": ("mkv", "libx265", X265 | {"x265-params": "log-level=none:colormatrix=bt2020nc"}),
    "hevc, 10 bits": ("mp4", "libx265", X265),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
}


SKIPS = ("-een", "37")
"""Of the frames of groups of 12: whole groups are left out, so that a device's decoder is flushed and begun again."""


def clips(folder: Path) -> Iterator[tuple[str, Path, Path, tuple[str, ...]]]:
    """Name, video, alignments file and options of each kind."""
    pictures = [*draw_frames()]
    for number, (name, (extension, codec, options)) in enumerate(KINDS.items()):
        video = folder / f"clip{number}.{extension}"
        with av.open(str(video), "w") as container:
            stream: Any = container.add_stream(codec, rate=24, options=options)
            stream.height, stream.width = HEIGHT, WIDTH
            stream.pix_fmt = "yuv420p10le" if "10 bits" in name else "yuv420p"
            for picture, _ in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode(None))
        file = folder / f"clip{number}.fsa"
        faces = enumerate((shown for _, shown in pictures), 1)
        write_alignments(
            file, {f"{video.stem}_{n:06d}.png": [face_record(face) for face in shown] for n, shown in faces}
        )
        yield name, video, file, ()
        if "groups" in name:
            yield f"{name}, in parts", video, file, SKIPS


def run(video: Path, file: Path, faces: Path, *options: str) -> tuple[int, str, dict[str, bytes]]:
    """Exit code, the last line that it said, and the face files."""
    command = [sys.executable, "-m", "gpu_extract", "extract", "-a", str(file), "-fr", str(video), "-fc", str(faces)]
    command += ["--no-update", "--progress", "none", "--json", str(faces.with_suffix(".json")), *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (ended.stderr.strip().splitlines() or [""])[-1].removeprefix("gpu-extract: ")
    return ended.returncode, said, {path.name: path.read_bytes() for path in faces.glob("*.png")}


def compare(name: str, video: Path, file: Path, folder: Path, device: str, options: tuple[str, ...]) -> bool | None:
    """Whether both decoders gave the same files; None where the device did not decode it. The folder is for this."""
    faces = folder / f"{video.stem}-by-cpu"
    code, said, right = run(video, file, faces, "--device", "cpu", "--decoder", "cpu", *options)
    if code not in (0, 4):
        raise SystemExit(f"decoders: {name}: the run on the CPU ended with {code}: {said}")
    faces = folder / f"{video.stem}-by-device"
    other_code, said, found = run(video, file, faces, "--device", device, "--decoder", "cuda", *options)
    if other_code == 5:
        print(f"{name}: not decoded there: {said}")
        return None
    unequal = [key for key in right.keys() | found.keys() if right.get(key) != found.get(key)]
    reports = [json.loads((folder / f"{video.stem}-by-{which}.json").read_text()) for which in ("cpu", "device")]
    rates = [report["frames_per_second"] for report in reports]
    print(
        f"{name}: {len(unequal)} of {len(right)} files differ, exit codes {code} and {other_code}; "
        f"{rates[0]:.0f} frames/s by the CPU, {rates[1]:.0f} by the device"
    )
    return not unequal and code == other_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("file", nargs="?", type=Path, help="its alignments file")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    if (given.clip is None) != (given.file is None):
        parser.error("a clip needs its alignments file")
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        asked = clips(folder) if given.clip is None else iter([(given.clip.name, given.clip, given.file, ())])
        verdicts = []
        for number, (name, video, file, options) in enumerate(asked):
            own = folder / str(number)
            own.mkdir()
            verdicts.append(compare(name, video, file, own, given.device, options))
    return 0 if any(verdicts) and False not in verdicts else 1


if __name__ == "__main__":
    sys.exit(main())
