//! What the fleet says about drift, computed from what devices summed up.

pub mod multivariate;
