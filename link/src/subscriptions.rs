//! What shall be subscribed to, over all connections.

use std::collections::{BTreeMap, BTreeSet};

/// The filters that are wanted, and those the broker may still hold for us.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// Each wanted filter, and whether the broker has granted it to this process.
    wanted: BTreeMap<String, bool>,
    /// Filters that were taken back, until the broker has confirmed it.
    taken_back: BTreeSet<String>,
}

/// What to tell the broker when a connection comes up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Renewal {
    /// Filters whose retained messages have yet to come.
    pub(crate) anew: Vec<String>,
    /// Filters that the broker should know: retained messages only if it does not (Retain Handling 1).
    pub(crate) again: Vec<String>,
    /// Filters to take back.
    pub(crate) unsubscribe: Vec<String>,
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.wanted.len()
    }

    pub(crate) fn contains(&self, filter: &str) -> bool {
        self.wanted.contains_key(filter)
    }

    pub(crate) fn add(&mut self, filter: String) {
        self.taken_back.remove(&filter);
        self.wanted.insert(filter, false);
    }

    pub(crate) fn take_back(&mut self, filter: String) {
        if self.wanted.remove(&filter).is_some() {
            self.taken_back.insert(filter);
        }
    }

    pub(crate) fn granted(&mut self, filter: &str) {
        if let Some(granted) = self.wanted.get_mut(filter) {
            *granted = true;
        }
    }

    pub(crate) fn gone(&mut self, filter: &str) {
        self.taken_back.remove(filter);
    }

    /// What to tell the broker, which may or may not remember our session.
    pub(crate) fn renew(&mut self, session_present: bool) -> Renewal {
        if !session_present {
            self.taken_back.clear();
        }
        let (again, anew): (Vec<_>, Vec<_>) =
            self.wanted.iter().partition(|(_, granted)| session_present && **granted);
        let names = |filters: Vec<(&String, &bool)>| {
            filters.into_iter().map(|(filter, _)| filter.clone()).collect()
        };
        Renewal {
            anew: names(anew),
            again: names(again),
            unsubscribe: self.taken_back.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_session_that_is_remembered_is_told_only_what_it_does_not_know() {
        let mut subscriptions = Subscriptions::default();
        for filter in ["a", "b", "c"] {
            subscriptions.add(filter.into());
        }
        subscriptions.granted("a");
        subscriptions.granted("c");
        subscriptions.take_back("c".into());
        let renewal = subscriptions.renew(true);
        assert_eq!(
            renewal,
            Renewal { anew: names(&["b"]), again: names(&["a"]), unsubscribe: names(&["c"]) }
        );
        subscriptions.gone("c");
        assert!(subscriptions.renew(true).unsubscribe.is_empty());
    }

    #[test]
    fn a_session_that_is_forgotten_is_told_everything() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add("a".into());
        subscriptions.granted("a");
        subscriptions.add("b".into());
        subscriptions.take_back("b".into());
        let renewal = subscriptions.renew(false);
        assert_eq!(renewal, Renewal { anew: names(&["a"]), ..Renewal::default() });
    }

    #[test]
    fn a_filter_that_is_wanted_again_brings_its_retained_messages_again() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add("a".into());
        subscriptions.granted("a");
        subscriptions.take_back("a".into());
        subscriptions.add("a".into());
        assert_eq!(
            subscriptions.renew(true),
            Renewal { anew: names(&["a"]), ..Renewal::default() }
        );
    }
}
