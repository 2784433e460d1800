//! Mergeable summaries of samples: frozen bins, classes, latency.
