"""An artifact is done if and only if its manifest verifies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakage_assets.store import artifacts, files
from leakage_assets.store.artifacts import (
    Artifact,
    ArtifactCorrupt,
    ArtifactError,
    ArtifactMissing,
    ArtifactStore,
    read_manifest,
)
from leakage_assets.store.fingerprint import FingerprintError, canonical_json, fingerprint

ADDRESS = ("tiny", "marker_leakage", "adapter", "villain__default", "42")
IDENTITY = {"recipe": "default", "seed": 42}
NAME = fingerprint(IDENTITY)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def write(store: ArtifactStore, identity: dict[str, object] = IDENTITY, content: str = "weights") -> Artifact:
    with store.draft(ADDRESS, identity, provenance={"device": "cpu"}) as draft:
        (draft.folder / "weights.bin").write_text(content)
        (draft.folder / "logs").mkdir()
        (draft.folder / "logs" / "losses.csv").write_text("1\n2\n")
        draft.rows("logs/losses.csv", 2)
        draft.note(loss=0.5)
    return draft.artifact


def dotted(store: ArtifactStore) -> list[str]:
    return [path.name for path in store.root.rglob(".*") if path.name != ".lock"]


def test_a_finished_artifact_is_found_by_its_fingerprint_alone(store: ArtifactStore) -> None:
    assert store.lookup(ADDRESS, NAME) is None
    written = write(store)
    assert written.folder == store.root.joinpath(*ADDRESS, NAME[:16])
    assert ArtifactStore(store.root).lookup(ADDRESS, NAME) == written
    assert store.lookup(ADDRESS, fingerprint("another")) is None
    assert sorted(path.name for path in written.folder.rglob("*")) == [
        "logs",
        "losses.csv",
        "manifest.json",
        "weights.bin",
    ]


def test_the_manifest_records_what_and_how(store: ArtifactStore) -> None:
    with store.draft(ADDRESS, IDENTITY, refresh="2025-11") as draft:
        (draft.folder / "a.txt").write_text("a")
        draft.rows("a.txt", 1)
        draft.note(device="cpu")
        draft.note(device="cuda", seed=7)
    manifest = draft.artifact.manifest
    assert (manifest.fingerprint, manifest.identity) == (NAME, IDENTITY)
    record = manifest.files["a.txt"]
    assert (record.bytes, record.rows) == (1, 1)
    assert record.sha256 == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert manifest.provenance["device"] == "cuda"
    assert manifest.provenance["seed"] == 7
    assert manifest.provenance["refresh"] == "2025-11"
    assert manifest.provenance["elapsed_seconds"] >= 0
    assert manifest.provenance["versions"]["numpy"] == np.__version__
    assert {"git_commit", "git_dirty", "platform"} <= manifest.provenance.keys()
    assert manifest.created_at.endswith("+00:00")


def test_the_manifest_file_is_canonical(store: ArtifactStore) -> None:
    text = (write(store, {"marker": "※"}).folder / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert '"marker": "※"' in text


def test_the_digest_covers_identity_and_content_but_not_provenance(store: ArtifactStore) -> None:
    first = write(store).manifest
    again = write(store).manifest
    assert first.created_at != again.created_at
    assert first.digest == again.digest
    assert write(store, content="other").manifest.digest != first.digest
    assert write(store, {"recipe": "hot"}).manifest.digest != first.digest


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.text(st.characters(codec="utf-8")) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_serialisable_identity_survives_the_disk(tmp_path: Path, identity: dict[str, object]) -> None:
    store = ArtifactStore(tmp_path)
    with store.draft(("a",), identity) as draft:
        (draft.folder / "x").write_bytes(b"")
    found = store.lookup(("a",), fingerprint(identity))
    assert found is not None
    assert canonical_json(found.manifest.identity) == canonical_json(identity)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_draft_leaves_nothing_and_keeps_the_finished_version(
    store: ArtifactStore, error: type[BaseException]
) -> None:
    kept = write(store)
    with pytest.raises(error), store.draft(ADDRESS, IDENTITY) as draft:
        (draft.folder / "weights.bin").write_text("half")
        raise error
    assert dotted(store) == []
    assert store.lookup(ADDRESS, NAME) == kept
    with pytest.raises(ArtifactError, match="not committed"):
        _ = draft.artifact


def test_a_refresh_replaces_the_version_only_when_the_new_one_is_complete(store: ArtifactStore) -> None:
    old = write(store, content="old")
    with store.draft(ADDRESS, IDENTITY, refresh="again") as draft:
        (draft.folder / "weights.bin").write_text("new")
        assert store.lookup(ADDRESS, NAME) == old
    assert store.lookup(ADDRESS, NAME) == draft.artifact
    assert (draft.artifact.folder / "weights.bin").read_text() == "new"
    assert draft.artifact.manifest.provenance["replaces"] == old.manifest.digest
    assert dotted(store) == []


def test_a_replaced_version_is_kept_unless_the_new_one_equals_it(store: ArtifactStore) -> None:
    def kept() -> list[str]:
        return [
            (path / "weights.bin").read_text()
            for path in sorted(store.root.joinpath(*ADDRESS).glob("superseded-*"), key=lambda path: path.name)
        ]

    for content, expected in (("a", []), ("a", []), ("b", ["a"]), ("b", ["a"]), ("a", ["a", "b"])):
        write(store, content=content)
        assert kept() == expected
    assert store.sweep() == []
    assert kept() == ["a", "b"]
    found = store.lookup(ADDRESS, NAME)
    assert found is not None
    assert (found.folder / "weights.bin").read_text() == "a"


def test_the_refresh_token_of_a_version_is_read_without_its_files(store: ArtifactStore) -> None:
    assert store.refresh_token(ADDRESS, NAME) is None
    with store.draft(ADDRESS, IDENTITY, refresh="monday") as draft:
        (draft.folder / "weights.bin").write_text("w")
    (draft.artifact.folder / "weights.bin").write_text("damaged")
    assert store.refresh_token(ADDRESS, NAME) == "monday"
    (draft.artifact.folder / "manifest.json").write_text("{")
    assert store.refresh_token(ADDRESS, NAME) is None


def test_a_refresh_heals_a_corrupt_version(store: ArtifactStore) -> None:
    (write(store).folder / "weights.bin").unlink()
    healed = write(store)
    assert store.lookup(ADDRESS, NAME) == healed


def test_everything_is_on_the_disk_before_the_rename(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    at_rename: list[tuple[set[str], set[str]]] = []
    fsync, rename = os.fsync, os.rename

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def recording_rename(source: Path, target: Path) -> None:
        inside = [source, *Path(source).rglob("*")]
        at_rename.append(({path.name for path in inside if path.stat().st_ino not in synced},
                          {path.name for path in inside}))  # fmt: skip
        synced.clear()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "rename", recording_rename)
    folder = write(store).folder
    [(unsynced, moved)] = at_rename
    assert unsynced == set()
    assert {"weights.bin", "logs", "losses.csv", "manifest.json"} < moved
    assert folder.parent.stat().st_ino in synced  # and the new name itself, after the rename


def test_what_cannot_be_serialised_is_refused_before_work_begins(store: ArtifactStore) -> None:
    with (
        pytest.raises(FingerprintError, match=r"^identity\.lora\.r: "),
        store.draft(ADDRESS, {"lora": {"r": {1}}}),
    ):
        pytest.fail("the block ran")
    with (
        pytest.raises(FingerprintError, match=r"^provenance\.folder: "),
        store.draft(ADDRESS, IDENTITY, provenance={"folder": Path("x")}),
    ):
        pytest.fail("the block ran")
    assert dotted(store) == []


def test_what_the_store_records_itself_cannot_be_noted(store: ArtifactStore) -> None:
    with store.draft(ADDRESS, IDENTITY) as draft, pytest.raises(ArtifactError, match="versions"):
        draft.note(versions={"torch": "0"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "link").symlink_to("weights.bin"), r"\['link'\] are links"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "its own manifest.json"),
    ],
)
def test_a_draft_a_manifest_cannot_vouch_for_is_refused(
    store: ArtifactStore, spoil: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message), store.draft(ADDRESS, IDENTITY) as draft:
        (draft.folder / "weights.bin").write_text("w")
        spoil(draft.folder)
    assert dotted(store) == []
    assert store.lookup(ADDRESS, NAME) is None


def test_rows_of_a_file_that_was_not_written_are_refused(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match=r"rows given for \['scores.parquet'\]"):  # noqa: SIM117
        with store.draft(ADDRESS, IDENTITY) as draft:
            draft.rows("scores.parquet", 3)
    assert store.lookup(ADDRESS, NAME) is None


@pytest.mark.parametrize("address", [(), ("",), ("..",), (".tmp-1-a",), ("a/b",), ("tiny", "a\0")])
def test_an_address_is_made_of_folder_names(store: ArtifactStore, address: tuple[str, ...]) -> None:
    with pytest.raises(ArtifactError, match="address"):
        store.lookup(address, NAME)


def test_a_fingerprint_is_asked_for_in_full(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="expected 64 hex digits"):
        store.lookup(ADDRESS, NAME[:16])


def test_two_fingerprints_that_share_a_folder_name_are_told_apart(store: ArtifactStore) -> None:
    write(store)
    with pytest.raises(ArtifactError, match="same 16 digits"):
        store.lookup(ADDRESS, NAME[:16] + "0" * 48)


def test_require_names_the_remedy(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactMissing, match=rf"{NAME[:16]}: no finished artifact; materialise the adapter"):
        store.require(ADDRESS, NAME, remedy="materialise the adapter")
    written = write(store)
    assert store.require(ADDRESS, NAME, remedy="materialise the adapter") == written


def test_the_history_of_an_address_goes_back_beyond_what_was_replaced(store: ArtifactStore) -> None:
    assert store.history(ADDRESS) == []
    first = write(store, {"recipe": "b"}, content="first").manifest
    second = write(store, {"recipe": "a"}).manifest
    third = write(store, {"recipe": "b"}, content="third").manifest
    assert [version.manifest for version in store.history(ADDRESS)] == [first, second, third]
    assert store.history(ADDRESS[:-1]) == []
    places = {version.manifest.created_at: version.folder for version in store.history(ADDRESS)}
    assert (places[first.created_at] / "weights.bin").read_text() == "first"
    (places[second.created_at] / "manifest.json").write_text("{")
    assert [version.manifest for version in store.history(ADDRESS)] == [first, third]


# ---------------------------------------------------------------------------------------------- corruption


def flip(path: Path, position: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@dataclass(frozen=True)
class Damage:
    """One way to damage a finished artifact, and what the error must say."""

    do: Callable[[Path], object]
    says: str


DAMAGES = {
    "flipped bit": Damage(lambda f: flip(f / "weights.bin"), r"weights.bin: expected sha256 \w{64} \(7 bytes\), found"),
    "truncated": Damage(lambda f: os.truncate(f / "weights.bin", 3), r"weights.bin: .*found \w{64} \(3 bytes\)"),
    "missing file": Damage(lambda f: (f / "logs/losses.csv").unlink(), "logs/losses.csv: missing"),
    "extra file": Damage(lambda f: (f / "logs/x").write_text(""), "logs/x: not in the manifest: found sha256 e3b0c442"),
    "no manifest": Damage(lambda f: (f / "manifest.json").unlink(), "manifest.json: missing"),
    "empty manifest": Damage(lambda f: os.truncate(f / "manifest.json", 0), "manifest.json:1: not JSON"),
    "cut manifest": Damage(lambda f: os.truncate(f / "manifest.json", 60), r"manifest.json:[23]: not JSON"),
    "binary manifest": Damage(lambda f: (f / "manifest.json").write_bytes(b"\xff{}"), "manifest.json: not UTF-8"),
    "manifest is a list": Damage(lambda f: (f / "manifest.json").write_text("[]"), "manifest.json:1: the whole: "),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found_and_names_file_and_remedy(store: ArtifactStore, damage: Damage) -> None:
    folder = write(store).folder
    assert store.lookup(ADDRESS, NAME) is not None
    damage.do(folder)
    with pytest.raises(ArtifactCorrupt, match=damage.says) as error:
        store.lookup(ADDRESS, NAME)
    assert str(error.value).startswith(f"{folder}: ")
    remedy = f"delete the folder {folder} and re-run, or run with the refresh tag"
    assert str(error.value).endswith(remedy)
    shutil.rmtree(folder)
    assert store.lookup(ADDRESS, NAME) is None


def test_a_version_copied_to_another_name_is_corrupt(store: ArtifactStore) -> None:
    folder = write(store).folder
    asked = fingerprint("another")
    shutil.copytree(folder, folder.with_name(asked[:16]))
    with pytest.raises(ArtifactCorrupt, match="copied from another folder"):
        store.lookup(ADDRESS, asked)


@pytest.mark.parametrize(
    ("change", "line_has", "says"),
    [
        (lambda m: m.update(created_at=7), '"created_at": 7', "created_at: Input should be a valid string"),
        (lambda m: m.update(extra=1), '"extra": 1', "extra: Unexpected"),
        (lambda m: m.pop("provenance"), "{", "provenance: Field required"),
        (
            lambda m: m["files"]["weights.bin"].update(bytes="7"),
            '"bytes": "7"',
            "files.weights.bin.bytes: Input",
        ),
        (lambda m: m["files"]["weights.bin"].pop("sha256"), '"weights.bin": {', "sha256: Field required"),
        (lambda m: m.update(fingerprint="abc"), '"fingerprint": "abc"', "fingerprint: String should match"),
    ],
)
def test_a_manifest_of_wrong_fields_or_types_names_the_line(
    store: ArtifactStore, change: Callable[[dict[str, Any]], object], line_has: str, says: str
) -> None:
    path = write(store).folder / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields, indent=2, sort_keys=True))
    with pytest.raises(ArtifactCorrupt, match=says) as error:
        store.lookup(ADDRESS, NAME)
    line = int(str(error.value).split("manifest.json:")[1].split(":")[0])
    assert line_has in path.read_text().splitlines()[line - 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["identity"].update(seed=43),
        lambda m: m["provenance"].update(device="cuda"),
        lambda m: m.update(created_at="2030-01-01T00:00:00.000000+00:00"),
        lambda m: m["files"]["logs/losses.csv"].update(rows=3),
        lambda m: m.pop("manifest_sha256"),
    ],
)
def test_an_edited_manifest_is_corrupt(store: ArtifactStore, change: Callable[[dict[str, Any]], object]) -> None:
    path = write(store).folder / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields, indent=2, sort_keys=True))
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json: altered"):
        store.lookup(ADDRESS, NAME)


def test_no_flipped_bit_of_a_manifest_goes_unseen(store: ArtifactStore) -> None:
    path = write(store).folder / "manifest.json"
    intact = path.read_bytes()
    meaning = json.loads(intact)
    for position in range(0, len(intact), 7):
        path.write_bytes(intact)
        flip(path, position)
        try:
            same = json.loads(path.read_bytes()) == meaning  # a space turned into another kind of space
        except ValueError:
            same = False
        if same:
            continue
        with pytest.raises(ArtifactCorrupt):
            read_manifest(path.parent)


def test_an_unchanged_file_is_hashed_once_per_process(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(store).folder
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(0, 10**18))
    hashed: list[str] = []
    compute = hashlib.file_digest

    def counted(stream: Any, name: str) -> Any:
        hashed.append(Path(stream.name).name)
        return compute(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    monkeypatch.setattr(files, "TIMESTAMP_TICK_NS", -(10**18))
    store.lookup(ADDRESS, NAME)
    store.lookup(ADDRESS, NAME)
    assert sorted(hashed) == ["losses.csv", "weights.bin"]
    flip(folder / "weights.bin")
    os.utime(folder / "weights.bin", ns=(0, 10**18))  # the time of modification can be set back
    with pytest.raises(ArtifactCorrupt):
        store.lookup(ADDRESS, NAME)


def test_a_file_that_may_change_within_one_clock_tick_is_hashed_again(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(store).folder
    now = time.time_ns()
    # A clock that stands still: the stamp of the file is the same before and after it is altered.
    monkeypatch.setattr(
        files, "_stamp", lambda status: files.Stamp(status.st_dev, status.st_ino, status.st_size, now, now)
    )
    monkeypatch.setattr(files, "TIMESTAMP_TICK_NS", 10**12)
    assert store.lookup(ADDRESS, NAME) is not None
    (folder / "weights.bin").write_text("Weights")
    with pytest.raises(ArtifactCorrupt):
        store.lookup(ADDRESS, NAME)


def test_a_version_that_is_replaced_while_it_is_read_is_read_again(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, content="old")
    pending = [lambda: write(store, content="new")]

    def replacing_first(path: Path) -> str:
        if pending:
            pending.pop()()
        return files.sha256_file(path)

    monkeypatch.setattr(artifacts, "sha256_file", replacing_first)
    found = store.lookup(ADDRESS, NAME)
    assert pending == []
    assert found is not None
    assert found.manifest.files["weights.bin"].bytes == len("new")


# -------------------------------------------------------------------------------------------------- sweep


def test_sweep_removes_the_folders_of_the_dead_and_spares_the_living(store: ArtifactStore) -> None:
    kept = write(store)
    dead = store.root / "tiny" / ".tmp-1-dead"
    dead.mkdir()
    (dead / "half").write_text("h")
    with store.draft(ADDRESS, {"recipe": "hot"}) as draft:
        assert store.sweep() == [dead]
        assert draft.folder.is_dir()
    assert not dead.exists()
    assert store.lookup(ADDRESS, NAME) == kept
    assert store.lookup(ADDRESS, fingerprint({"recipe": "hot"})) == draft.artifact
    assert store.sweep() == []


def test_an_interrupted_replacement_is_undone_by_any_reader(store: ArtifactStore) -> None:
    written = write(store)
    readers: list[Callable[[], object]] = [
        lambda: store.lookup(ADDRESS, NAME),
        lambda: store.history(ADDRESS)[-1],
        lambda: store.sweep() or store.lookup(ADDRESS, NAME),
    ]
    for read in readers:
        written.folder.rename(written.folder.with_name(f".old-{NAME[:16]}-abcd"))
        assert read() == written
        assert dotted(store) == []


def test_a_half_deleted_old_version_is_not_brought_back(store: ArtifactStore) -> None:
    folder = write(store).folder
    old = folder.rename(folder.with_name(f".old-{NAME[:16]}-abcd"))
    (old / "manifest.json").unlink()
    assert store.lookup(ADDRESS, NAME) is None
    assert store.sweep() == [old]
