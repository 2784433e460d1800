-- The id of the newest event when the desired state was set: a refusal of it comes later.
ALTER TABLE desired ADD COLUMN events_before INTEGER NOT NULL DEFAULT 0;
