//! Where the bins of a feature end: chosen once, from the reference, and frozen with the bundle.
//!
//! Edges are quantiles of the reference, each in the middle between two neighbouring values of it, so equal values
//! are never torn apart. Where all values are integers such an edge is an integer and a half.
//!
//! An *atom* is one value that more samples have than a bin's fair share: the 0 of a meter at rest, a step of a
//! coarse converter. It gets a bin that nothing else falls into, with a little room for what rounding does to a
//! float. A change of gain or of unit moves atoms off their place, and there is little else that shows it where
//! most values tie. Between two atoms a bin may have no sample of the reference at all.

use selvedge_sketch::{BIN_COUNT_MAX, BinSpec, f32_from_key, key_from_f32};

/// The most atoms that have a bin of their own: each takes two edges, and a third of all edges is left for quantiles.
const ATOMS_MAX: usize = 5;

/// The fewest equal samples that make an atom. In a shorter reference ties say little.
const ATOM_SAMPLES_MIN: usize = 30;

/// How far the bin of an atom reaches towards the next value of the reference, as a share of the way there.
const ATOM_ROOM: f64 = 1.0 / 64.0;

/// The bins that a feature with this reference has. The guard is its smallest and largest finite value; `None` where
/// there is none.
pub fn frozen_bins(reference: &[f32]) -> Option<BinSpec> {
    let finite = reference.iter().filter(|value| value.is_finite());
    let mut keys: Vec<i32> = finite.map(|&value| key_from_f32(value)).collect();
    keys.sort_unstable();
    let (&min, &max) = (keys.first()?, keys.last()?);
    let edges = edges_around_atoms(&keys);
    Some(BinSpec::new(&edges, min, max).expect("edges rise and lie between the two ends"))
}

/// Rising edges for sorted, finite keys: on both sides of each atom, and quantiles of what lies between atoms.
fn edges_around_atoms(keys: &[i32]) -> Vec<i32> {
    let integers = are_integers(keys);
    let mut edges: Vec<i32> = Vec::new();
    let mut runs: Vec<Run<'_>> = Vec::new();
    let mut begin = 0;
    for atom in atoms(keys) {
        if let Some(before) = atom.start.checked_sub(1) {
            edges.push(edge_between(keys[before], keys[atom.start], 1.0 - ATOM_ROOM));
        }
        if let Some(after) = keys.get(atom.end) {
            edges.push(edge_between(keys[atom.start], *after, ATOM_ROOM));
        }
        runs.extend(Run::of(&keys[begin..atom.start]));
        begin = atom.end;
    }
    runs.extend(Run::of(&keys[begin..]));
    // Each further edge goes where a bin has the largest share.
    for _ in edges.len()..BIN_COUNT_MAX - 1 {
        let with_room = runs.iter_mut().filter(|run| run.bins < run.values);
        let Some(run) = with_room.max_by_key(|run| run.keys.len() / run.bins) else { break };
        run.bins += 1;
    }
    edges.extend(runs.iter().flat_map(|run| quantiles(run.keys, run.bins, integers)));
    edges.sort_unstable();
    // The same place may be the end of one atom's bin and the beginning of the next one's.
    edges.dedup();
    edges
}

/// What lies between two atoms, or beyond them all.
struct Run<'a> {
    keys: &'a [i32],
    /// How many different values they are.
    values: usize,
    /// The bins that they are shared among.
    bins: usize,
}

impl<'a> Run<'a> {
    fn of(keys: &'a [i32]) -> Option<Self> {
        let values = keys.chunk_by(|a, b| a == b).count();
        (values > 0).then_some(Self { keys, values, bins: 1 })
    }
}

/// Where the atoms are in sorted keys, in rising order: of too many, those that most samples have.
fn atoms(keys: &[i32]) -> Vec<std::ops::Range<usize>> {
    let mut end = 0;
    let ties = keys.chunk_by(|a, b| a == b).map(|ties| {
        end += ties.len();
        end - ties.len()..end
    });
    let is_atom = |ties: &std::ops::Range<usize>| {
        ties.len() >= ATOM_SAMPLES_MIN && ties.len() * BIN_COUNT_MAX > keys.len()
    };
    let mut atoms: Vec<_> = ties.filter(is_atom).collect();
    atoms.sort_by_key(|ties| std::cmp::Reverse(ties.len()));
    atoms.truncate(ATOMS_MAX);
    atoms.sort_by_key(|ties| ties.start);
    atoms
}

/// Rising edges that share sorted, finite keys among `bins_max` bins. A value with a share of its own or more gets
/// a bin of its own, and what remains is shared among the bins that remain. The bins of confidence have these alone:
/// where scores tie, their last digits are the machine's.
pub(crate) fn quantile_edges(keys: &[i32], bins_max: usize) -> Vec<i32> {
    quantiles(keys, bins_max, are_integers(keys))
}

fn quantiles(keys: &[i32], bins_max: usize, integers: bool) -> Vec<i32> {
    let mut edges: Vec<i32> = Vec::new();
    let (mut begin, mut end) = (0, 0);
    for ties in keys.chunk_by(|a, b| a == b) {
        let before = end;
        end += ties.len();
        let fills = |edges: &[i32], begin: usize, len: usize| {
            len * (bins_max - edges.len()) >= keys.len() - begin
        };
        let has_room = |edges: &[i32]| edges.len() < bins_max - 1;
        if before > begin && has_room(&edges) && fills(&edges, before, ties.len()) {
            edges.push(middle_between(keys[before - 1], keys[before], integers));
            begin = before;
        }
        if end < keys.len() && has_room(&edges) && fills(&edges, begin, end - begin) {
            edges.push(middle_between(keys[end - 1], keys[end], integers));
            begin = end;
        }
    }
    edges
}

fn are_integers(keys: &[i32]) -> bool {
    keys.iter().all(|&key| f32_from_key(key).fract() == 0.0)
}

/// An edge in the middle, or between two integers at a half.
fn middle_between(left: i32, right: i32, integers: bool) -> i32 {
    if !integers {
        return edge_between(left, right, 0.5);
    }
    let middle = f64::midpoint(f32_from_key(left).into(), f32_from_key(right).into());
    edge_at(middle.floor() + 0.5, left, right)
}

/// An edge after a share of the way from `left` to `right`.
fn edge_between(left: i32, right: i32, share: f64) -> i32 {
    let (from, to) = (f64::from(f32_from_key(left)), f64::from(f32_from_key(right)));
    edge_at(from + share * (to - from), left, right)
}

/// The edge at `value`, if it leaves `left` on its left and `right` on its right: `left < edge <= right`. Neighbouring
/// floats have nothing between them.
fn edge_at(value: f64, left: i32, right: i32) -> i32 {
    let edge = key_from_f32(value as f32);
    if edge > left && edge <= right { edge } else { right }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn edges_of(values: &[f32]) -> Vec<f32> {
        let bins = frozen_bins(values).expect("finite values");
        bins.edges().iter().map(|&key| f32_from_key(key)).collect()
    }

    fn ties(values: &[(f32, usize)]) -> Vec<f32> {
        values.iter().flat_map(|&(value, count)| std::iter::repeat_n(value, count)).collect()
    }

    /// How the values fall into the bins of the reference.
    fn counts(reference: &[f32], values: &[f32]) -> Vec<u32> {
        let bins = frozen_bins(reference).expect("finite values");
        let mut counts = selvedge_sketch::BinCounts::new();
        values.iter().for_each(|&value| counts.observe_f32(&bins, value));
        counts.bins()[..bins.bin_count()].to_vec()
    }

    #[test]
    fn integers_get_edges_between_them() {
        let values: Vec<f32> = (0..1600).map(|i| (i / 100) as f32).collect();
        assert_eq!(edges_of(&values), (0..15).map(|i| i as f32 + 0.5).collect::<Vec<_>>());
        assert_eq!(edges_of(&[5.0, 9.0]), [7.5]);
        assert_eq!(edges_of(&[-6.0, -5.0]), [-5.5]);
    }

    #[test]
    fn a_value_that_ties_has_a_bin_of_its_own() {
        let around = (-200..0).chain(1..=200).map(|i| i as f32);
        let values: Vec<f32> = around.chain(ties(&[(0.0, 600)])).collect();
        let edges = edges_of(&values);
        assert!(edges.contains(&-0.015_625) && edges.contains(&0.015_625), "{edges:?}");
        assert_eq!(edges.len(), 15, "{edges:?}");
    }

    #[test]
    fn steps_that_are_scaled_leave_their_bins() {
        let values = ties(&[(-2.0, 40), (-1.0, 100), (0.0, 600), (1.0, 100), (2.0, 40), (7.0, 20)]);
        let scaled: Vec<f32> = values.iter().map(|value| 0.1 + 1.2 * (value - 0.1)).collect();
        let (before, after) = (counts(&values, &values), counts(&values, &scaled));
        let stayed: u32 = before.iter().zip(&after).map(|(before, after)| before.min(after)).sum();
        assert!(stayed < 120, "{before:?} {after:?}");
        // What rounding does to a value is no change.
        let rounded: Vec<f32> = values.iter().map(|value| value * (1.0 - f32::EPSILON)).collect();
        assert_eq!(counts(&values, &rounded), before);
    }

    #[test]
    fn two_states_have_a_bin_between_them_where_the_reference_has_nothing() {
        let values = ties(&[(0.0, 500), (1.0, 500)]);
        assert_eq!(edges_of(&values), [0.015_625, 0.984_375]);
        assert_eq!(counts(&values, &values), [500, 0, 500]);
    }

    #[test]
    fn of_many_atoms_the_most_frequent_have_bins_and_the_others_are_shared_out() {
        let values = ties(&(0..12).map(|i| (2.0 * i as f32, 100 + i)).collect::<Vec<_>>());
        let edges = edges_of(&values);
        let ends = [14.0, 16.0, 18.0, 20.0].iter().flat_map(|v| [v - 0.031_25, v + 0.031_25]);
        let expected: Vec<f32> = ends.chain([21.968_75]).collect();
        assert_eq!(edges[edges.len() - 9..], expected, "{edges:?}");
        assert_eq!(edges[..edges.len() - 9], [1.5, 3.5, 5.5, 7.5, 9.5, 11.5].map(f32::from));
    }

    #[test]
    fn a_short_reference_has_no_atoms() {
        assert_eq!(edges_of(&ties(&[(1.0, 1), (2.0, 29)])), [1.5]);
        assert_eq!(edges_of(&ties(&[(1.0, 1), (2.0, 30)])), [1.984_375]);
    }

    #[test]
    fn a_constant_has_one_bin_and_both_zeros_are_one_value() {
        assert!(edges_of(&[3.25; 50]).is_empty());
        assert!(edges_of(&[0.0, -0.0, 0.0, -0.0]).is_empty());
    }

    fn column() -> impl Strategy<Value = Vec<f32>> {
        let integers = prop::collection::vec((-20..20i32).prop_map(|i| i as f32), 1..400);
        let steps = prop::collection::vec((-20..20i32).prop_map(|i| i as f32 * 0.1), 1..400);
        let few = prop::collection::vec(any::<f32>(), 1..30).prop_flat_map(|values| {
            let count = values.len();
            prop::collection::vec((0..count, 0..count), 1..800).prop_map(move |places| {
                // The lower place of two, so that the first values have the most samples.
                places.iter().map(|(a, b)| values[*a.min(b)]).collect::<Vec<f32>>()
            })
        });
        let any = prop::collection::vec(any::<f32>(), 1..400);
        prop_oneof![integers, steps, few, any]
    }

    proptest! {
        #[test]
        fn a_bin_of_an_atom_holds_it_alone_and_only_between_atoms_a_bin_is_empty(values in column()) {
            prop_assume!(values.iter().any(|value| value.is_finite()));
            let bins = frozen_bins(&values).expect("one value is finite");
            let finite = values.iter().filter(|value| value.is_finite());
            let mut keys: Vec<i32> = finite.map(|&value| key_from_f32(value)).collect();
            keys.sort_unstable();
            let bin = |key: i32| bins.edges().partition_point(|edge| *edge <= key);
            let atoms: BTreeSet<usize> = atoms(&keys).iter().map(|atom| bin(keys[atom.start])).collect();
            let mut held = vec![BTreeSet::new(); bins.bin_count()];
            keys.iter().for_each(|&key| { held[bin(key)].insert(key); });
            for atom in &atoms {
                prop_assert_eq!(held[*atom].len(), 1);
            }
            for empty in (0..held.len()).filter(|&bin| held[bin].is_empty()) {
                prop_assert!(empty > 0 && atoms.contains(&(empty - 1)) && atoms.contains(&(empty + 1)));
            }
            prop_assert_eq!(bins.bin_count() > 1, keys[0] != keys[keys.len() - 1]);
        }
    }
}
