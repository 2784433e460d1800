-- Names the bins of a bundle's baseline: the 8 bytes of its spec id, or nothing for a bundle without one. None until
-- the bundle is looked at again after this step.
ALTER TABLE bundles ADD COLUMN spec BLOB;

-- The period that was declared for a slot's site baseline.
CREATE TABLE site_proposals (
    device      TEXT    NOT NULL,
    slot        TEXT    NOT NULL,
    bundle      BLOB    NOT NULL,
    from_ms     INTEGER NOT NULL,
    to_ms       INTEGER NOT NULL,
    proposed_ms INTEGER NOT NULL,
    proposed_by TEXT    NOT NULL,
    PRIMARY KEY (device, slot)
) WITHOUT ROWID;

-- The site baseline of a slot that was approved last. It is named while the slot's bundle has the same bins.
CREATE TABLE sites (
    device      TEXT    NOT NULL,
    slot        TEXT    NOT NULL,
    digest      BLOB    NOT NULL,
    spec        BLOB    NOT NULL,
    baseline    BLOB    NOT NULL,
    approved_ms INTEGER NOT NULL,
    approved_by TEXT    NOT NULL,
    PRIMARY KEY (device, slot)
) WITHOUT ROWID;
CREATE INDEX sites_by_digest ON sites (digest);

-- The site baseline that the document names for the slot.
ALTER TABLE assigned ADD COLUMN site BLOB;

-- Alarms that are known: what is null is any.
CREATE TABLE drift_mutes (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    bundle       BLOB,
    device       TEXT,
    slot         TEXT,
    stream       TEXT,
    -- `lab` or `site`.
    reference    TEXT,
    -- It holds only for what had begun when it was made.
    acknowledges INTEGER NOT NULL,
    created_ms   INTEGER NOT NULL,
    until_ms     INTEGER NOT NULL,
    created_by   TEXT    NOT NULL,
    note         TEXT    NOT NULL
);
