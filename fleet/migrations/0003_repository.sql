-- The files of the TUF repository by name, exactly as they were signed.
CREATE TABLE repository_files (
    file    TEXT NOT NULL PRIMARY KEY,
    content BLOB NOT NULL
) WITHOUT ROWID;

-- The 32 bytes of an Ed25519 key. None for a device that was registered before devices had keys:
-- nothing that it sends is believed.
ALTER TABLE devices ADD COLUMN public_key BLOB;
CREATE UNIQUE INDEX devices_by_key ON devices (public_key);

ALTER TABLE reported ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE reported ADD COLUMN trust TEXT NOT NULL DEFAULT
    '{"root_version":0,"timestamp_version":0,"fresh_until_ms":0,"frozen":false,"time_unverified":false}';

-- A bundle may be assigned while a target of the repository names it.
ALTER TABLE bundles DROP COLUMN statement;
ALTER TABLE bundles ADD COLUMN target TEXT;
ALTER TABLE bundles ADD COLUMN role TEXT;
-- It was a target and is none any more.
ALTER TABLE bundles ADD COLUMN revoked INTEGER NOT NULL DEFAULT 0;
-- The encoded chunk index; none until the bundle is looked at again after this step.
ALTER TABLE bundles ADD COLUMN chunk_index BLOB;

-- No device believes documents of the older form. What it runs stays; what it should run is said again.
DELETE FROM desired;

-- Which bundle is assigned where: the same as in the documents of `desired`.
CREATE TABLE assigned (
    device TEXT NOT NULL,
    slot   TEXT NOT NULL,
    bundle BLOB NOT NULL,
    PRIMARY KEY (device, slot)
) WITHOUT ROWID;
CREATE INDEX assigned_by_bundle ON assigned (bundle);

CREATE TABLE patches (
    target        BLOB    NOT NULL,
    source        BLOB    NOT NULL,
    index_digest  BLOB    NOT NULL,
    patch_index   BLOB    NOT NULL,
    len_bytes     INTEGER NOT NULL,
    -- Whether a target of the repository names the index.
    signed        INTEGER NOT NULL DEFAULT 0,
    registered_ms INTEGER NOT NULL,
    PRIMARY KEY (target, source)
) WITHOUT ROWID;

-- What each chunk of a bundle takes at the broker; the owner of a patch's pieces is its index.
CREATE TABLE pieces (
    owner          BLOB    NOT NULL,
    digest         BLOB    NOT NULL,
    retained_bytes INTEGER NOT NULL,
    PRIMARY KEY (owner, digest)
) WITHOUT ROWID;

-- Messages that were not believed: of a kind `forged` or `replayed`.
CREATE TABLE disbelieved (
    device      TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    count       INTEGER NOT NULL,
    last_reason TEXT    NOT NULL,
    last_ms     INTEGER NOT NULL,
    -- When an event last told of it.
    told_ms     INTEGER NOT NULL,
    PRIMARY KEY (device, kind)
) WITHOUT ROWID;
