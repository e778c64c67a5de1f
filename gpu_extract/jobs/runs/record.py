"""What a folder's journal says of its faces, beside an alignments file that may have changed since."""

from __future__ import annotations

from pathlib import Path

from gpu_extract.face_files.layout import Layout
from gpu_extract.jobs.runs.prepare import Prepared
from gpu_extract.naming import face_extension
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES, digest
from gpu_extract.tasks import FaceResult, FrameTask


class Record:
    """What the run's journal says of the faces.

    Where the alignments file is still the run's, faces are known by their rows. Where it is not, rows have shifted with
    every face that was taken out or added, and positions with every image, so a face is known by its file's name.
    """

    def __init__(self, folder: Path, made: Prepared, layout: Layout) -> None:
        run = journal.read(folder)
        self._same_file = run is None or run[0].get(FACES) == digest(made.alignments)
        self._plan, self._layout = made.plan, layout
        # The last entry of a frame counts: it is the one that was done again.
        frames = {frame.key: frame.faces for frame in run[1]} if run else {}
        recorded = [face for faces in frames.values() for face in faces]
        self.of_row = {face.row: face for face in recorded}
        """By row of today's file, what the run recorded of a face."""
        self._frames: dict[str, list[FaceResult]] = {}
        self._expected: dict[str, int] = {}
        if not self._same_file:
            self._know_by_name(recorded)

    def contradiction(self, task: FrameTask, row: int, sha1: str) -> str | None:
        """The hash that the run recorded for a face, where it is another one and not that of another of its frame."""
        recorded = self.of_row.get(row)
        if recorded is None or recorded.sha1 == sha1:
            return None
        if not self._same_file:
            faces = self._frames[self._key(task.name)]
            if len(faces) != len(task) or any(face.sha1 == sha1 for face in faces):
                return None
        return recorded.sha1

    def notes(self) -> list[str]:
        """How today's alignments file differs from the run's."""
        if self._same_file:
            return []
        notes = ["the faces in the alignments file are not those that the folder was made from."]
        gone = sum(max(0, len(faces) - self._expected.get(key, 0)) for key, faces in self._frames.items())
        if gone:
            notes.append(
                f"{gone:,} of the run's faces {'is' if gone == 1 else 'are'} no longer in the alignments file."
            )
        return notes

    def _know_by_name(self, recorded: list[FaceResult]) -> None:
        by_name = {}
        for face in recorded:
            # The last part of the place: the journal of an archive begins with the shard.
            by_name[name := face.file_name.rpartition("/")[2]] = face
            stem, _, rest = name.rpartition("_")
            self._frames.setdefault(stem + rest.removeprefix(str(face.index)), []).append(face)
        self.of_row = {}
        plan = self._plan
        for i, frame in enumerate(plan.frame_of.tolist()):
            name = plan.frame_names[frame]
            stem, extension = self._layout.stem(name), self._extension(name)
            faces = slice(plan.starts[i], plan.starts[i + 1])
            self._expected[self._key(name)] = faces.stop - faces.start
            for row, index in zip(plan.rows[faces].tolist(), plan.index[faces].tolist(), strict=True):
                if (known := by_name.get(f"{stem}_{index}{extension}")) is not None:
                    self.of_row[row] = known

    def _key(self, name: str) -> str:
        """How the names of a frame's files begin and end."""
        return self._layout.stem(name) + self._extension(name)

    def _extension(self, name: str) -> str:
        return self._plan.extension or face_extension(name)
