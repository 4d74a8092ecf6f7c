"""Migration 0015 on PostgreSQL: every certificate goes into the partition of its year, a piece at a time.

An old store may have tens of millions of rows of many years, and a year is a table of its own: rows have to be written
anew. That is done beside the old table, in steps of one short transaction each, so that an upgrade that was broken off
goes on where it was, the server's log is recycled meanwhile, and nobody waits: until the last step others go on reading
and writing the old table. A trigger there notes what changes, and what was noted is copied again.

    rows     `certificates_moved` and `certificate_serials` are filled, in the order of ids, without indexes
    indexes  one after the other, in each year
    changes  what was written meanwhile, until little is left
    finish   the migration itself: the old table is locked, the last changes follow, what is revoked is compared, the
             tables change places. References are made anew and looked through afterwards (`validate`).

Where nothing was prepared the migration does all of it in its own transaction: in an empty store, that is at once.
Knows the schema as it was then, which later migrations may change; takes synchronous connections, as migrations do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, text

from core.errors import SettingsError

#: Name of the step, how far it is, and how far it goes.
Progress = Callable[[str, int, int], None]

REVISION: Final = "0015"
BEFORE: Final = "0017"
#: Rows that are copied, or copied again, in one transaction.
PIECE: Final = 20_000

_MONTHS: Final = 12
_KEPT: Final = (
    "id, authority_id, serial, usage, profile, pair_id, subject, public_key, not_before_ms, not_after_ms, partition,"
    " status_month, status_index, certificate, issued_at_ms, state, revoked_at_ms, reason, invalidity_at_ms, holder_id"
)
#: (table, column) of what refers to a certificate by its id.
REFERRING: Final = (
    ("escrowed_keys", "certificate_id"),
    ("certificate_events", "certificate_id"),
    ("certificate_events", "previous_id"),
    ("recoveries", "certificate_id"),
    ("recoveries", "recipient_id"),
    ("unlocks", "certificate_id"),
)

_START: Final = (
    "LOCK TABLE certificates IN SHARE ROW EXCLUSIVE MODE",
    """
    CREATE TABLE certificate_serials (
      id BIGSERIAL NOT NULL, authority_id VARCHAR(32) NOT NULL, serial BYTEA NOT NULL, status_month INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE certificates_moved (
      id BIGINT NOT NULL, authority_id VARCHAR(32) NOT NULL, serial BYTEA NOT NULL, usage VARCHAR(8) NOT NULL,
      profile VARCHAR(64) NOT NULL, pair_id BIGINT, subject BYTEA NOT NULL, public_key BYTEA NOT NULL,
      not_before_ms BIGINT NOT NULL, not_after_ms BIGINT NOT NULL, partition INTEGER NOT NULL,
      status_month INTEGER NOT NULL, status_index BIGINT NOT NULL, certificate BYTEA NOT NULL,
      issued_at_ms BIGINT NOT NULL, state VARCHAR(8) NOT NULL, revoked_at_ms BIGINT, reason INTEGER,
      invalidity_at_ms BIGINT, holder_id VARCHAR(32), segment INTEGER,
      CONSTRAINT ck_certificates_state CHECK (state IN ('good', 'held', 'revoked')),
      CONSTRAINT ck_certificates_usage CHECK (usage IN ('sign', 'encrypt', 'ca', 'ocsp')),
      CONSTRAINT ck_certificates_revoked_at CHECK ((state = 'good') = (revoked_at_ms IS NULL))
    ) PARTITION BY RANGE (status_month)
    """,
    "CREATE TABLE certificates_changed (id BIGINT NOT NULL)",
    """
    CREATE FUNCTION certificates_note_change() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
      INSERT INTO certificates_changed VALUES (CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END);
      RETURN NULL;
    END $body$
    """,
    """
    CREATE TRIGGER certificates_note_change AFTER INSERT OR UPDATE OR DELETE ON certificates
    FOR EACH ROW EXECUTE FUNCTION certificates_note_change()
    """,
    "CREATE TABLE certificates_moving (phase VARCHAR(8) NOT NULL, done BIGINT NOT NULL, total BIGINT NOT NULL)",
    "INSERT INTO certificates_moving SELECT 'rows', 0, coalesce(max(id), 0) FROM certificates",
)

#: What was recorded before there were statistics counts under the heading that is known of it.
_HEADINGS: Final = """
INSERT INTO statistics_segments (authority_id, usage, profile, ra, region, customer)
SELECT DISTINCT c.authority_id, c.usage, c.profile, '', '', '' FROM certificates AS c
WHERE {rows} AND c.segment IS NULL AND NOT EXISTS (SELECT 1 FROM statistics_segments AS s WHERE {same})
"""
_SAME: Final = (
    "s.authority_id = c.authority_id AND s.usage = c.usage AND s.profile = c.profile"
    " AND s.ra = '' AND s.region = '' AND s.customer = ''"
)
_COPY: Final = f"""
INSERT INTO certificates_moved ({_KEPT}, segment)
SELECT {_KEPT}, coalesce(c.segment, (SELECT s.id FROM statistics_segments AS s WHERE {_SAME}))
FROM certificates AS c WHERE {{rows}} ORDER BY c.id
"""  # noqa: S608 - constants
_COPY_IDENTITIES: Final = """
INSERT INTO certificate_serials (id, authority_id, serial, status_month)
SELECT c.id, c.authority_id, c.serial, c.status_month FROM certificates AS c WHERE {rows} ORDER BY c.id
"""
_YEARS: Final = "SELECT DISTINCT c.status_month / 12 FROM certificates AS c WHERE {rows}"

_IDENTITY_INDEXES: Final = (
    "ALTER TABLE certificate_serials ADD CONSTRAINT pk_certificate_serials PRIMARY KEY (id)",
    "ALTER TABLE certificate_serials ADD CONSTRAINT uq_certificate_serials_authority_id_serial"
    " UNIQUE (authority_id, serial)",
)
#: Of a year's table and, with names, of the whole: PostgreSQL gives a year's the names that it would give them anyway,
#: and takes them for the parts of the whole's.
_INDEXES: Final = (
    ("crl", "(authority_id, partition, state)"),
    (
        "listed",
        "(authority_id, partition, serial, revoked_at_ms, reason, invalidity_at_ms, not_after_ms)"
        " WHERE revoked_at_ms IS NOT NULL",
    ),
    ("holder", "(holder_id) WHERE holder_id IS NOT NULL"),
    ("public_key", "USING hash (public_key) WHERE usage = 'sign'"),
)
_CONSTRAINTS: Final = (
    ("pk_certificates", "PRIMARY KEY (id, status_month)"),
    ("uq_certificates_authority_id_status_month_status_index", "UNIQUE (authority_id, status_month, status_index)"),
)

#: Everything that a CRL or an answer says of those that are not good; the partial index has it all.
_LISTED: Final = """
SELECT count(*), coalesce(sum(hashtextextended(concat_ws(' ', authority_id, partition, encode(serial, 'hex'),
  revoked_at_ms, reason, invalidity_at_ms, not_after_ms), 0)::numeric), 0)
FROM {table} WHERE revoked_at_ms IS NOT NULL
"""

_UNVALIDATED: Final = """
SELECT r.relname, c.conname FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
WHERE NOT c.convalidated AND c.contype = 'f'
  AND r.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'certificates'::regclass)
ORDER BY r.relname, c.conname
"""


def _execute(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def started(connection: Connection) -> bool:
    """Whether any of it was done before."""
    return connection.exec_driver_sql("SELECT to_regclass('certificates_moving') IS NOT NULL").scalar_one()  # type: ignore[no-any-return]


def start(connection: Connection) -> None:
    """Makes the tables, and notes from here on what changes. Waits for those who write, and they wait for it."""
    if not started(connection):
        _execute(connection, *_START)


def abandon(connection: Connection) -> None:
    """Takes away everything that was prepared; the old table was never touched."""
    if started(connection):
        _execute(
            connection,
            "LOCK TABLE certificates IN SHARE ROW EXCLUSIVE MODE",
            "DROP TRIGGER certificates_note_change ON certificates",
            "DROP FUNCTION certificates_note_change()",
            "DROP TABLE certificates_moved, certificate_serials, certificates_changed, certificates_moving",
        )


def _moving(connection: Connection) -> tuple[str, int, int]:
    row = connection.exec_driver_sql("SELECT phase, done, total FROM certificates_moving FOR UPDATE").one()
    return str(row[0]), int(row[1]), int(row[2])


def _note(connection: Connection, phase: str, done: int, total: int) -> None:
    connection.execute(
        text("UPDATE certificates_moving SET phase = :phase, done = :done, total = :total"),
        {"phase": phase, "done": done, "total": total},
    )


def _copy(connection: Connection, rows: str, values: dict[str, Any]) -> None:
    """Copies those rows of the old table; their years are made where they are missing."""
    connection.execute(text(_HEADINGS.format(rows=rows, same=_SAME)), values)
    for year in connection.execute(text(_YEARS.format(rows=rows)), values).scalars().all():
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS certificates_{year:04d} PARTITION OF certificates_moved"
            f" FOR VALUES FROM ({year * _MONTHS}) TO ({(year + 1) * _MONTHS})"
        )
    # A row that appears between the two is noted, too, and copied again.
    for statement in (_COPY, _COPY_IDENTITIES):
        connection.execute(text(statement.format(rows=rows)), values)


def _copy_rows(connection: Connection, done: int, total: int) -> None:
    last = connection.execute(
        text(
            "SELECT max(id) FROM"
            " (SELECT id FROM certificates WHERE id > :done AND id <= :total ORDER BY id LIMIT :piece) AS piece"
        ),
        {"done": done, "total": total, "piece": PIECE},
    ).scalar_one()
    if last is None:
        _note(connection, "indexes", 0, len(_index_statements(connection)))
        return
    _copy(connection, "c.id > :first AND c.id <= :last", {"first": done, "last": last})
    _note(connection, "rows", last, total)


def _years(connection: Connection) -> Sequence[str]:
    found = connection.exec_driver_sql(
        "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'certificates_moved'::regclass ORDER BY c.relname"
    )
    return found.scalars().all()


def _index_statements(connection: Connection) -> list[str]:
    statements = list(_IDENTITY_INDEXES)
    for year in _years(connection):
        statements += [f"ALTER TABLE {year} ADD {what}" for _, what in _CONSTRAINTS]
        statements += [f"CREATE INDEX ON {year} {what}" for _, what in _INDEXES]
    return statements


def _build_index(connection: Connection, done: int, total: int) -> None:
    """No year is added in this phase: what would need one is only noted."""
    statements = _index_statements(connection)
    if done < len(statements):
        connection.exec_driver_sql(statements[done])
        _note(connection, "indexes", done + 1, total)
    else:
        _note(connection, "changes", 0, 0)


def _follow(connection: Connection, most: int) -> int:
    """Copies again what was noted, at most so many notes; returns how many there were."""
    noted = connection.execute(
        text(
            "DELETE FROM certificates_changed"
            " WHERE ctid = ANY(ARRAY(SELECT ctid FROM certificates_changed LIMIT :most)) RETURNING id"
        ),
        {"most": most},
    )
    found = noted.scalars().all()
    if found:
        # A statement sees what was committed before it began: what is read here is no older than what was noted.
        values = {"ids": sorted(set(found))}
        connection.execute(text("DELETE FROM certificate_serials WHERE id = ANY(:ids)"), values)
        connection.execute(text("DELETE FROM certificates_moved WHERE id = ANY(:ids)"), values)
        _copy(connection, "c.id = ANY(:ids)", values)
    return len(found)


def step(connection: Connection) -> tuple[str, int, int] | None:
    """Does the next piece in the caller's transaction; says what was done and how far it is, None when all is ready."""
    phase, done, total = _moving(connection)
    if phase == "rows":
        _copy_rows(connection, done, total)
    elif phase == "indexes":
        _build_index(connection, done, total)
    elif (noted := _follow(connection, PIECE)) < PIECE:
        _note(connection, "changes", done + noted, done + noted)
        return None
    else:
        _note(connection, "changes", done + noted, done + noted)
    return _moving(connection)


def finish(connection: Connection) -> None:
    """The tables change places. Raises SettingsError (code "store_upgrade") where the copy has other rows than the old
    table, or says otherwise of who is revoked.

    Nobody may use the old table any more: from here on it is locked, and then gone.
    """
    connection.exec_driver_sql("LOCK TABLE certificates IN ACCESS EXCLUSIVE MODE")
    while _follow(connection, PIECE):
        pass
    _compare(connection)
    for table, column in REFERRING:
        _execute(
            connection,
            f"ALTER TABLE {table} DROP CONSTRAINT fk_{table}_{column}_certificates",
            f"ALTER TABLE {table} ADD CONSTRAINT fk_{table}_{column}_certificate_serials"
            f" FOREIGN KEY ({column}) REFERENCES certificate_serials (id) NOT VALID",
        )
    _execute(
        connection,
        "ALTER TABLE certificate_serials ADD CONSTRAINT fk_certificate_serials_authority_id_authorities"
        " FOREIGN KEY (authority_id) REFERENCES authorities (id) NOT VALID",
        "SELECT setval('certificate_serials_id_seq', last_value, is_called) FROM certificates_id_seq",
        "DROP TABLE certificates",
        "DROP FUNCTION certificates_note_change()",
        "DROP TABLE certificates_changed, certificates_moving",
        "ALTER TABLE certificates_moved RENAME TO certificates",
    )
    _execute(connection, *(f"ALTER TABLE certificates ADD CONSTRAINT {name} {what}" for name, what in _CONSTRAINTS))
    _execute(connection, *(f"CREATE INDEX ix_certificates_{name} ON certificates {what}" for name, what in _INDEXES))


def _compare(connection: Connection) -> None:
    count = "SELECT count(*) FROM {table}"
    for statement, table in (
        (count, "certificates_moved"),
        (count, "certificate_serials"),
        (_LISTED, "certificates_moved"),
    ):
        before, after = (
            tuple(connection.exec_driver_sql(statement.format(table=name)).one()) for name in ("certificates", table)
        )
        if before != after:
            raise SettingsError(
                f"{table} has other certificates than the old table: {after}, not {before}. Nothing was changed; "
                "'qianyan store upgrade --afresh' makes the copy anew",
                code="store_upgrade",
            )


def unvalidated(connection: Connection) -> list[tuple[str, str]]:
    """(table, constraint) of the references that nobody has looked through yet."""
    return [(row[0], row[1]) for row in connection.exec_driver_sql(_UNVALIDATED)]


def validate(connection: Connection, table: str, name: str) -> None:
    """Looks through one; who reads and writes the table goes on."""
    connection.exec_driver_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def count(connection: Connection) -> None:
    """Statistics for the planner, of the whole and of the years."""
    _execute(connection, "ANALYZE certificates", "ANALYZE certificate_serials")


def whole(connection: Connection) -> None:
    """The migration: what was not prepared is done here, in one transaction, and then `finish`."""
    prepared = started(connection)
    start(connection)
    while step(connection) is not None:
        pass
    finish(connection)
    if not prepared:
        for table, name in unvalidated(connection):
            validate(connection, table, name)
        count(connection)
