"""Folders for a server that runs as another user than we do."""

import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from local.processes import LocalServiceError

# Kept over reboots, unlike most machines' temporary folder; anybody may create in it.
_SHARED_FOLDER = Path("/var/tmp")


def stable_name(path: Path) -> Path:
    """A short path that everybody can enter, always the same one for this path and this user."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return _SHARED_FOLDER / f"offpeak-{os.geteuid()}-{digest}"


def enterable_by_all(directory: Path) -> bool:
    """Whether any user may pass through this folder and all above it; missing ones may not."""
    return all(
        folder.exists() and folder.stat().st_mode & stat.S_IXOTH
        for folder in (directory, *directory.parents)
    )


def readable_by_all(file: Path) -> bool:
    """Whether any user may open this file."""
    return enterable_by_all(file.parent) and bool(file.stat().st_mode & stat.S_IROTH)


def private_folder(path: Path, user: str | None) -> None:
    """Make a folder that only its owner (`user`, or who we are) can enter; a found one is checked.

    Raises LocalServiceError if somebody else owns what is there.
    """
    owner = pwd.getpwnam(user) if user is not None else None
    uid = owner.pw_uid if owner else os.geteuid()
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    # Names in a shared folder can be guessed: never adopt another user's folder or a link.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {uid, os.geteuid()}:
        raise LocalServiceError(f"{path} belongs to another user; remove it.")
    path.chmod(0o700)
    if owner is not None:
        os.chown(path, uid, owner.pw_gid)


def readable_copy(source: Path, parts: Sequence[str], *, ignore: Sequence[str]) -> Path:
    """Copy folders of `source` to where every user can read them, once; returns the copy's root."""
    newest = max((source / part).stat().st_mtime_ns for part in parts)
    target = stable_name(source / f"{'+'.join(parts)}-{newest}")
    if target.exists():
        if target.lstat().st_uid != os.geteuid():
            raise LocalServiceError(f"{target} belongs to another user; remove it.")
        return target
    unfinished = Path(tempfile.mkdtemp(prefix="offpeak-", dir=_SHARED_FOLDER))
    for part in parts:
        shutil.copytree(source / part, unfinished / part, ignore=shutil.ignore_patterns(*ignore))
    for path in (unfinished, *unfinished.rglob("*")):
        mode = path.stat().st_mode
        executable = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(0o755 if executable else 0o644)
    try:
        unfinished.rename(target)
    except OSError:
        shutil.rmtree(unfinished)
        if not target.exists():  # Else another start was quicker, with the same copy.
            raise
    return target
