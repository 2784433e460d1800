-- Drift is asked bundle by bundle, over devices and time.
CREATE INDEX profiles_by_bundle ON profiles (bundle, closed_ms, id);
