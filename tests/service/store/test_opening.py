"""Opening a SQLite store: the lock, and files that are not ours to write."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tests.service.store.harness import SqliteHarness
from turnkeeper_service.store import migrate, queries, statements
from turnkeeper_service.store.base import Commit
from turnkeeper_service.store.conformance.harness import opened
from turnkeeper_service.store.conformance.rows import TENANT, event, new_session, run
from turnkeeper_service.store.database import connect_writer
from turnkeeper_service.store.errors import (
    StoreClosedError,
    StoreError,
    StoreLockedError,
    StoreUnreadableError,
    StoreUnwritableError,
)
from turnkeeper_service.store.schema import METADATA
from turnkeeper_service.store.slots import slot_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def harness(tmp_path: Path) -> SqliteHarness:
    return SqliteHarness(tmp_path / "data")


async def _fill(harness: SqliteHarness) -> None:
    async with opened(harness) as store:
        await store.commit(new_session("s1", run("r1", 1)))
        for seq in range(1, 200):
            await store.commit(Commit(TENANT, "s1", events=[event(seq, payload=b"x" * 500)]))


def _with_log(harness: SqliteHarness, statement: str) -> None:
    """Run a statement in a process that dies without closing: it stays in the log alone."""
    code = f"""if True:
        import os, signal, sqlite3
        connection = sqlite3.connect({str(harness.path)!r}, isolation_level=None)
        connection.execute({statement!r})
        os.kill(os.getpid(), signal.SIGKILL)"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert (harness.directory / "turnkeeper.db-wal").stat().st_size > 0


def test_the_lock_names_its_holder(harness: SqliteHarness) -> None:
    async def refused(holder: int) -> None:
        store = harness.store()
        with pytest.raises(StoreLockedError, match=f"process {holder}$") as caught:
            await store.open()
        assert caught.value.path == str(harness.directory / "LOCK")
        await store.close()

    async def taken() -> None:
        async with opened(harness):
            assert (harness.directory / "LOCK").read_text() == f"{os.getpid()}\n"

    with subprocess.Popen(
        [sys.executable, "-m", "tests.service.store.victim", str(harness.directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline()
        asyncio.run(refused(victim.pid))
        victim.kill()
    # The lock went with the process, although its file is still there.
    asyncio.run(taken())


@pytest.mark.asyncio
async def test_what_is_made_is_for_its_owner_alone(harness: SqliteHarness) -> None:
    async with opened(harness) as store:
        await store.commit(new_session())
        for path in (harness.directory, *harness.directory.iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def _garbage(harness: SqliteHarness) -> None:
    harness.path.write_bytes(os.urandom(5_000))


def _short_garbage(harness: SqliteHarness) -> None:
    harness.path.write_bytes(b"SQLite")


def _cut_short(harness: SqliteHarness) -> None:
    os.truncate(harness.path, harness.path.stat().st_size // 2)


def _spoiled_schema(harness: SqliteHarness) -> None:
    with harness.path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * 3_900)


def _spoiled_root(harness: SqliteHarness) -> None:
    connection = sqlite3.connect(harness.path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs'").fetchone()
    connection.close()
    with harness.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


def _another_program(harness: SqliteHarness) -> None:
    harness.path.unlink()
    connection = sqlite3.connect(harness.path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()


def _newer(harness: SqliteHarness) -> None:
    connection = sqlite3.connect(harness.path, isolation_level=None)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def _newer_in_the_log(harness: SqliteHarness) -> None:
    _with_log(harness, "UPDATE alembic_version SET version_num = '9999'")


def _newer_in_the_log_without_index(harness: SqliteHarness) -> None:
    _newer_in_the_log(harness)
    (harness.directory / "turnkeeper.db-shm").unlink()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "spoil",
    [
        _garbage,
        _short_garbage,
        _cut_short,
        _spoiled_schema,
        _spoiled_root,
        _another_program,
        _newer,
        _newer_in_the_log,
        _newer_in_the_log_without_index,
    ],
)
async def test_what_cannot_be_read_is_left_untouched(
    harness: SqliteHarness, spoil: Callable[[SqliteHarness], None]
) -> None:
    await _fill(harness)
    spoil(harness)
    before = harness.files()
    store = harness.store()
    with pytest.raises(StoreUnreadableError) as caught:
        await store.open()
    assert caught.value.path == str(harness.path)
    assert str(harness.path) in str(caught.value)
    await store.close()
    after = harness.files()
    # The index of the log is no data: any process that opens the log rebuilds it.
    if before.pop("turnkeeper.db-shm", None) is not None:
        after.pop("turnkeeper.db-shm", None)
    assert after == before


@pytest.mark.asyncio
async def test_a_log_without_its_index_is_replayed(harness: SqliteHarness) -> None:
    await _fill(harness)
    _with_log(harness, "UPDATE sessions SET title = 'from the log'")
    (harness.directory / "turnkeeper.db-shm").unlink()
    async with opened(harness) as store:
        row = await store.get_session(TENANT, "s1")
        assert row is not None
        assert row.title == "from the log"


@pytest.mark.asyncio
@pytest.mark.parametrize("content", [b"", None], ids=["empty file", "file without tables"])
async def test_an_opening_that_was_cut_off_is_done_again(harness: SqliteHarness, content: bytes | None) -> None:
    harness.directory.mkdir()
    if content is not None:
        harness.path.write_bytes(content)
    else:
        connection = sqlite3.connect(harness.path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA user_version = 0")
        connection.close()
    async with opened(harness) as store:
        await store.commit(new_session())


def _emptied(harness: SqliteHarness) -> None:
    os.truncate(harness.path, 0)


def _without_tables(harness: SqliteHarness) -> None:
    harness.path.unlink()
    connection = sqlite3.connect(harness.path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def _gone(harness: SqliteHarness) -> None:
    harness.path.unlink()


def _gone_but_for_its_log(harness: SqliteHarness) -> None:
    _with_log(harness, "UPDATE sessions SET title = 'from the log'")
    harness.path.unlink()
    # As of a version that left no mark.
    (harness.directory / "CREATED").unlink()


@pytest.mark.asyncio
@pytest.mark.parametrize("lose", [_emptied, _without_tables, _gone, _gone_but_for_its_log])
async def test_a_database_that_was_lost_is_not_made_anew(
    harness: SqliteHarness, lose: Callable[[SqliteHarness], None]
) -> None:
    await _fill(harness)
    # The next start of a version that knows no mark makes it.
    (harness.directory / "CREATED").unlink()
    async with opened(harness):
        pass
    lose(harness)
    before = harness.files()
    store = harness.store()
    with pytest.raises(StoreUnreadableError, match="held a database before") as caught:
        await store.open()
    assert str(harness.directory / "CREATED") in str(caught.value)
    await store.close()
    assert harness.files() == before
    # What it says helps.
    for path in harness.directory.iterdir():
        if path.name != "LOCK":
            path.unlink()
    async with opened(harness) as anew:
        await anew.commit(new_session())


@pytest.mark.parametrize("after", range(4))
def test_a_first_start_that_is_killed_is_done_again(harness: SqliteHarness, after: int) -> None:
    steps = ("connect_writer", "read_revision", "mark_created", "take_epoch")
    code = f"""if True:
        import asyncio, os, signal
        from turnkeeper_service.store import database, sqlite
        def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
        database.{steps[after]} = kill
        async def main(): await sqlite.SqliteStore({str(harness.directory)!r}).open()
        asyncio.run(main())"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL

    async def start_again() -> None:
        async with opened(harness) as store:
            await store.commit(new_session())

    asyncio.run(start_again())


@pytest.mark.asyncio
async def test_a_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "data"):
        store = SqliteHarness(directory).store()
        with pytest.raises(StoreUnwritableError) as caught:
            await store.open()
        assert caught.value.path.startswith(str(directory))
        await store.close()


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A directory that can be reached, and the rights of one who may not write everywhere."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        user = os.geteuid()
        if user == 0:
            os.chown(directory, 65534, 65534)
            os.seteuid(65534)
        try:
            yield directory
        finally:
            os.seteuid(user)
            directory.chmod(0o755)


@pytest.mark.asyncio
async def test_a_directory_that_cannot_be_written_is_named(nobody: Path) -> None:
    os.chmod(nobody, 0o555)
    for directory in (nobody, nobody / "data"):
        store = SqliteHarness(directory).store()
        with pytest.raises(StoreUnwritableError) as caught:
            await store.open()
        assert caught.value.path.startswith(str(directory))
        await store.close()


@pytest.mark.asyncio
async def test_a_file_that_cannot_be_written_is_named(nobody: Path) -> None:
    harness = SqliteHarness(nobody)
    await _fill(harness)
    harness.path.chmod(0o444)
    before = harness.files()
    store = harness.store()
    with pytest.raises(StoreUnwritableError) as caught:
        await store.open()
    assert caught.value.path == str(harness.path)
    await store.close()
    assert harness.files() == before


@pytest.mark.asyncio
async def test_a_store_is_opened_once(harness: SqliteHarness) -> None:
    store = harness.store()
    with pytest.raises(StoreClosedError):
        await store.get_run(TENANT, "r1")
    with pytest.raises(StoreClosedError):
        await store.commit(new_session())
    await store.open()
    with pytest.raises(StoreError):
        await store.open()
    await store.close()


@pytest.mark.asyncio
async def test_epochs_end_before_they_do_not_fit(harness: SqliteHarness) -> None:
    async with opened(harness):
        pass
    connection = sqlite3.connect(harness.path, isolation_level=None)
    connection.execute("UPDATE boot SET epoch = (1 << 21) - 2")
    connection.close()
    store = harness.store()
    assert (await store.open()).epoch == (1 << 21) - 1
    await store.close()
    before = harness.dump()
    store = harness.store()
    with pytest.raises(StoreError, match="bound"):
        await store.open()
    await store.close()
    assert harness.dump() == before


def _shape(path: Path) -> dict[str, str]:
    """Every table and index, as SQL without its layout."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [(migrate.HEAD,)]
        assert connection.execute("SELECT * FROM boot").fetchall() == [(1, 0, 0)]
    finally:
        connection.close()
    return {name: re.sub(r"\s+", "", sql) for name, sql in rows}


def test_the_migrations_make_the_tables_of_the_schema(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD
    for name, make in (("migrated.db", migrate.upgrade), ("created.db", migrate.create)):
        driver = connect_writer(tmp_path / name)
        make(driver)
        driver.close()
    assert _shape(tmp_path / "migrated.db") == _shape(tmp_path / "created.db")
    engine = create_engine(f"sqlite:///{tmp_path}/migrated.db", poolclass=NullPool)
    made = create_engine(f"sqlite:///{tmp_path}/made.db", poolclass=NullPool)
    METADATA.create_all(made)
    indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name <> 'alembic_version' ORDER BY name"
    with engine.connect() as connection, made.connect() as other:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        # What the comparison passes over: the conditions of indexes, keys and clustering.
        assert connection.exec_driver_sql(indexes).all() == other.exec_driver_sql(indexes).all()
        for table in METADATA.tables:
            assert inspect(connection).get_pk_constraint(table) == inspect(other).get_pk_constraint(table)
            flags = f"SELECT wr FROM pragma_table_list('{table}') WHERE schema = 'main'"
            assert connection.exec_driver_sql(flags).scalar() == other.exec_driver_sql(flags).scalar()


def test_what_was_stored_before_there_were_slots_has_its_slot(harness: SqliteHarness) -> None:
    names = [f"s{number}" for number in range(9)]

    async def written() -> None:
        async with opened(harness) as store:
            await asyncio.gather(
                *(store.commit(new_session(name, run(f"r-{name}", at, name))) for at, name in enumerate(names, 1))
            )

    asyncio.run(written())
    before = harness.dump()
    driver = sqlite3.connect(harness.path, isolation_level=None)
    for statement in (
        "DROP INDEX sessions_deleting",
        "DROP INDEX runs_open",
        "ALTER TABLE sessions DROP COLUMN slot",
        "ALTER TABLE runs DROP COLUMN slot",
        "CREATE INDEX sessions_deleting ON sessions (ordinal) WHERE state = 2",
        "CREATE INDEX runs_open ON runs (accept_sequence) WHERE state < 4",
        "UPDATE alembic_version SET version_num = '0003'",
    ):
        driver.execute(statement)
    driver.close()

    async def opened_again() -> None:
        async with opened(harness) as store:
            for name in names:
                rows = await store.open_runs({slot_of(TENANT, name)})
                assert [row.session_id for row in rows] == [name]

    asyncio.run(opened_again())
    kept = [line for line in harness.dump() if line.startswith("INSERT") and "boot" not in line]
    assert kept == [line for line in before if line.startswith("INSERT") and "boot" not in line]


def test_a_database_that_was_made_before_learns_to_shrink(harness: SqliteHarness) -> None:
    async def used() -> None:
        async with opened(harness) as store:
            await store.commit(new_session())

    def mode(*statements: str) -> int:
        connection = sqlite3.connect(harness.path, isolation_level=None)
        for statement in statements:
            connection.execute(statement)
        (found,) = connection.execute("PRAGMA auto_vacuum").fetchone()
        connection.close()
        return int(found)

    asyncio.run(used())
    assert mode() == 2
    assert mode("PRAGMA auto_vacuum = NONE", "VACUUM") == 0
    before = harness.dump()

    async def opened_again() -> None:
        async with opened(harness) as store:
            assert await store.get_session(TENANT, "s1") is not None

    asyncio.run(opened_again())
    assert mode() == 2
    assert [line for line in harness.dump() if "boot" not in line] == [line for line in before if "boot" not in line]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    driver = connect_writer(tmp_path / "turnkeeper.db")
    driver.execute("CREATE TABLE tombstones (in_the_way INTEGER)")
    before = list(driver.iterdump())
    with pytest.raises(OperationalError):
        migrate.upgrade(driver)
    assert not driver.in_transaction
    assert list(driver.iterdump()) == before
    driver.close()


def test_no_statement_reads_a_whole_table(tmp_path: Path) -> None:
    driver = connect_writer(tmp_path / "turnkeeper.db")
    migrate.create(driver)
    scans = set()
    for module in (queries, statements):
        for name, value in vars(module).items():
            for text in value if isinstance(value, tuple) else (value,):
                if not isinstance(text, str) or not text.lstrip().startswith(("SELECT", "UPDATE", "DELETE")):
                    continue
                numbered = [int(number) for number in re.findall(r"\?(\d+)", text)]
                values = (1,) * (max(numbered) if numbered else text.count("?"))
                plan = [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {text}", values)]
                assert not any("TEMP B-TREE" in step for step in plan) or name == "_PARTIALS"
                scans |= {(name, step) for step in plan if step.startswith("SCAN")}
    driver.close()
    # Whole indexes that hold only what is asked for, and a table of at most a few thousand rows.
    assert scans == {
        ("_DELETING", "SCAN sessions USING INDEX sessions_deleting"),
        ("SWEEP_COUNTED", "SCAN tombstones"),
    }
