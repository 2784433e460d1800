//! What the fleet says about drift, computed from what devices summed up.
//!
//! All of it are pure functions of a baseline and of stored profiles, computed when somebody asks: nothing
//! is kept in the process, so nothing is lost with it, and a profile that comes late counts as if it had
//! come in time. A look reads at most [`Limits::drift_profiles_max`](crate::Limits::drift_profiles_max)
//! profiles, the newest; what that costs stands in the fleet's README.
//!
//! Vocabulary: an *origin* is a slot of a device; a *window* is a stored profile, which may stand for several
//! windows that the device merged; a *cohort* are the origins that somebody asks about.

mod export;
mod judge;
mod merge;
mod multivariate;
mod mute;
mod query;
mod site;
mod view;

pub use export::{kll, to_csv};
pub use judge::{
    Judgement, OriginVerdict, SiteVerdict, Sites, StateChange, StreamVerdict, Verdict, judge,
};
pub use merge::{Merged, Origin, Window, merge};
pub use multivariate::{
    CourseView, DistanceFinding, DistanceView, MultivariateView, OriginCourseView, PointView,
};
pub use mute::{Alarm, Mute, MuteScope, NewMute, Reference, are_all_muted, mute_of};
pub use query::{CohortQuery, DriftQuery};
pub use site::{
    ApprovedView, PeriodView, Progress, ProposalView, SiteBaselineView, SiteStreamView, SiteView,
    record_site,
};
pub use view::{
    AccuracyView, BaselineView, CellKind, CellView, DriftView, EstimateView, FindingView,
    MomentsView, OriginView, PolicyView, SiteVerdictView, StateChangeView, StatisticView,
    StatisticsView, StreamAtSiteView, StreamKind, StreamView, Subject, VerdictView,
};
