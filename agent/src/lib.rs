//! The daemon on a gateway: runs models, keeps evidence, applies updates.
