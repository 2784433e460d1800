-- Labels that come late: of each result the last that was given.
CREATE TABLE labels (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The result that it is of.
    device      TEXT    NOT NULL,
    boot        INTEGER NOT NULL,
    source      TEXT    NOT NULL,
    sample      INTEGER NOT NULL,
    -- When it was given, and its place among those of the same moment.
    given_ms    INTEGER NOT NULL,
    turn        INTEGER NOT NULL,
    -- What was right: a class by its index or its name, or a value.
    truth_index INTEGER,
    truth_name  TEXT,
    truth_value REAL,
    slice       TEXT,
    -- The answer, once it is known; it stays when its result goes. Without a class and a value there was none.
    bundle      BLOB,
    slot        TEXT,
    answered_ms INTEGER,
    class_index INTEGER,
    score       REAL,
    value       REAL,
    UNIQUE (device, boot, source, sample)
);
CREATE INDEX labels_by_device ON labels (device, id);
CREATE INDEX labels_by_bundle ON labels (bundle, id);
CREATE INDEX results_by_sample ON results (device, boot, source, sample);

-- Labels that made room for newer ones.
ALTER TABLE devices ADD COLUMN labels_dropped INTEGER NOT NULL DEFAULT 0;

-- Whichever of a label and its result comes second finds the other.
CREATE TRIGGER label_finds_result AFTER INSERT ON labels WHEN NEW.bundle IS NULL
BEGIN
    UPDATE labels SET (bundle, slot, answered_ms, class_index, score, value) =
        (SELECT bundle, slot, at_ms, class_index, score, json_extract(output_values, '$[0]')
         FROM results WHERE device = NEW.device AND boot = NEW.boot AND source = NEW.source
         AND sample = NEW.sample ORDER BY id LIMIT 1)
    WHERE id = NEW.id;
END;
CREATE TRIGGER result_finds_label AFTER INSERT ON results
BEGIN
    UPDATE labels SET bundle = NEW.bundle, slot = NEW.slot, answered_ms = NEW.at_ms,
        class_index = NEW.class_index, score = NEW.score,
        value = json_extract(NEW.output_values, '$[0]')
    WHERE device = NEW.device AND boot = NEW.boot AND source = NEW.source AND sample = NEW.sample
    AND bundle IS NULL;
END;
