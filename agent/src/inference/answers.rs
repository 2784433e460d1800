//! The newest answers of a slot, so that a label which comes late finds the one that it is of.
//!
//! A ring in memory: remembering allocates nothing once it is full, and a restart forgets all.

use std::{collections::VecDeque, sync::Arc};

use selvedge_runtime::Answer;
use selvedge_wire::{Digest, Outcome};

/// Who answers: shared by all that it answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answering {
    /// The bundle.
    pub bundle: Digest,
    /// The names of its classes; empty if it has none.
    pub classes: Vec<String>,
}

/// An answer that is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct RememberedAnswer {
    /// When it was given: Unix time in milliseconds.
    pub at_ms: u64,
    /// Who gave it.
    pub by: Arc<Answering>,
    /// What it said. Of values the first alone, of a failure not why.
    pub outcome: Outcome,
}

/// The newest answers.
pub(super) struct Answers {
    ring: VecDeque<Entry>,
    count_max: usize,
    by: Option<Arc<Answering>>,
}

struct Entry {
    source: Arc<str>,
    number: u64,
    at_ms: u64,
    by: Arc<Answering>,
    said: Said,
}

#[derive(Clone, Copy)]
enum Said {
    Class { index: u32, score: f32 },
    Value(f32),
    Nothing,
}

impl Answers {
    /// Remembers nothing yet, and never more than `count_max`.
    pub(super) fn new(count_max: usize) -> Self {
        Self { ring: VecDeque::with_capacity(count_max), count_max, by: None }
    }

    /// Somebody else answers from now on, or nobody.
    pub(super) fn change(&mut self, by: Option<Answering>) {
        self.by = by.map(Arc::new);
    }

    /// Whether anything is remembered.
    pub(super) fn are_wanted(&self) -> bool {
        self.count_max > 0
    }

    /// Remembers an answer, in place of the oldest if there is no room.
    pub(super) fn remember(
        &mut self,
        source: &Arc<str>,
        number: u64,
        at_ms: u64,
        answer: Result<&Answer, &String>,
    ) {
        let Some(by) = &self.by else { return };
        if self.ring.len() >= self.count_max {
            self.ring.pop_front();
        }
        let (source, by) = (source.clone(), by.clone());
        self.ring.push_back(Entry { source, number, at_ms, by, said: said(answer) });
    }

    /// The answer to a sample, if it is remembered.
    pub(super) fn recall(&self, source: &str, number: u64) -> Option<RememberedAnswer> {
        let is = |entry: &&Entry| entry.number == number && &*entry.source == source;
        let Entry { at_ms, by, said, .. } = self.ring.iter().rev().find(is)?;
        let outcome = match *said {
            Said::Class { index, score } => Outcome::Class { index, score },
            Said::Value(value) => Outcome::Values(vec![value]),
            Said::Nothing => Outcome::Failed("there was no answer".to_owned()),
        };
        Some(RememberedAnswer { at_ms: *at_ms, by: by.clone(), outcome })
    }
}

fn said(answer: Result<&Answer, &String>) -> Said {
    let Ok(answer) = answer else { return Said::Nothing };
    match &answer.class {
        Some(class) => Said::Class {
            index: u32::try_from(class.index).unwrap_or(u32::MAX),
            score: class.score,
        },
        None => {
            let value = answer.outputs.first().and_then(|output| output.data().first_f32());
            value.map_or(Said::Nothing, Said::Value)
        }
    }
}

#[cfg(test)]
mod tests {
    use selvedge_runtime::ClassAnswer;

    use super::*;

    fn class(index: usize) -> Answer {
        let class = Some(ClassAnswer { index, label: None, score: 0.75 });
        Answer { outputs: Vec::new(), class, probabilities: None }
    }

    fn answering(number: u8) -> Answering {
        Answering { bundle: Digest([number; 32]), classes: vec!["a".into(), "b".into()] }
    }

    #[test]
    fn the_newest_answers_are_found_with_who_gave_them() {
        let mut answers = Answers::new(3);
        let (left, right): (Arc<str>, Arc<str>) = ("left".into(), "right".into());
        answers.remember(&left, 0, 1, Ok(&class(0)));
        assert_eq!(answers.recall("left", 0), None, "nobody answers yet");
        answers.change(Some(answering(1)));
        answers.remember(&left, 0, 2, Ok(&class(0)));
        answers.remember(&right, 0, 3, Ok(&class(1)));
        answers.change(Some(answering(2)));
        answers.remember(&left, 1, 4, Err(&"the value is no number".to_owned()));
        let found = answers.recall("right", 0).expect("it is one of three");
        assert_eq!((found.at_ms, found.by.bundle), (3, Digest([1; 32])));
        assert_eq!(found.outcome, Outcome::Class { index: 1, score: 0.75 });
        answers.remember(&right, 1, 5, Ok(&class(0)));
        assert_eq!(answers.recall("left", 0), None, "the oldest made room");
        let failed = answers.recall("left", 1).expect("it is one of three");
        assert!(
            matches!(failed.outcome, Outcome::Failed(_)) && failed.by.bundle == Digest([2; 32])
        );
        assert_eq!(answers.recall("left", 2), None);
    }
}
