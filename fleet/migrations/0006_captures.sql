-- What a device has of the limit for captured samples, and the highest number of a request to it, which outlives
-- the device's row: a device that comes back must not meet an older one.
CREATE TABLE capture_accounts (
    device     TEXT    NOT NULL PRIMARY KEY,
    number     INTEGER NOT NULL DEFAULT 0,
    held_bytes INTEGER NOT NULL DEFAULT 0,
    -- Samples that made room for newer ones.
    dropped    INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE capture_requests (
    device         TEXT    NOT NULL,
    number         INTEGER NOT NULL,
    slot           TEXT,
    bundle         BLOB,
    from_ms        INTEGER NOT NULL,
    to_ms          INTEGER NOT NULL,
    samples_max    INTEGER NOT NULL,
    bytes_max      INTEGER NOT NULL,
    asked_ms       INTEGER NOT NULL,
    -- Bytes of values that the device has sent for it so far.
    received_bytes INTEGER NOT NULL DEFAULT 0,
    -- When the device said that it is done with, and what it said of it.
    finished_ms    INTEGER,
    sent           INTEGER,
    sent_bytes     INTEGER,
    left_out       INTEGER,
    gone           INTEGER,
    capturing      INTEGER,
    PRIMARY KEY (device, number)
) WITHOUT ROWID;
CREATE INDEX capture_requests_open ON capture_requests (device, number) WHERE finished_ms IS NULL;

CREATE TABLE captures (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    device      TEXT    NOT NULL,
    boot        INTEGER NOT NULL,
    source      TEXT    NOT NULL,
    sample      INTEGER NOT NULL,
    slot        TEXT    NOT NULL,
    bundle      BLOB    NOT NULL,
    at_ms       INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    -- `row` or `image`, and the extents of the axes as JSON.
    kind        TEXT    NOT NULL,
    shape       TEXT    NOT NULL,
    len_bytes   INTEGER NOT NULL,
    -- The pieces that it has, and those that came.
    pieces      INTEGER NOT NULL,
    received    INTEGER NOT NULL DEFAULT 0,
    -- What it takes of its device's limit.
    held_bytes  INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    UNIQUE (device, boot, source, sample)
);
CREATE INDEX captures_by_device ON captures (device, id);
CREATE INDEX captures_by_bundle ON captures (bundle, id);

CREATE TABLE capture_pieces (
    capture INTEGER NOT NULL REFERENCES captures (id) ON DELETE CASCADE,
    piece   INTEGER NOT NULL,
    bytes   BLOB    NOT NULL,
    PRIMARY KEY (capture, piece)
) WITHOUT ROWID;

ALTER TABLE health ADD COLUMN inputs_anomalous INTEGER NOT NULL DEFAULT 0;
