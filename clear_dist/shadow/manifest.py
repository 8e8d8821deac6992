"""Who does what, and what is done: the farm's SQLite database, ``farm.db``, on the one host that works on it.

    pending --claim--> leased --commit--> done
       ^                 |  |
       '---- fail -------'  '-- MAX_ATTEMPTS --> quarantined      reopen: done -> pending (its files are gone)

A task is leased for LEASE seconds, prolonged by heartbeats; one whose lease ran out may be claimed by another worker.
Every lease has a fresh random token, and only who holds the present one can commit (fencing): a worker that was taken
for dead and comes back changes nothing. Attempts are counted when a task is claimed, so a task that kills its worker
is counted too; a lease given back in good order is not. The clock is Unix time, which may jump: a lease may then end
early, which costs work but, by fencing, is never wrong.

Write-ahead logging: a reader (progress) never waits for a writer, nor makes one wait. Transactions that write are
IMMEDIATE, so that two claims cannot both read the same pending task.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from clear_dist.reading import json_value

from .objects import Ref
from .sidecars import Done, finite, has_its_types, sidecar_path, write_sidecar
from .task import Task

DATABASE = "farm.db"
MAX_ATTEMPTS = 3
LEASE = 90.0  # seconds
BUSY = 60.0  # seconds that a transaction waits for others'
ERROR_TAIL = 4000  # characters kept of a traceback

SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    key TEXT PRIMARY KEY, position INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL,
    parents TEXT NOT NULL, keep INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'leased', 'done', 'quarantined')),
    attempts INTEGER NOT NULL DEFAULT 0, worker TEXT, token TEXT, lease_until REAL, error TEXT,
    result TEXT, result_size INTEGER, weights TEXT, weights_size INTEGER, metrics TEXT, seconds REAL, finished_at REAL
);
CREATE TABLE IF NOT EXISTS links (child TEXT NOT NULL, parent TEXT NOT NULL, PRIMARY KEY (child, parent));
CREATE TABLE IF NOT EXISTS workers (name TEXT PRIMARY KEY, seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS notes (at REAL NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_state ON tasks (state, position);
"""

READY = """NOT EXISTS (SELECT 1 FROM links JOIN tasks AS p ON p.key = links.parent
    WHERE links.child = tasks.key AND p.state <> 'done')"""
CLEAR = "worker = NULL, token = NULL, lease_until = NULL"


@dataclass(frozen=True)
class Lease:
    """A task that is a worker's for now. ``attempt`` counts from 1; ``parents``: key -> SHA-256 of the weights."""

    task: Task
    worker: str
    token: str
    attempt: int
    parents: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """A task as the database has it; ``done`` where it is."""

    task: Task
    state: str
    attempts: int
    worker: str | None
    error: str | None
    done: Done | None


def row_of(record: sqlite3.Row) -> Row:
    """A record of the table ``tasks``. Raises ValueError for one that no farm writes."""
    r = record
    spec, parents = json_value(r["spec"]), json_value(r["parents"])
    texts = (r["key"], r["kind"], r["name"], r["worker"] or "", r["error"] or "", r["state"])
    lists = isinstance(spec, dict) and isinstance(parents, list) and type(r["attempts"]) is int
    if not lists or not all(isinstance(text, str) for text in (*texts, *parents)):
        raise ValueError("a record of a task has a field of another kind")
    task = Task(r["key"], r["kind"], r["name"], spec, tuple(parents), bool(r["keep"]))
    done = None
    if r["state"] == "done":
        weights = Ref(r["weights"], r["weights_size"]) if r["weights"] else None
        result = Ref(r["result"], r["result_size"])
        metrics = json_value(r["metrics"] or "null")
        done = Done(
            task.key, task.kind, task.name, result, weights, metrics, r["seconds"], r["finished_at"], r["worker"]
        )
        if not has_its_types(done):
            raise ValueError("a record of a finished task has a field of another kind")
    return Row(task, r["state"], r["attempts"], r["worker"], r["error"], done)


class Manifest:
    """One connection to a farm's database, for one thread."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.clock = folder, clock
        self._db = sqlite3.connect(folder / DATABASE, timeout=BUSY, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(SCHEMA)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: whole, or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # -- what is to be done

    def add(self, tasks: Sequence[Task]) -> None:
        """Put tasks in, in this order; those that are there stay as they are, but for weights that are wanted now."""
        with self._write() as db:
            for position, task in enumerate(tasks):
                db.execute(
                    "INSERT INTO tasks (key, position, kind, name, spec, parents, keep) VALUES (?, ?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET position = excluded.position, name = excluded.name,"
                    " keep = excluded.keep",
                    (task.key, position, task.kind, task.name, json.dumps(dict(task.spec)),
                     json.dumps(task.parents), int(task.keep_weights)),
                )  # fmt: skip
                links = [(task.key, parent) for parent in task.parents]
                db.executemany("INSERT OR IGNORE INTO links VALUES (?, ?)", links)

    def rows(self) -> list[Row]:
        """All tasks, in the plan's order."""
        return [row_of(record) for record in self._db.execute("SELECT * FROM tasks ORDER BY position")]

    def has_work(self) -> bool:
        """Whether a task is leased, or could be. What waits for a quarantined task could not."""
        query = f"SELECT EXISTS (SELECT 1 FROM tasks WHERE state = 'leased' OR (state = 'pending' AND {READY}))"
        return bool(self._db.execute(query).fetchone()[0])

    def finished(self) -> int:
        """How many tasks are done."""
        return int(self._db.execute("SELECT count(*) FROM tasks WHERE state = 'done'").fetchone()[0])

    def unfinished(self) -> int:
        """How many tasks are pending, even if they wait for a quarantined one, or leased."""
        query = "SELECT count(*) FROM tasks WHERE state IN ('pending', 'leased')"
        return int(self._db.execute(query).fetchone()[0])

    # -- a worker's part

    def claim(self, worker: str) -> Lease | None:
        """Lease the first task of the plan whose parents are done and that nobody holds; None where there is none.
        Those that have failed come after those that have not, so that a bad one holds nothing up. A task that has used
        up its attempts, the last one by losing its worker, is quarantined on the way."""
        now = self.clock()
        free = f"(state = 'pending' OR (state = 'leased' AND lease_until < ?)) AND {READY}"
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?)", (worker, now))
            while True:
                record = db.execute(
                    f"SELECT * FROM tasks WHERE {free} ORDER BY attempts, position LIMIT 1", (now,)
                ).fetchone()
                if record is None:
                    return None
                row = row_of(record)
                if row.attempts < MAX_ATTEMPTS:
                    break
                why = row.error or f"worker {row.worker} stopped answering"
                db.execute(
                    f"UPDATE tasks SET state = 'quarantined', error = ?, {CLEAR} WHERE key = ?", (why, row.task.key)
                )
            token = secrets.token_hex(16)
            db.execute(
                "UPDATE tasks SET state = 'leased', attempts = attempts + 1, worker = ?, token = ?, lease_until = ?"
                " WHERE key = ?",
                (worker, token, now + LEASE, row.task.key),
            )
            query = "SELECT key, weights FROM tasks JOIN links ON tasks.key = links.parent WHERE links.child = ?"
            parents = {r["key"]: r["weights"] for r in db.execute(query, (row.task.key,))}
            return Lease(row.task, worker, token, row.attempts + 1, parents)

    def heartbeat(self, lease: Lease) -> bool:
        """Prolong a lease; False where it has gone to another."""
        now = self.clock()
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?)", (lease.worker, now))
            return self._held(db, lease, "lease_until = ?", (now + LEASE,))

    def commit(
        self, lease: Lease, result: Ref, weights: Ref | None, metrics: Mapping[str, float], seconds: float
    ) -> bool:
        """Record a finished task; False, and nothing is recorded, where its lease has gone to another.

        The sidecar is written within the transaction: after the check, so that a late worker cannot replace the
        sidecar of the one that committed, and before the row, so that no row is without one.
        """
        task, now = lease.task, self.clock()
        done = Done(task.key, task.kind, task.name, result, weights, finite(metrics), seconds, now, lease.worker)
        with self._write() as db:
            if not self._held(db, lease, "lease_until = ?", (now + LEASE,)):
                return False
            write_sidecar(self.folder, done)
            self._set_done(db, done)
        return True

    def fail(self, lease: Lease, error: str) -> bool:
        """Record a failed attempt; the last one quarantines the task. False where its lease has gone to another."""
        state = "quarantined" if lease.attempt >= MAX_ATTEMPTS else "pending"
        with self._write() as db:
            return self._held(db, lease, f"state = ?, error = ?, {CLEAR}", (state, error[-ERROR_TAIL:]))

    def _held(self, db: sqlite3.Connection, lease: Lease, change: str, values: tuple[object, ...]) -> bool:
        query = f"UPDATE tasks SET {change} WHERE key = ? AND state = 'leased' AND token = ?"
        return db.execute(query, (*values, lease.task.key, lease.token)).rowcount == 1

    def _set_done(self, db: sqlite3.Connection, done: Done) -> None:
        weights = (done.weights.sha256, done.weights.size) if done.weights else (None, None)
        db.execute(
            "UPDATE tasks SET state = 'done', worker = ?, token = NULL, lease_until = NULL, error = NULL, result = ?,"
            " result_size = ?, weights = ?, weights_size = ?, metrics = ?, seconds = ?, finished_at = ? WHERE key = ?",
            (done.worker, done.result.sha256, done.result.size, *weights, json.dumps(done.metrics), done.seconds,
             done.finished_at, done.key),
        )  # fmt: skip

    # -- what those who watch workers do

    def give_back(self, worker: str | None = None) -> int:
        """Give back what ``worker`` (None: any) holds, as if it had not been claimed; how many tasks that was."""
        who, values = ("", ()) if worker is None else (" AND worker = ?", (worker,))
        query = f"UPDATE tasks SET state = 'pending', attempts = attempts - 1, {CLEAR} WHERE state = 'leased'{who}"
        with self._write() as db:
            return db.execute(query, values).rowcount

    def abandon(self, worker: str, error: str) -> int:
        """A worker died: what it held has failed once more. How many tasks that was."""
        query = (
            f"UPDATE tasks SET state = CASE WHEN attempts >= {MAX_ATTEMPTS} THEN 'quarantined' ELSE 'pending' END,"
            f" error = ?, {CLEAR} WHERE state = 'leased' AND worker = ?"
        )
        with self._write() as db:
            return db.execute(query, (error[-ERROR_TAIL:], worker)).rowcount

    def adopt(self, done: Done) -> None:
        """Take a task for done on the word of its sidecar."""
        with self._write() as db:
            self._set_done(db, done)

    def reopen(self, key: str, why: str, *, afresh: bool = False) -> None:
        """A finished task's files are gone or damaged: it is to be done again. ``afresh``: its attempts begin anew;
        within a run they do not, so that a disk that spoils every file ends in quarantine, not in a circle."""
        with self._write() as db:
            changed = db.execute(
                "UPDATE tasks SET state = 'pending', result = NULL, weights = NULL, worker = NULL,"
                f" attempts = {'0' if afresh else 'attempts'}, error = ? WHERE key = ? AND state = 'done'",
                (why, key),
            ).rowcount
            if changed:
                sidecar_path(self.folder, key).unlink(missing_ok=True)
                name = db.execute("SELECT name FROM tasks WHERE key = ?", (key,)).fetchone()["name"]
                db.execute("INSERT INTO notes VALUES (?, ?)", (self.clock(), f"{name} is done again: {why}"))

    def retry_quarantined(self) -> int:
        """Give every quarantined task its attempts again; how many there were."""
        with self._write() as db:
            return db.execute("UPDATE tasks SET state = 'pending', attempts = 0 WHERE state = 'quarantined'").rowcount

    def note(self, text: str) -> None:
        """Keep something that people should know about what happened to the farm."""
        with self._write() as db:
            db.execute("INSERT INTO notes VALUES (?, ?)", (self.clock(), text))

    def sound(self) -> bool:
        """Whether SQLite finds its own file in order."""
        return self._db.execute("PRAGMA quick_check").fetchone()[0] == "ok"
