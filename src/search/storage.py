"""Where studies lie: an embedded SQLite file, a database server, or a journal file, each safe for several processes.

In: a URL. Out: an Optuna storage in which a waiting trial is taken once and a kill leaves nothing locked or torn.
"""

import fcntl
import importlib.util
import os
import re
import shlex
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from src.base.errors import RunError, SettingError
from src.base.file_system import flock

DRIVERS = {"postgresql": ("psycopg", "psycopg2", "pg8000"), "mysql": ("pymysql", "MySQLdb")}


class JournalLock:
    """Lock of a journal that dies with its holder; without locks Optuna's, which outlives a kill by 30 s."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = -1
        self.instead: JournalFileOpenLock | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if not flock(self.file, fcntl.LOCK_EX, self.path):
            self.instead = self.instead or JournalFileOpenLock(str(self.path))
            return self.instead.acquire()
        return True

    def release(self) -> None:
        """Free it."""
        if self.instead:
            self.instead.release()
        os.close(self.file)


def is_journal(url: str) -> bool:
    """Return whether a storage is a journal file: journal:FILE, or a path that ends in .journal or .log."""
    return url.startswith("journal:") or ("://" not in url and url.endswith((".journal", ".log")))


def shown(url: str) -> str:
    """Return a storage's URL without its password."""
    if is_journal(url):
        return url.removeprefix("journal:")
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError as error:
        raise SettingError(f"--storage {url}: neither a database's URL (sqlite:///FILE, postgresql://USER@HOST/NAME) "
                           "nor a journal file (journal:FILE)") from error


def open_storage(url: str, heartbeat_s: int = 60) -> optuna.storages.BaseStorage:
    """Return the storage at a URL, its file or tables made where missing.

    Raises SettingError for a URL of no known kind or without an installed driver, RunError where it cannot be reached.
    """
    if is_journal(url):
        path = Path(url.removeprefix("journal:")).absolute()
        if path.is_dir():
            raise SettingError(f"--storage {url}: name the journal's file, such as journal:study.log")
        try:
            return JournalStorage(_journal(path))
        except (ValueError, KeyError) as error:
            raise RunError(f"--storage {url}: not a journal of a search, or damaged ({error}); restore the file, or "
                           "name another") from error
    said = shown(url)
    parsed = sqlalchemy.make_url(url)
    if parsed.drivername in DRIVERS:
        driver = next((name for name in DRIVERS[parsed.drivername] if importlib.util.find_spec(name)), None)
        if driver is None:
            raise SettingError(f"--storage {said}: no driver is installed; for PostgreSQL: .venv/bin/python -m pip "
                               "install 'psycopg[binary]', for MySQL: .venv/bin/python -m pip install pymysql")
        parsed = parsed.set(drivername=f"{parsed.drivername}+{driver.lower()}")
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and parsed.database in (None, "", ":memory:"):
        raise SettingError(f"--storage {said}: lies in memory and would be gone at the end; name a file, such as "
                           "sqlite:///study.db")
    if is_sqlite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = optuna.storages.RDBStorage(
            parsed.render_as_string(hide_password=False), heartbeat_interval=heartbeat_s, grace_period=10 * heartbeat_s,
            engine_kwargs={"connect_args": {"timeout": 120}} if is_sqlite else {"pool_pre_ping": True})
    except RuntimeError as error:
        if "table schema" not in str(error):
            raise
        raise RunError(_other_version(said, str(error))) from error
    except ImportError as error:
        raise SettingError(f"--storage {said}: its driver is not installed ({error.__cause__ or error})") from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise RunError(f"--storage {said}: cannot be opened ({_first_line(error)}); is the server up, and does the "
                       "database exist?") from error
    if is_sqlite:
        _serialise(storage.engine)
    return storage


def _other_version(said: str, message: str) -> str:
    """Return what to do with a study that another version of Optuna made."""
    made_by = re.search(r"set up by optuna ([^)]*)\)", message)
    begun = f"--storage {said}: made by Optuna {made_by[1] if made_by else 'of another version'}"
    if "storage upgrade" in message:
        return (f"{begun}; copy it and bring the tables up to date, `.venv/bin/optuna storage upgrade --storage "
                f"{shlex.quote(said)}`, or name another file")
    return f"{begun}, newer than the {optuna.__version__} that is installed; name another file"


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error.__cause__ or error).strip().partition("\n")[0]


def _serialise(engine: sqlalchemy.Engine) -> None:
    """Make each SQLite transaction take the write lock when it begins.

    Python's driver begins one at the first write: two workers would both read that a trial waits, and both take it.
    """
    @sqlalchemy.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()


def _journal(path: Path) -> JournalFileBackend:
    """Return the backend of a journal file, after cutting off a line that a kill or a full disk left unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    guard = JournalLock(path.with_name(f".{path.name}.flock"))
    guard.acquire()
    try:
        with open(path, "a+b") as file:
            file.seek(0)
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        guard.release()
    return JournalFileBackend(str(path), guard)
