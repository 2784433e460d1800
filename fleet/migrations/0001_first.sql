-- Times are Unix milliseconds. Digests are their 32 bytes. Documents of devices are kept as JSON text.

CREATE TABLE devices (
    id            TEXT    NOT NULL PRIMARY KEY,
    labels        TEXT    NOT NULL,
    registered_ms INTEGER NOT NULL,
    salt          BLOB    NOT NULL,
    hash          BLOB    NOT NULL,
    last_seen_ms  INTEGER,
    -- The version byte of a payload that was not understood, until one is understood again.
    wire_met      INTEGER,
    -- Boots below this one are settled: what they send again is discarded.
    boot_floor    INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE statuses (
    device         TEXT    NOT NULL PRIMARY KEY,
    boot           INTEGER NOT NULL,
    online         INTEGER NOT NULL,
    agent_version  TEXT    NOT NULL,
    wire_oldest    INTEGER NOT NULL,
    wire_newest    INTEGER NOT NULL,
    hardware_class TEXT    NOT NULL,
    received_ms    INTEGER NOT NULL
);

CREATE TABLE reported (
    device      TEXT    NOT NULL PRIMARY KEY,
    boot        INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    slots       TEXT    NOT NULL,
    received_ms INTEGER NOT NULL
);

-- The last counters of each boot: their sum over a device's boots is what the device did in all.
CREATE TABLE health (
    device              TEXT    NOT NULL,
    boot                INTEGER NOT NULL,
    uptime_s            INTEGER NOT NULL,
    inferences          INTEGER NOT NULL,
    inferences_failed   INTEGER NOT NULL,
    inputs_malformed    INTEGER NOT NULL,
    swaps               INTEGER NOT NULL,
    sent_bytes          INTEGER NOT NULL,
    received_bytes      INTEGER NOT NULL,
    resident_bytes      INTEGER NOT NULL,
    resident_bytes_peak INTEGER NOT NULL,
    spool_bytes         INTEGER NOT NULL,
    records_dropped     INTEGER NOT NULL,
    received_ms         INTEGER NOT NULL,
    PRIMARY KEY (device, boot)
) WITHOUT ROWID;

-- Points of the throughput chart.
CREATE TABLE health_history (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    device      TEXT    NOT NULL,
    boot        INTEGER NOT NULL,
    inferences  INTEGER NOT NULL,
    received_ms INTEGER NOT NULL
);
CREATE INDEX health_history_by_device ON health_history (device, id);

-- The generation outlives the device's row: a device that comes back must not meet an older one.
CREATE TABLE generations (
    device     TEXT    NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL
);

CREATE TABLE desired (
    device     TEXT    NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL,
    slots      TEXT    NOT NULL,
    document   BLOB    NOT NULL,
    set_ms     INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
);

CREATE TABLE bundles (
    digest        BLOB    NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL,
    version       TEXT    NOT NULL,
    len_bytes     INTEGER NOT NULL,
    statement     BLOB    NOT NULL,
    manifest      TEXT    NOT NULL,
    registered_ms INTEGER NOT NULL
);

-- The topics below `down` and `all` on which a retained message of ours may stand.
CREATE TABLE retained (
    topic TEXT NOT NULL PRIMARY KEY
);

-- Which sequence numbers are stored: ranges that do not touch.
CREATE TABLE received_ranges (
    device TEXT    NOT NULL,
    boot   INTEGER NOT NULL,
    stream TEXT    NOT NULL,
    first  INTEGER NOT NULL,
    last   INTEGER NOT NULL,
    PRIMARY KEY (device, boot, stream, first)
) WITHOUT ROWID;

CREATE TABLE streams (
    device      TEXT    NOT NULL,
    boot        INTEGER NOT NULL,
    stream      TEXT    NOT NULL,
    -- All numbers up to this one are stored.
    through     INTEGER NOT NULL,
    -- Numbers below the largest that are not stored.
    missing     INTEGER NOT NULL,
    -- Records that were stored, whether or not they are still kept.
    records     INTEGER NOT NULL,
    -- Numbers that stand for records which a quota on the device dropped.
    dropped     INTEGER NOT NULL,
    -- Records that stand for a number that was stored before as something else.
    conflicting INTEGER NOT NULL,
    written_ms  INTEGER NOT NULL,
    PRIMARY KEY (device, boot, stream)
) WITHOUT ROWID;

CREATE TABLE results (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    device      TEXT    NOT NULL,
    boot        INTEGER NOT NULL,
    sequence    INTEGER NOT NULL,
    at_ms       INTEGER NOT NULL,
    slot        TEXT    NOT NULL,
    bundle      BLOB    NOT NULL,
    source      TEXT    NOT NULL,
    sample      INTEGER NOT NULL,
    latency_us  INTEGER NOT NULL,
    class_index INTEGER,
    score       REAL,
    -- JSON numbers, where the bundle names no class.
    output_values TEXT,
    failure     TEXT,
    UNIQUE (device, boot, sequence)
);
CREATE INDEX results_by_device ON results (device, id);

CREATE TABLE profiles (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    device       TEXT    NOT NULL,
    boot         INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    covers       INTEGER NOT NULL,
    slot         TEXT,
    bundle       BLOB,
    node         INTEGER,
    window_first INTEGER NOT NULL,
    window_last  INTEGER NOT NULL,
    opened_ms    INTEGER NOT NULL,
    closed_ms    INTEGER NOT NULL,
    profile      BLOB    NOT NULL,
    UNIQUE (device, boot, sequence)
);
CREATE INDEX profiles_by_device ON profiles (device, id);

CREATE TABLE nodes (
    device      TEXT    NOT NULL,
    node        INTEGER NOT NULL,
    quantity    TEXT    NOT NULL,
    value       INTEGER NOT NULL,
    readings    INTEGER NOT NULL,
    uptime_ms   INTEGER NOT NULL,
    profiles    INTEGER NOT NULL,
    closed_ms   INTEGER NOT NULL,
    PRIMARY KEY (device, node)
) WITHOUT ROWID;

CREATE TABLE events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    device   TEXT    NOT NULL,
    boot     INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    slot     TEXT,
    bundle   BLOB,
    detail   TEXT    NOT NULL,
    UNIQUE (device, boot, sequence)
);
CREATE INDEX events_by_device ON events (device, id);

CREATE TABLE malformed (
    sender      TEXT    NOT NULL PRIMARY KEY,
    count       INTEGER NOT NULL,
    -- Those of them that were written in a wire version that is not understood.
    versions    INTEGER NOT NULL,
    last_reason TEXT    NOT NULL,
    last_ms     INTEGER NOT NULL
);
