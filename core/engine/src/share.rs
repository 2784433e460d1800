//! One run by several threads, which the caller lends.
//!
//! A program is cut into *phases*, one after the other. A phase is a large operation, cut into *pieces* of its parts
//! that may be computed at once; or small operations in a row, in one piece. Whoever takes part takes a piece of the
//! first phase that has one left, waits until all pieces of earlier phases are done, and computes it. So a thread that
//! comes late, or never, leaves the others nothing to wait for but the piece that it has begun.
//!
//! Each thread prefers the pieces of one end, so that in the next operation it finds in its cache what it wrote.

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
const RUN_MACS_MIN: u64 = 1 << 24;

/// The most pieces of a phase: enough for a thread that is slower than the others to take fewer. Each is a bit of
/// [`Progress`].
const PIECES_MAX: u64 = 8;

/// The most phases that [`Progress`] can count.
const PHASES_MAX: usize = 1 << 24;

/// A piece has a multiple of so many output pixels of a convolution, or rows of a depthwise convolution, because
/// kernels compute several at once.
const CONV_GRAIN: usize = 8;
const DEPTHWISE_GRAIN: usize = 2;

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
    Shared { work: Work, pieces: u32, grain: usize },
}

/// The phases of a program.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    phases: Vec<Phase>,
    /// What phases of one piece do.
    works: Vec<Work>,
    /// How many pieces there are before each phase, and at the end.
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
            let (cost, grain) = match op {
                Op::Depthwise(_) => (op.macs().saturating_mul(DEPTHWISE_COST), DEPTHWISE_GRAIN),
                _ => (op.macs(), CONV_GRAIN),
            };
            let alone = parts_in_reach(op);
            let grains = (parts - alone).div_ceil(grain) as u64;
            let pieces = (cost / macs_min).min(PIECES_MAX).min(grains) as u32;
            if pieces < 2 {
                schedule.push_alone(Work { step, parts: 0..parts });
                continue;
            }
            schedule.shared_macs = schedule.shared_macs.saturating_add(op.macs());
            let work = Work { step, parts: alone..parts };
            schedule.push_phase(Phase::Shared { work, pieces, grain });
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
        let before = self.pieces_before.last().copied().unwrap_or(0);
        self.pieces_before.push(before + phase.pieces());
        self.phases.push(phase);
    }

    /// Whether it is worth calling other threads.
    pub(crate) fn is_worth_sharing(&self) -> bool {
        self.shared_macs >= RUN_MACS_MIN && self.phases.len() < PHASES_MAX
    }

    /// Takes part in a run, until every piece is taken.
    pub(crate) fn take_part(&self, progress: &Progress, wait: impl Fn(u32), run: impl Fn(&Work)) {
        let member = progress.members.fetch_add(1, Ordering::Relaxed);
        while let Some((phase, piece)) = self.take(progress, member) {
            let mut turns = 0_u32;
            // Only pieces of earlier phases can be done so far, so that their number is enough.
            while progress.done.load(Ordering::Acquire) < self.pieces_before[phase] {
                wait(turns);
                turns = turns.saturating_add(1);
            }
            let _done = Done(progress);
            match &self.phases[phase] {
                Phase::Alone(works) => self.works[works.clone()].iter().for_each(&run),
                Phase::Shared { work, pieces, grain } => run(&Work {
                    step: work.step,
                    parts: piece_of(&work.parts, piece as usize, *pieces as usize, *grain),
                }),
            }
        }
    }

    /// A piece that no one else has, of the first phase that has one left.
    fn take(&self, progress: &Progress, member: u32) -> Option<(usize, u32)> {
        let mut seen = progress.taken.load(Ordering::Relaxed);
        loop {
            let (mut phase, mut taken) = (seen >> PIECES_MAX, seen & ((1 << PIECES_MAX) - 1));
            if taken.count_ones() == self.phases.get(phase as usize)?.pieces() {
                (phase, taken) = (phase + 1, 0);
            }
            let pieces = self.phases.get(phase as usize)?.pieces();
            let piece = preferred(member, pieces).find(|piece| taken & (1 << piece) == 0)?;
            let next = phase << PIECES_MAX | taken | 1 << piece;
            let order = Ordering::Relaxed;
            match progress.taken.compare_exchange_weak(seen, next, order, order) {
                Ok(_) => return Some((phase as usize, piece)),
                Err(other) => seen = other,
            }
        }
    }

    /// Whether all is done, and can be seen by whoever asks.
    pub(crate) fn is_done(&self, progress: &Progress) -> bool {
        progress.done.load(Ordering::Acquire) >= self.pieces_before.last().copied().unwrap_or(0)
    }
}

impl Phase {
    fn pieces(&self) -> u32 {
        match self {
            Phase::Alone(_) => 1,
            Phase::Shared { pieces, .. } => *pieces,
        }
    }
}

/// The pieces of a phase in the order in which a thread would like them: the first from the beginning, the second
/// from the end, the next two from the middle.
fn preferred(member: u32, pieces: u32) -> impl Iterator<Item = u32> {
    let first = if member & 2 == 0 { 0 } else { pieces / 2 };
    (0..pieces).map(move |index| match member & 1 {
        0 => (first + index) % pieces,
        _ => (first + pieces - 1 - index) % pieces,
    })
}

/// How far a run has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Above [`PIECES_MAX`] bits, the phase that pieces are taken of; in these bits, which are taken.
    taken: AtomicU32,
    /// How many pieces of all phases are done.
    done: AtomicU32,
    /// How many threads have come.
    members: AtomicU32,
}

/// Counts a piece as done when it goes out of scope: also if the piece panics, so that no one waits for it.
struct Done<'a>(&'a Progress);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Ordering::Release);
    }
}

fn piece_of(parts: &Range<usize>, index: usize, pieces: usize, grain: usize) -> Range<usize> {
    let grains = parts.len().div_ceil(grain);
    let at = |index: usize| (parts.start + grains * index / pieces * grain).min(parts.end);
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
    fn pieces_are_whole_and_never_empty() {
        for len in (1..100_usize).step_by(if cfg!(miri) { 13 } else { 1 }) {
            for grain in [1, 2, 8] {
                for pieces in 1..=len.div_ceil(grain).min(8) {
                    let ranges: Vec<_> = (0..pieces)
                        .map(|index| piece_of(&(5..5 + len), index, pieces, grain))
                        .collect();
                    assert!(ranges.iter().all(|range| !range.is_empty()), "{ranges:?}");
                    let all: Vec<usize> = ranges.into_iter().flatten().collect();
                    assert_eq!(all, (5..5 + len).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn whoever_comes_likes_each_piece_once() {
        for (member, pieces) in
            (0..6).flat_map(|member| (1..=8).map(move |pieces| (member, pieces)))
        {
            let mut liked: Vec<u32> = preferred(member, pieces).collect();
            liked.sort_unstable();
            assert_eq!(liked, (0..pieces).collect::<Vec<_>>());
        }
        assert_eq!(preferred(0, 4).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(preferred(1, 4).collect::<Vec<_>>(), [3, 2, 1, 0]);
    }

    #[test]
    fn rows_that_lie_in_the_slack_of_the_input_are_computed_after_the_others() {
        // The input ends at 512, and a row of the output has 32 bytes.
        let alone = |offset: u32| works(&depthwise(offset)).last().map(|work| work.parts.clone());
        assert_eq!(alone(512), Some(0..8));
        assert_eq!(alone(700), Some(0..3));
        assert_eq!(alone(768), Some(14..16), "a piece of all");
    }
}
