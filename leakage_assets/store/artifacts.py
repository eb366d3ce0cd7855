"""Atomic artifact folders: an artifact is done if and only if its manifest verifies.

A version of an artifact lives in `<root>/<address...>/<first 16 hex digits of its fingerprint>/`, its files
listed with their sha256 in `manifest.json`. It is written to `.tmp-<pid>-<token>/` beside that place and
renamed into it, so that a killed process leaves a complete version, the one before it, or none. Replacing a
version takes two renames; a kill between them leaves the version before in `.old-<version>-<token>/`, which
the next `lookup`, `history`, `draft` or `sweep` puts back. A version that was replaced by another content stays
beside it as `superseded-<n>/`. Renames at one address take turns by a lock.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from leakage_assets.exceptions import PartitionError
from leakage_assets.store.files import TEMPORARY, fsync, sha256_file, temporary_path, write_atomically
from leakage_assets.store.fingerprint import FingerprintError, fingerprint, plain
from leakage_assets.store.locks import LOCK, exclusive, hold, is_held
from leakage_assets.store.provenance import environment

MANIFEST = "manifest.json"
SEAL = "manifest_sha256"
REPLACED = ".old-"
KEPT = "superseded-"
VERSION_DIGITS = 16
AUTOMATIC = frozenset({"versions", "platform", "git_commit", "git_dirty", "elapsed_seconds", "refresh", "replaces"})
"""What the store itself records in every provenance."""

Address = tuple[str, ...]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArtifactError(PartitionError):
    """An artifact cannot be written or read."""


class ArtifactMissing(ArtifactError):
    """No finished version with the fingerprint asked for; the message says what makes one."""


class ArtifactCorrupt(ArtifactError):
    """A finished version is not what its manifest says; the message names file, difference and remedy."""


@dataclass(frozen=True)
class FileRecord:
    """One file of an artifact: sha256, size in bytes, and number of rows where it is a table."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=0)] | None


@dataclass(frozen=True)
class Manifest:
    """What an artifact is (identity, files) and how it was made (provenance).

    Attributes:
        fingerprint: sha256 of the canonical JSON of `identity`.
        identity: everything that makes the result what it is.
        files: by path relative to the folder, with forward slashes.
        provenance: how and where it was made; never part of the identity.
        created_at: time of completion, ISO 8601 in UTC.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    fingerprint: Sha256
    identity: dict[str, Any]
    files: dict[str, FileRecord]
    provenance: dict[str, Any]
    created_at: str

    @property
    def digest(self) -> str:
        """sha256 over the fingerprint and the files' names and sha256: what downstream identities embed."""
        contents = {name: record.sha256 for name, record in self.files.items()}
        return fingerprint({"fingerprint": self.fingerprint, "files": contents}, name="digest")


@dataclass(frozen=True)
class Artifact:
    """A finished version whose files matched its manifest when it was looked up."""

    folder: Path
    manifest: Manifest


@dataclass
class Draft:
    """A version in the making: write its files under `folder`, which moves when the draft is committed."""

    folder: Path
    _provenance: dict[str, Any] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)
    _artifact: Artifact | None = None

    def note(self, **provenance: object) -> None:
        """Add to the provenance; a later value for a key replaces the earlier one.

        Raises:
            ArtifactError: for a key that the store records itself (see AUTOMATIC).
            FingerprintError: for a value that JSON cannot hold.
        """
        if taken := AUTOMATIC & provenance.keys():
            raise ArtifactError(f"provenance {sorted(taken)}: recorded by the store itself; use another name")
        self._provenance |= plain(provenance, "provenance")

    def rows(self, filename: str, count: int) -> None:
        """Record the number of rows of a file of this draft, named relative to `folder`."""
        self._rows[filename] = count

    @property
    def artifact(self) -> Artifact:
        """The finished version; raises ArtifactError before the draft is committed."""
        if self._artifact is None:
            raise ArtifactError(f"{self.folder}: not committed; ask for the artifact after the with block")
        return self._artifact


class ArtifactStore:
    """The artifact folders under one root; any number of processes may share it.

    `mark` is part of the identity of everything that is drafted through this object, whatever made it.
    """

    def __init__(self, root: Path, mark: Mapping[str, object] | None = None) -> None:
        self.root, self.mark = root, dict(mark or {})

    def marked(self, identity: Mapping[str, object]) -> dict[str, object]:
        """The identity under which `draft` stores what is given this one."""
        return {**identity, **self.mark}

    def lookup(self, address: Address, fingerprint: str) -> Artifact | None:
        """The finished version with this fingerprint, every file verified, or None if there is none.

        Raises:
            ArtifactCorrupt: a file is missing, added or altered, or the manifest is.
        """
        target = self._target(address, fingerprint)
        artifact = _verified(target)
        if artifact is None and target.parent.is_dir():
            with exclusive(target.parent):  # another process may be between its two renames, or died there
                _restore(target.parent)
            artifact = _verified(target)
        if artifact is not None and artifact.manifest.fingerprint != fingerprint:
            raise ArtifactError(
                f"{target}: holds {artifact.manifest.fingerprint}, asked for {fingerprint}: both start with "
                f"the same {VERSION_DIGITS} digits; give one of the two another address"
            )
        return artifact

    def require(self, address: Address, fingerprint: str, *, remedy: str) -> Artifact:
        """The finished version with this fingerprint.

        Raises:
            ArtifactMissing: there is none; the message ends with `remedy`.
            ArtifactCorrupt: as `lookup`.
        """
        artifact = self.lookup(address, fingerprint)
        if artifact is None:
            raise ArtifactMissing(f"{self._target(address, fingerprint)}: no finished artifact; {remedy}")
        return artifact

    def history(self, address: Address) -> list[Artifact]:
        """Every version ever finished at the address and still there, replaced ones too, oldest first.

        To tell what was done and when; the files are not verified. A version whose manifest is damaged is left out.
        """
        parent = self._folder(address)
        if not parent.is_dir():
            return []
        with exclusive(parent):
            _restore(parent)
            found = [
                Artifact(folder, manifest)
                for folder in [*_versions(parent), *parent.glob(f"{KEPT}*")]
                if (manifest := _readable(folder)) is not None
            ]
        return sorted(found, key=lambda artifact: (artifact.manifest.created_at, artifact.folder.name))

    def refresh_token(self, address: Address, fingerprint: str) -> str | None:
        """The refresh tag under which the finished version was made; None for none, or a manifest beyond reading."""
        manifest = _readable(self._target(address, fingerprint))
        token = None if manifest is None else manifest.provenance.get("refresh")
        return token if isinstance(token, str) else None

    @contextmanager
    def draft(
        self,
        address: Address,
        identity: Mapping[str, object],
        *,
        provenance: Mapping[str, object] | None = None,
        refresh: str | None = None,
    ) -> Iterator[Draft]:
        """Make the version with this identity: all of it when the block ends, nothing when it raises.

        A finished version with the same identity stays in place until the new one is complete, and then as
        `superseded-<n>` if its files differ. The provenance has its digest under `replaces`.

        Args:
            address: where, below the root; one folder name per part.
            identity: what makes the result what it is; its fingerprint names the version.
            provenance: how it is made, as far as known now; `Draft.note` adds to it.
            refresh: the refresh tag of the run, recorded in the provenance.

        Raises:
            FingerprintError: identity or provenance cannot be serialised (before the block runs).
            ArtifactError: the draft holds a link, or its own manifest.json, or lacks a file given to `rows`.
        """
        started = time.monotonic()
        known = plain(self.marked(identity), "identity")
        name = fingerprint(known)
        target = self._target(address, name)
        with _temporary_folder(target.parent) as folder:
            draft = Draft(folder)
            draft.note(**(provenance or {}))
            yield draft
            files = _durable_files(folder, draft._rows)
            automatic = {
                "elapsed_seconds": round(time.monotonic() - started, 3),
                "refresh": refresh,
                "replaces": _digest_of(target),
            }
            manifest = Manifest(
                fingerprint=name,
                identity=known,
                files=files,
                provenance={**draft._provenance, **environment(), **automatic},
                created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            )
            write_atomically(folder / MANIFEST, _manifest_text(manifest).encode())
            _put_in_place(folder, target)
        draft._artifact = Artifact(target, manifest)

    def sweep(self) -> list[Path]:
        """Remove what killed processes left behind anywhere under the root; returns the removed folders.

        Folders of drafts that are still being written, here or in another process, stay.
        """
        removed: list[Path] = []
        for path, children, _ in os.walk(self.root):
            leftovers = [name for name in children if name.startswith((TEMPORARY, REPLACED))]
            if leftovers:
                with exclusive(Path(path)):
                    removed += _settle(Path(path))
            finished = [name for name in children if _is_version(Path(path, name)) or name.startswith(KEPT)]
            children[:] = sorted(set(children) - set(leftovers) - set(finished))
        return sorted(removed)

    def _folder(self, address: Address) -> Path:
        for part in address:
            if not part or part.startswith(".") or "/" in part or "\0" in part:
                raise ArtifactError(
                    f"address {address!r}: {part!r} is not a folder name; expected a non-empty text "
                    "without '/' that does not start with '.'"
                )
        if not address:
            raise ArtifactError("address (): empty; expected at least one part")
        return self.root.joinpath(*address)

    def _target(self, address: Address, fingerprint: str) -> Path:
        if re.fullmatch(r"[0-9a-f]{64}", fingerprint) is None:
            raise ArtifactError(f"fingerprint {fingerprint!r}: expected 64 hex digits")
        return self._folder(address) / fingerprint[:VERSION_DIGITS]


@cache
def _manifest_adapter() -> TypeAdapter[Manifest]:
    """Built once: building it costs more than reading a manifest."""
    return TypeAdapter(Manifest)


def read_manifest(folder: Path, *, moved: bool = False) -> Manifest:
    """The manifest of a finished version, itself verified; the listed files are not looked at.

    Args:
        moved: the folder was renamed since it was finished.

    Raises:
        ArtifactCorrupt: it is missing, not JSON, has other fields or types, or was altered.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text)
    except FileNotFoundError:
        raise _corrupt(folder, MANIFEST, "missing") from None
    except json.JSONDecodeError as error:
        raise _corrupt(folder, f"{MANIFEST}:{error.lineno}", f"not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise _corrupt(folder, MANIFEST, f"not UTF-8: {error.reason} at byte {error.start}") from None
    seal = fields.pop(SEAL, None) if isinstance(fields, dict) else None
    try:
        manifest = _manifest_adapter().validate_json(json.dumps(fields))
        found = fingerprint(fields, name="manifest")
    except ValidationError as error:
        raise _corrupt(folder, *_first_problem(text, error)) from None
    except FingerprintError as error:
        raise _corrupt(folder, MANIFEST, str(error)) from None
    if seal != found:
        raise _corrupt(folder, MANIFEST, f"altered: expected {SEAL} {seal}, found {found}")
    if not moved and folder.name != manifest.fingerprint[:VERSION_DIGITS]:
        raise _corrupt(folder, MANIFEST, f"belongs to {manifest.fingerprint}: copied from another folder")
    return manifest


def _manifest_text(manifest: Manifest) -> str:
    fields = dataclasses.asdict(manifest)
    sealed = {**fields, SEAL: fingerprint(fields, name="manifest")}
    return json.dumps(sealed, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _first_problem(text: str, error: ValidationError) -> tuple[str, str]:
    """Where (`manifest.json:<line>`) and what is wrong with a manifest of wrong fields or types."""
    problem = error.errors()[0]
    names = [str(part) for part in problem["loc"]]
    position, line = 0, 1
    for name in names:
        found = text.find(json.dumps(name, ensure_ascii=False) + ":", position)
        if found < 0:  # a missing field: the line of what it is missing from
            break
        position, line = found, text.count("\n", 0, found) + 1
    return f"{MANIFEST}:{line}", f"{'.'.join(names) or 'the whole'}: {problem['msg']}"


def _verified(folder: Path) -> Artifact | None:
    """The artifact in `folder`, verified, or None if there is no such folder."""
    while (inode := _inode(folder)) is not None:
        try:
            manifest = read_manifest(folder)
            _verify_files(folder, manifest)
        except (ArtifactCorrupt, FileNotFoundError):
            if _inode(folder) == inode:
                raise
            continue  # replaced by another process while it was read
        return Artifact(folder, manifest)
    return None


def _verify_files(folder: Path, manifest: Manifest) -> None:
    present = _file_names(folder)
    for name in sorted(manifest.files.keys() - present):
        raise _corrupt(folder, name, f"missing: expected sha256 {manifest.files[name].sha256}")
    for name in sorted(present - manifest.files.keys()):
        raise _corrupt(folder, name, f"not in the manifest: found sha256 {sha256_file(folder / name)}")
    for name, record in manifest.files.items():
        size, digest = (folder / name).stat().st_size, sha256_file(folder / name)
        if (size, digest) != (record.bytes, record.sha256):
            raise _corrupt(
                folder,
                name,
                f"expected sha256 {record.sha256} ({record.bytes} bytes), found {digest} ({size} bytes)",
            )


def _corrupt(folder: Path, where: str, what: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"{folder}: {where}: {what}; delete the folder {folder} and re-run, or run with the refresh tag"
    )


def _file_names(folder: Path) -> set[str]:
    """Paths, relative to `folder`, of all files and links below it but its manifest and its lock."""
    names = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    return names - {MANIFEST, LOCK}


def _durable_files(folder: Path, rows: Mapping[str, int]) -> dict[str, FileRecord]:
    """Force a draft's files and folders to the disk; their records by name."""
    if (folder / MANIFEST).exists():
        raise ArtifactError(f"{folder}: the draft wrote its own {MANIFEST}; use another name")
    names = sorted(_file_names(folder))
    if unknown := sorted(rows.keys() - set(names)):
        raise ArtifactError(f"{folder}: rows given for {unknown}, but the draft wrote {names}")
    if links := [name for name in names if (folder / name).is_symlink()]:
        raise ArtifactError(f"{folder}: {links} are links; copy the files they point to")
    records = {}
    for name in names:
        path = folder / name
        fsync(path)
        records[name] = FileRecord(sha256_file(path), path.stat().st_size, rows.get(name))
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync(path)
    return records


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder beside the target, marked as in use; gone when the block ends, unless it was renamed."""
    folder = temporary_path(parent)
    with ExitStack() as held:
        with exclusive(parent):
            _settle(parent)
            folder.mkdir()
            held.enter_context(hold(folder))
        try:
            yield folder
        finally:
            if folder.exists():
                shutil.rmtree(folder)


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename a complete draft to `target`; a version already there gives way only after that."""
    with exclusive(target.parent):
        (folder / LOCK).unlink()
        fsync(folder)
        if not target.exists():
            folder.rename(target)
            fsync(target.parent)
            return
        old = target.with_name(f"{REPLACED}{target.name}-{secrets.token_hex(4)}")
        target.rename(old)
        folder.rename(target)
        fsync(target.parent)
        _retire(old)


def _settle(parent: Path) -> list[Path]:
    """Finish what killed processes began at one address, whose lock is held; returns the removed folders."""
    _restore(parent)
    dead = [path for path in parent.glob(f"{TEMPORARY}*") if path.is_dir() and not is_held(path)]
    for folder in dead:
        _discard(folder)
    return dead + [old for old in sorted(parent.glob(f"{REPLACED}*")) if not _retire(old)]


def _retire(old: Path) -> bool:
    """Keep a replaced version as `superseded-<n>`, or remove it if it equals its replacement or is half removed."""
    if not (old / MANIFEST).exists() or _digest_of(old) == _digest_of(_place_of(old)) is not None:
        _discard(old)
        return False
    taken = [int(path.name.removeprefix(KEPT)) for path in old.parent.glob(f"{KEPT}*")]
    old.rename(old.with_name(f"{KEPT}{max(taken, default=0) + 1}"))
    fsync(old.parent)
    return True


def _place_of(old: Path) -> Path:
    """Where a version lay before its replacement moved it aside."""
    return old.with_name(old.name.removeprefix(REPLACED).split("-")[0])


def _readable(folder: Path) -> Manifest | None:
    """The manifest of a version, wherever it lies now; None if it is missing or damaged."""
    try:
        return read_manifest(folder, moved=True)
    except ArtifactCorrupt:
        return None


def _digest_of(folder: Path) -> str | None:
    return None if (manifest := _readable(folder)) is None else manifest.digest


def _restore(parent: Path) -> None:
    """Put back versions whose replacement was killed between its two renames; the lock is held."""
    for old in sorted(parent.glob(f"{REPLACED}*")):
        target = _place_of(old)
        # Without a manifest it is half deleted: its replacement was in place, and somebody removed that.
        if not target.exists() and (old / MANIFEST).exists():
            old.rename(target)
            fsync(parent)


def _discard(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _versions(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if _is_version(path)]


def _is_version(path: Path) -> bool:
    return re.fullmatch(rf"[0-9a-f]{{{VERSION_DIGITS}}}", path.name) is not None and path.is_dir()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
