"""A log file that stays bounded: rotation by size, one bound over the whole folder.

Python's RotatingFileHandler bounds one file. Here each process has a folder of its own in one that
is bounded as a whole. So each writer also looks at the sum of all files and removes the oldest
rotated ones, whoever wrote them. One that may see its own folder only keeps to its share.
"""

import contextlib
import os
import re
from pathlib import Path

SUFFIX = ".jsonl"
ROTATED = re.compile(r"(?P<name>.+)\.jsonl\.(?P<number>\d+)")
FOLDER_SHARE = 7 / 8  # prune down to this share of the bound: others write between two looks
LOOKS = 8  # looks at the folder per fair share written; more looks, less overshoot
MANY = 64  # processes, for one that never saw how many there are


def folders(logs: Path) -> list[Path]:
    """Return where log files lie: a folder of each process, and that of all, as older versions did.

    Raises:
        OSError: it is not there, or not for us to see.
    """
    with os.scandir(logs) as entries:
        return [logs, *(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))]


class BoundedFile:
    """Appends whole lines to `path`, LOGS/NAME/NAME.jsonl, and never raises for a disk's sake.

    Not thread-safe: its caller holds a lock. A write that fails is dropped and counted in
    `dropped`; a file removed under it is created anew.
    """

    def __init__(self, path: Path, *, file_bytes: int, files: int, total_bytes: int) -> None:
        self.path = path
        self.dropped = 0
        self._processes = MANY
        self._fd = -1
        self._inode = 0
        self._size = 0
        self._torn = False  # the last write stopped in the middle of a line
        self._unseen = 0  # bytes written since the last look at the folder
        self.limit(file_bytes=file_bytes, files=files, total_bytes=total_bytes)

    def limit(self, *, file_bytes: int, files: int, total_bytes: int) -> None:
        """Set the bounds: bytes of one file, rotated files kept, bytes of the whole folder."""
        self._file_bytes, self._files, self._total_bytes = file_bytes, files, total_bytes
        self._rotate_at = file_bytes
        self._look_every = 0  # look at the folder at the next write

    def write(self, line: bytes) -> bool:
        """Append one line (with its newline). False: it was dropped."""
        try:
            if not self._is_current():
                self._open()
            if self._size and self._size + len(line) > self._rotate_at:
                self._rotate()
            self._append(line)
        except OSError:
            self.dropped += 1
            return False
        self._unseen += len(line)
        if self._unseen >= self._look_every:
            self.bound()
        return True

    def close(self) -> None:
        """Close the file. A later write opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_current(self) -> bool:
        if self._fd < 0:
            return False
        try:
            return os.stat(self.path).st_ino == self._inode  # noqa: PTH116 - twice as fast, per line
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        self.close()
        self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.fstat(self._fd)
        self._inode, self._size = status.st_ino, status.st_size
        if self._size:  # a process that was killed while it wrote may have left half a line
            with self.path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                self._torn = file.read(1) != b"\n"

    def _append(self, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line
        done = 0
        while done < len(line):
            try:
                done += os.write(self._fd, line[done:])
            except OSError:
                self._torn = done > 0 or self._torn
                self._size += done
                raise
        self._torn = False
        self._size += done

    def _rotate(self) -> None:
        for number in range(self._files, 0, -1):
            older = self._numbered(number)
            with contextlib.suppress(FileNotFoundError):
                if number == self._files:
                    older.unlink()
                else:
                    older.rename(self._numbered(number + 1))
        self.path.rename(self._numbered(1))
        self._torn = False
        self._open()

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def bound(self) -> None:
        """Remove files until all fit: rotated ones first, the oldest of them first."""
        self._unseen = 0
        current: list[tuple[int, Path]] = []
        rotated: list[tuple[float, int, Path]] = []
        logs = self.path.parent.parent
        try:
            found = folders(logs)
        except OSError:  # a sandbox shows us our own folder alone: all that is in it fits our share
            share = self._total_bytes // self._processes
            self._rotate_at = min(self._file_bytes, share // (self._files + 1))
            self._look_every = self._file_bytes
            return
        for folder in found:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    match = ROTATED.fullmatch(entry.name)
                    if not match and not entry.name.endswith(SUFFIX):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if match or folder == logs:
                            rotated.append((status.st_mtime, status.st_size, Path(entry.path)))
                        else:
                            current.append((status.st_size, Path(entry.path)))
        self._processes = max(1, len(current))
        share = self._total_bytes // self._processes
        # Where many processes share a small bound, each one's current file gets a fair share.
        self._rotate_at = min(self._file_bytes, share // 2)
        self._look_every = min(self._file_bytes, share // LOOKS)
        excess = sum(size for size, _ in current) + sum(size for _, size, _ in rotated)
        excess -= int(self._total_bytes * FOLDER_SHARE)
        # A removed agent's current file goes last; its writer, if alive, creates a new one.
        victims = [(size, path) for _, size, path in sorted(rotated)]
        for size, path in victims + sorted(current, reverse=True):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                excess -= size
