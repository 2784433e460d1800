//! The KLL sketch against Apache DataSketches: the crate `datasketches` and the Python package of that
//! name read our bytes and merge them with their own, and the error in rank is theirs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use datasketches::{
    common::SearchCriteria,
    kll::{KllFloat, KllSketch},
};
use selvedge_sketch::{Kll, Kll64, Kll200};

type Theirs = KllSketch<KllFloat<f32>>;

/// Apache's fit of the error in rank that 99 of 100 sketches keep, for one rank.
fn rank_error(k: u16) -> f64 {
    2.296 / f64::from(k).powf(0.9723)
}

/// The numbers from 0 up to `count` in an order that follows from `seed`.
fn shuffled(count: u32, seed: u64) -> Vec<f32> {
    let mut values: Vec<f32> = (0..count).map(|value| value as f32).collect();
    let mut state = seed;
    for last in (1..values.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values.swap(last, ((state >> 33) % (last as u64 + 1)) as usize);
    }
    values
}

fn encoded<const I: usize, const L: usize>(sketch: &Kll<I, L>) -> Vec<u8> {
    let mut buffer = vec![0; Kll::<I, L>::ENCODED_BYTES_MAX];
    sketch.encode(&mut buffer).expect("the buffer holds the longest form").to_vec()
}

fn theirs_of(values: &[f32], k: u16) -> Theirs {
    let mut sketch = Theirs::new(k).expect("k is in its range");
    for &value in values {
        sketch.update(KllFloat::<f32>::new(value).expect("it is a number"));
    }
    sketch
}

fn their_rank(sketch: &Theirs, value: f32) -> f64 {
    let value = KllFloat::<f32>::new(value).expect("it is a number");
    sketch.rank(&value, SearchCriteria::Inclusive).expect("it is not empty")
}

/// The largest error at 19 ranks, of sketches that saw all values or merged them from four parts.
fn worst_error<const I: usize, const L: usize>(k: u16, seed: u64, merge: bool) -> f64 {
    let count = 20_000;
    let values = shuffled(count, seed);
    let new = |part: usize| {
        Kll::<I, L>::new(k, (seed as u32) << 3 | part as u32).expect("the buffer is made for it")
    };
    let mut sketch = new(0);
    for (part, values) in values.chunks(if merge { 5000 } else { 20_000 }).enumerate() {
        let mut of_part = new(part + 1);
        values.iter().for_each(|&value| of_part.update(value));
        sketch.merge(&of_part).expect("20,000 values fit");
    }
    assert_eq!(sketch.count(), u64::from(count));
    let error = |twentieth: u32| {
        let exact = f64::from(twentieth) / 20.0;
        let rank = sketch.rank((count * twentieth / 20 - 1) as f32).expect("it is not empty");
        let quantile = sketch.quantile(exact).expect("it is not empty");
        (rank - exact).abs().max(((f64::from(quantile) + 1.0) / f64::from(count) - exact).abs())
    };
    (1..20).map(error).fold(0.0, f64::max)
}

#[test]
fn ranks_and_quantiles_are_within_apaches_error_over_200_seeds() {
    let mut errors: Vec<(u16, bool, Vec<f64>)> = Vec::new();
    for merge in [false, true] {
        let fine = (1..=200).map(|seed| worst_error::<705, 24>(200, seed, merge)).collect();
        errors.push((200, merge, fine));
        let coarse = (1..=200).map(|seed| worst_error::<287, 20>(64, seed, merge)).collect();
        errors.push((64, merge, coarse));
    }
    for (k, merge, mut errors) in errors {
        errors.sort_by(f64::total_cmp);
        println!(
            "k {k}, merged {merge}: median {:.5}, highest {:.5}, bound {:.5}",
            errors[100],
            errors[199],
            rank_error(k)
        );
        assert!(errors[199] <= rank_error(k), "k {k}, merged {merge}: {}", errors[199]);
    }
}

#[test]
fn the_crate_datasketches_reads_our_bytes_and_merges_them() {
    for count in [0, 1, 2, 150, 1000, 100_000] {
        let values = shuffled(count, 5);
        let mut ours = Kll200::new(200, 5).expect("the buffer is made for it");
        values.iter().for_each(|&value| ours.update(value));
        let mut theirs = Theirs::deserialize(&encoded(&ours))
            .unwrap_or_else(|error| panic!("{count} values: {error}"));
        assert_eq!((theirs.n(), theirs.num_retained()), (ours.count(), ours.retained()));
        for value in (0..count).step_by(count as usize / 50 + 1) {
            assert_eq!(Some(their_rank(&theirs, value as f32)), ours.rank(value as f32), "{count}");
        }
        assert_eq!(theirs.serialize(), encoded(&ours), "{count}");
        let above: Vec<f32> = (0..1000).map(|value| (count + value) as f32).collect();
        theirs.merge(&theirs_of(&above, 200)).expect("the counts fit");
        let expected = f64::from(count) / f64::from(count + 1000);
        assert!((their_rank(&theirs, count as f32 - 0.5) - expected).abs() < rank_error(200));
    }
}

#[test]
fn we_read_what_the_crate_datasketches_writes_and_merge_it() {
    for count in [0, 1, 2, 150, 1000, 100_000] {
        let theirs = theirs_of(&shuffled(count, 3), 200);
        let mut ours = Kll200::decode(&theirs.serialize(), 1).expect("their bytes are sound");
        assert_eq!((ours.count(), ours.retained()), (theirs.n(), theirs.num_retained()));
        let mut coarse = Kll64::new(64, 1).expect("the buffer is made for it");
        (0..1000).for_each(|value| coarse.update((count + value) as f32));
        ours.merge(&coarse).expect("the counts fit");
        assert_eq!((ours.count(), ours.k_min()), (u64::from(count) + 1000, 64));
        let expected = f64::from(count) / f64::from(count + 1000);
        let rank = ours.rank(count as f32 - 0.5).expect("it is not empty");
        assert!((rank - expected).abs() < rank_error(64), "{count}: {rank}");
        let read_back = Theirs::deserialize(&encoded(&ours)).expect("our bytes are sound");
        assert_eq!(read_back.min_k(), 64);
    }
}

#[test]
fn python_datasketches_reads_our_bytes_and_merges_them() {
    let Some(python) = python() else { return };
    let folder = env::temp_dir().join(format!("selvedge-kll-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder can be made");
    for count in [0_u32, 1, 2, 150, 1000, 100_000] {
        let values = shuffled(count, 4);
        let mut fine = Kll200::new(200, 4).expect("the buffer is made for it");
        let mut coarse = Kll64::new(64, 4).expect("the buffer is made for it");
        values.iter().for_each(|&value| fine.update(value));
        values.iter().for_each(|&value| coarse.update(value));
        for (k, bytes) in [(200, encoded(&fine)), (64, encoded(&coarse))] {
            let path = folder.join(format!("{count}-{k}.kll"));
            fs::write(path, bytes).expect("it can be written");
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/kll_reader.py");
    let output =
        Command::new(python).arg(script).arg(&folder).output().expect("Python can be started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // What it merged, and wrote: all the numbers of all files.
    let merged = fs::read(folder.join("merged.kll")).expect("the script writes it");
    let merged = Kll200::decode(&merged, 1).expect("their bytes are sound");
    assert_eq!((merged.count(), merged.k_min()), (2 * 101_153, 64), "{said}");
    let median = merged.rank(49_999.5).expect("it is not empty");
    assert!((median - 51_153.0 / 101_153.0).abs() < rank_error(64), "{median}");
    fs::remove_dir_all(&folder).expect("it was just made");
}

/// A Python that has the packages of `tests/interop/requirements.txt`, as `tests/install-tools` installs
/// it; nothing, with a word about it, if it is not there and `SELVEDGE_REQUIRE_TOOLS` is not `1`.
fn python() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    let python = cache.join("selvedge/interop/bin/python");
    if python.is_file() {
        return Some(python);
    }
    let required = env::var_os("SELVEDGE_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "no {}: run tests/install-tools", python.display());
    eprintln!("skipped: {} not found", python.display());
    None
}
