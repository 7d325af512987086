-- The newest revision, for a new database: made at once, without Alembic, whose import costs a second and 45 MB.
-- A test holds it against the migrations. `turnkeeper_service.store.schema` says why the tables are as they are.

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

INSERT INTO alembic_version (version_num) VALUES ('0004');

CREATE TABLE boot (
    id INTEGER NOT NULL, epoch INTEGER NOT NULL, last_sequence INTEGER NOT NULL,
    PRIMARY KEY (id));

INSERT INTO boot (id, epoch, last_sequence) VALUES (1, 0, 0);

CREATE TABLE sessions (
    ordinal INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, state INTEGER NOT NULL,
    created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    title TEXT NOT NULL, settings BLOB NOT NULL, usage BLOB NOT NULL, delete_us INTEGER,
    context_tokens BLOB NOT NULL DEFAULT x'', todos BLOB NOT NULL DEFAULT x'',
    slot INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT sessions_by_id UNIQUE (tenant, session_id));

CREATE INDEX sessions_by_creation ON sessions (tenant, ordinal);

CREATE INDEX sessions_deleting ON sessions (ordinal, slot) WHERE state = 2;

CREATE INDEX sessions_deleted ON sessions (delete_us) WHERE state = 3;

CREATE TABLE runs (
    tenant TEXT NOT NULL, run_id TEXT NOT NULL, session_id TEXT NOT NULL,
    accept_sequence INTEGER NOT NULL, kind INTEGER NOT NULL, delivery INTEGER NOT NULL, state INTEGER NOT NULL,
    fingerprint BLOB NOT NULL, submission BLOB NOT NULL,
    created_us INTEGER NOT NULL, started_us INTEGER, finished_us INTEGER,
    cancel BLOB, outcome BLOB, steers TEXT, details BLOB NOT NULL, first_seq INTEGER NOT NULL,
    slot INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT runs_by_id UNIQUE (tenant, run_id));

CREATE INDEX runs_by_session ON runs (tenant, session_id, accept_sequence);

CREATE INDEX runs_open ON runs (accept_sequence, slot) WHERE state < 4;

CREATE TABLE events (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, seq INTEGER NOT NULL,
    run_id TEXT NOT NULL, kind INTEGER NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (tenant, session_id, seq)) WITHOUT ROWID;

CREATE TABLE messages (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, seq INTEGER NOT NULL,
    message_id TEXT NOT NULL, context_id TEXT NOT NULL, run_id TEXT NOT NULL, turn_id TEXT NOT NULL,
    role INTEGER NOT NULL, in_context INTEGER NOT NULL,
    PRIMARY KEY (tenant, session_id, seq),
    CONSTRAINT messages_by_id UNIQUE (tenant, session_id, message_id)) WITHOUT ROWID;

CREATE INDEX messages_in_context ON messages (tenant, session_id, context_id, seq) WHERE in_context = 1;

CREATE TABLE partials (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, run_id TEXT NOT NULL, message_id TEXT NOT NULL,
    attempt INTEGER NOT NULL, part INTEGER NOT NULL, kind INTEGER NOT NULL, text_offset INTEGER NOT NULL,
    content BLOB NOT NULL,
    CONSTRAINT partials_by_place UNIQUE (tenant, run_id, attempt, part, text_offset, message_id));

CREATE INDEX partials_by_session ON partials (tenant, session_id);

CREATE TABLE tombstones (
    tenant TEXT NOT NULL, run_id TEXT NOT NULL, session_id TEXT NOT NULL,
    created_us INTEGER NOT NULL, cancel BLOB NOT NULL,
    PRIMARY KEY (tenant, run_id, session_id)) WITHOUT ROWID;
