//! The arena: where blocks lie so that those which live at the same time do not overlap.

/// Blocks begin at multiples of this: a cache line.
const ALIGNMENT: usize = 64;

/// A block of memory and the steps during which it holds something, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) len_bytes: usize,
    pub(super) first: usize,
    pub(super) last: usize,
}

impl Life {
    fn meets(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Orders of placement that are tried for an arena near the least that is possible.
const ATTEMPTS_MAX: usize = 64;

/// An offset for each block, and the length of the whole.
///
/// Blocks are placed one after the other, the largest first, each into the smallest gap between those that it meets.
/// As long as the whole is larger than the most that lives at one step, the block that ends last is placed first in
/// the next attempt; the best attempt counts.
pub(super) fn plan(lives: &[Life]) -> (Vec<usize>, usize) {
    let least = live_bytes_max(lives);
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|index| (std::cmp::Reverse(lives[*index].len_bytes), lives[*index].first));
    let mut best = placed(lives, &order);
    for _ in 0..ATTEMPTS_MAX {
        let (offsets, arena_bytes) = placed(lives, &order);
        let last =
            order.iter().position(|index| offsets[*index] + lives[*index].len_bytes == arena_bytes);
        if arena_bytes < best.1 {
            best = (offsets, arena_bytes);
        }
        match last {
            Some(at) if at > 0 && best.1 > least => order[..=at].rotate_right(1),
            _ => break,
        }
    }
    best
}

/// The offsets if blocks are placed in this order.
fn placed(lives: &[Life], order: &[usize]) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; lives.len()];
    let mut arena_bytes = 0;
    for (count, &index) in order.iter().enumerate() {
        let mut met: Vec<(usize, usize)> = order[..count]
            .iter()
            .filter(|other| lives[**other].meets(&lives[index]))
            .map(|other| (offsets[*other], aligned(offsets[*other] + lives[*other].len_bytes)))
            .collect();
        met.sort_unstable();
        offsets[index] = smallest_gap(&met, lives[index].len_bytes);
        arena_bytes = arena_bytes.max(offsets[index] + lives[index].len_bytes);
    }
    (offsets, arena_bytes)
}

/// The most bytes that live at one step: no arena can be smaller.
pub(super) fn live_bytes_max(lives: &[Life]) -> usize {
    let at = |step: usize| {
        let alive = lives.iter().filter(|life| (life.first..=life.last).contains(&step));
        alive.map(|life| life.len_bytes).sum::<usize>()
    };
    lives.iter().map(|life| at(life.first)).max().unwrap_or(0)
}

fn aligned(offset: usize) -> usize {
    offset.next_multiple_of(ALIGNMENT)
}

/// The beginning of the smallest gap of at least `len_bytes` between blocks that are sorted by their beginning.
fn smallest_gap(blocks: &[(usize, usize)], len_bytes: usize) -> usize {
    let mut best: Option<(usize, usize)> = None;
    let mut end = 0;
    for (start, block_end) in blocks {
        let gap = start.saturating_sub(end);
        if gap >= len_bytes && best.is_none_or(|(smallest, _)| gap < smallest) {
            best = Some((gap, end));
        }
        end = end.max(*block_end);
    }
    best.map_or(end, |(_, start)| start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_live_at_the_same_time_never_overlap() {
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((seed >> 33) % below) as usize
        };
        for _ in 0..200 {
            let lives: Vec<Life> = (0..30)
                .map(|_| {
                    let first = random(40);
                    Life { len_bytes: 1 + random(5_000), first, last: first + random(6) }
                })
                .collect();
            let (offsets, arena_bytes) = plan(&lives);
            for (a, life) in lives.iter().enumerate() {
                assert!(offsets[a] + life.len_bytes <= arena_bytes);
                for (b, other) in lives.iter().enumerate().skip(a + 1) {
                    let apart = offsets[a] + life.len_bytes <= offsets[b]
                        || offsets[b] + other.len_bytes <= offsets[a];
                    assert!(apart || !life.meets(other), "{life:?} {other:?}");
                }
            }
            assert!(arena_bytes >= live_bytes_max(&lives));
        }
    }

    #[test]
    fn a_chain_of_layers_takes_no_more_than_its_two_largest_neighbours() {
        let sizes = [3_072, 16_384, 16_384, 8_192, 4_096, 1_024];
        let lives: Vec<Life> = sizes
            .iter()
            .enumerate()
            .map(|(step, len_bytes)| Life { len_bytes: *len_bytes, first: step, last: step + 1 })
            .collect();
        assert_eq!(plan(&lives).1, 32_768);
        assert_eq!(live_bytes_max(&lives), 32_768);
    }
}
