//! The deployable unit: an OCI image layout with a manifest and a chunk index.
