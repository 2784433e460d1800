//! One run by several threads, which the caller lends.
//!
//! A program is cut into *phases*, one after the other. A phase is a large operation, cut into *pieces* of its parts
//! that may be computed at once; or small operations in a row, in one piece. Pieces have numbers in the order of
//! phases. Whoever takes part takes the next number, waits until all pieces of earlier phases are done, and computes
//! it. So a thread that comes late, or never, leaves the others nothing to wait for but the piece that it has begun.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::limits::ARENA_SLACK_BYTES;
use crate::op::{Op, View, Window};
use crate::reference::window_start;

/// Threads that run a program together. The engine starts none.
pub trait Team: Sync {
    /// Calls `part` on each thread, the caller's among them, at about the same time, and returns when all calls have.
    ///
    /// How many calls there are changes no result, and one alone does everything.
    fn run(&self, part: &(dyn Fn() + Sync));

    /// What a thread does while another computes what it waits for. `turns` counts from 0 in each wait.
    fn wait(&self, turns: u32);
}

/// The fewest multiplications worth a piece of their own: a few times what it takes one core to tell another.
const PIECE_MACS_MIN: u64 = 1 << 18;

/// How many multiplications of a convolution take as long as one of a depthwise convolution, which uses each value
/// that it loads for one product only.
const DEPTHWISE_COST: u64 = 6;

/// The fewest multiplications, in phases of several pieces, for which other threads are called at all.
const RUN_MACS_MIN: u64 = 1 << 23;

/// The most pieces of a phase: enough for a thread that is slower than the others to take fewer.
const PIECES_MAX: u64 = 8;

/// Some parts of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) step: usize,
    pub(crate) parts: Range<usize>,
}

#[derive(Debug)]
enum Phase {
    /// The works of this range, in one piece.
    Alone(Range<usize>),
    /// The work, in so many pieces.
    Shared(Work, usize),
}

/// The phases of a program.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    phases: Vec<Phase>,
    /// What phases of one piece do.
    works: Vec<Work>,
    /// The number of the first piece of each phase, and how many there are at the end.
    pieces_before: Vec<u32>,
    /// Multiplications in phases of several pieces.
    shared_macs: u64,
}

impl Schedule {
    pub(crate) fn of<'a>(ops: impl Iterator<Item = &'a Op>) -> Schedule {
        Schedule::with_pieces_of(ops, PIECE_MACS_MIN)
    }

    pub(crate) fn with_pieces_of<'a>(ops: impl Iterator<Item = &'a Op>, macs_min: u64) -> Schedule {
        let mut schedule = Schedule { pieces_before: Vec::from([0]), ..Schedule::default() };
        for (step, op) in ops.enumerate() {
            let parts = op.parts();
            let cost = op.macs() * if matches!(op, Op::Depthwise(_)) { DEPTHWISE_COST } else { 1 };
            let alone = parts_in_reach(op);
            let pieces = (cost / macs_min).min(PIECES_MAX).min((parts - alone) as u64);
            if pieces < 2 {
                schedule.push_alone(Work { step, parts: 0..parts });
                continue;
            }
            schedule.shared_macs += op.macs();
            schedule.push_phase(Phase::Shared(Work { step, parts: alone..parts }, pieces as usize));
            if alone > 0 {
                schedule.push_alone(Work { step, parts: 0..alone });
            }
        }
        schedule
    }

    fn push_alone(&mut self, work: Work) {
        self.works.push(work);
        let end = self.works.len();
        match self.phases.last_mut() {
            Some(Phase::Alone(works)) => works.end = end,
            _ => self.push_phase(Phase::Alone(end - 1..end)),
        }
    }

    fn push_phase(&mut self, phase: Phase) {
        let pieces = match &phase {
            Phase::Alone(_) => 1,
            Phase::Shared(_, pieces) => *pieces as u32,
        };
        let before = self.pieces_before.last().copied().unwrap_or(0);
        self.pieces_before.push(before + pieces);
        self.phases.push(phase);
    }

    /// Whether it is worth calling other threads.
    pub(crate) fn is_worth_sharing(&self) -> bool {
        self.shared_macs >= RUN_MACS_MIN
    }

    /// Takes part in a run, until every piece is taken.
    pub(crate) fn take_part(&self, progress: &Progress, wait: impl Fn(u32), run: impl Fn(&Work)) {
        let mut phase = 0;
        loop {
            let piece = progress.taken.fetch_add(1, Ordering::Relaxed);
            while self.pieces_before.get(phase + 1).is_some_and(|end| piece >= *end) {
                phase += 1;
            }
            let Some(current) = self.phases.get(phase) else { return };
            let before = self.pieces_before[phase];
            let mut turns = 0_u32;
            // All pieces that may begin before this one are of earlier phases, so that their number is enough.
            while progress.done.load(Ordering::Acquire) < before {
                wait(turns);
                turns = turns.saturating_add(1);
            }
            let _done = Done(progress);
            match current {
                Phase::Alone(works) => self.works[works.clone()].iter().for_each(&run),
                Phase::Shared(work, pieces) => {
                    let index = (piece - before) as usize;
                    run(&Work { step: work.step, parts: piece_of(&work.parts, index, *pieces) });
                }
            }
        }
    }

    /// Whether all is done, and can be seen by whoever asks.
    pub(crate) fn is_done(&self, progress: &Progress) -> bool {
        progress.done.load(Ordering::Acquire) >= self.pieces_before.last().copied().unwrap_or(0)
    }
}

/// How far a run has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    taken: AtomicU32,
    done: AtomicU32,
}

/// Counts a piece as done when it goes out of scope: also if the piece panics, so that no one waits for it.
struct Done<'a>(&'a Progress);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::Release);
    }
}

fn piece_of(parts: &Range<usize>, index: usize, pieces: usize) -> Range<usize> {
    let at = |index: usize| parts.start + parts.len() * index / pieces;
    at(index)..at(index + 1)
}

/// How many of the first parts write where kernels that compute other parts may read: in the slack behind the input.
/// They are not computed at the same time as the others.
fn parts_in_reach(op: &Op) -> usize {
    let (input, output, window, row_parts) = match op {
        Op::Conv(op) => (&op.input, &op.output, &op.window, op.output.width as usize),
        Op::Depthwise(op) => (&op.input, &op.output, &op.window, 1),
        _ => return 0,
    };
    let end = windows_end(input, window, output);
    if (output.offset as usize) < end {
        return 0;
    }
    let begins = |part: usize| output.at((part / row_parts) as u32, (part % row_parts) as u32);
    (0..op.parts()).take_while(|part| begins(*part) < end + ARENA_SLACK_BYTES).count()
}

/// Behind the last value that a window touches.
fn windows_end(input: &View, window: &Window, output: &View) -> usize {
    let last = window_start(input, window, output.height - 1, output.width - 1);
    let along = |axis: usize| (window.kernel[axis] - 1) as usize * window.dilation[axis] as usize;
    last + along(0) * input.row_bytes as usize
        + along(1) * input.pixel_bytes as usize
        + input.channels as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Depthwise;
    use crate::requantise;

    fn depthwise(output_offset: u32) -> Op {
        Op::Depthwise(Depthwise {
            input: View::dense(0, 16, 4, 8),
            output: View::dense(output_offset, 16, 4, 8),
            window: Window::UNIT,
            weights: 0,
            bias: 0,
            multipliers: 0,
            range: requantise::Range::full(0),
        })
    }

    /// The works that a run does, in order, with one thread.
    fn works(op: &Op) -> Vec<Work> {
        let done = std::sync::Mutex::new(Vec::new());
        let schedule = Schedule::with_pieces_of([op].into_iter(), 1);
        let progress = Progress::default();
        schedule.take_part(
            &progress,
            |_| unreachable!("one thread waits for none"),
            |work| done.lock().expect("no one panics").push(work.clone()),
        );
        assert!(schedule.is_done(&progress));
        done.into_inner().expect("no one panics")
    }

    #[test]
    fn every_part_is_computed_once() {
        let mut parts: Vec<usize> =
            works(&depthwise(4096)).into_iter().flat_map(|work| work.parts).collect();
        parts.sort_unstable();
        assert_eq!(parts, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn rows_that_lie_in_the_slack_of_the_input_are_computed_after_the_others() {
        // The input ends at 512, and a row of the output has 32 bytes.
        let alone = |offset: u32| works(&depthwise(offset)).last().map(|work| work.parts.clone());
        assert_eq!(alone(512), Some(0..8));
        assert_eq!(alone(700), Some(0..3));
        assert_eq!(alone(768), Some(14..16));
    }
}
