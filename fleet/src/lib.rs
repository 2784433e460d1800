//! The fleet manager: ingest, registry, desired state, API, dashboard.
