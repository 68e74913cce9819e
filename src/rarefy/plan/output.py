"""Where an artifact goes: what may stand there already, where unfinished work is kept, and the step into place."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarefy.errors import RarefyError, UsageError
from rarefy.files import manifest
from rarefy.files.atomic import sync_folder, writing
from rarefy.opening import is_artifact

_INSTEAD = "choose another output, or remove it"


@dataclass(frozen=True)
class Output:
    """OUT. path: the same with links resolved; work: the folder of unfinished work, `OUT.work`."""

    out: Path
    path: Path
    work: Path

    @classmethod
    def at(cls, out: str | Path, work_dir: str | Path | None = None) -> Output:
        """work_dir: the folder that holds `OUT.work`; OUT's own unless given.

        Raises UsageError when something stands at OUT that is neither an artifact nor an empty folder.
        """
        path = Path(os.path.realpath(out))
        beside = path.parent if work_dir is None else Path(os.path.realpath(work_dir))
        made = cls(Path(out), path, beside / f"{path.name}.work")
        made._check()
        return made

    def _check(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UsageError(f"{self.out} is a file", remedy=_INSTEAD)
        if os.path.ismount(self.path):
            raise UsageError(
                f"{self.out} is a mount point", "an artifact is renamed into place", "choose a folder inside"
            )
        if any(self.path.iterdir()) and not self._holds_artifact():
            raise UsageError(f"{self.out} exists and is not empty", remedy=_INSTEAD)

    def _holds_artifact(self) -> bool:
        try:
            return is_artifact(self.path)
        except RarefyError:
            return False

    def check_outside(self, model: Path | None) -> None:
        """Raise UsageError when OUT or its work folder lie inside the folder of the network, which is carried along."""
        if model is None:
            return
        folder = Path(os.path.realpath(model))
        for path in (self.path, self.work):
            if folder in path.parents:
                raise UsageError(
                    f"{path} lies inside the network's folder",
                    "everything in there is part of the network",
                    "choose a place outside",
                )

    def finished(self, key: str) -> dict[str, Any] | None:
        """The manifest of the artifact with this key that stands at OUT; None while OUT is free.

        Raises UsageError when it is another one, or not as it was written.
        """
        self._check()
        if not self.path.exists() or not any(self.path.iterdir()):
            return None
        sections: dict[str, Any] = {}
        with contextlib.suppress(RarefyError):
            sections = manifest.read(self.path)
        if _key(sections) != key:
            raise UsageError(f"{self.out} exists and was made from other inputs or settings", remedy=_INSTEAD)
        damages = manifest.verify(self.path)
        if damages:
            raise UsageError(f"{self.out} exists and is damaged", str(damages[0]), "remove it to have it made again")
        return sections

    def check_writable(self) -> None:
        """Fail before hours of work, not after them. Raises ResourceError."""
        # Nameless where the system can do that, so that a kill leaves nothing.
        with writing(self.out), tempfile.TemporaryFile(dir=self.path.parent):
            pass

    def put(self, fresh: Path) -> None:
        """Rename the finished folder `fresh` to OUT; from another file system, copy it beside OUT first.

        Raises ResourceError, also when something has come to stand at OUT meanwhile.
        """
        with writing(self.out):
            _sync_tree(fresh)
            try:
                # The kernel itself lets a folder take the place of an empty one, and of nothing else.
                os.rename(fresh, self.path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                beside = self.path.with_name(f".{self.path.name}.part")
                shutil.rmtree(beside, ignore_errors=True)
                shutil.copytree(fresh, beside)
                _sync_tree(beside)
                os.rename(beside, self.path)
            sync_folder(self.path.parent)


def _key(sections: dict[str, Any]) -> Any:
    run = sections.get("run")
    return run.get("key") if isinstance(run, dict) else None


def _sync_tree(folder: Path) -> None:
    """Make every file and name below `folder` durable."""
    for root, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(root))
