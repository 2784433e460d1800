//! The power is cut after every single operation of an update, and again while that is recovered from.
//!
//! An update here is all of it: metadata that names the new bundle, a desired state, its chunks, the trial,
//! the change of models, the probation. Writes that were not synced are lost, kept, or torn in part; names
//! that were not synced are lost from the end or, on a disk without a journal, anywhere.
//!
//! After each cut the device must answer with the old bundle or the new one, and the next update must end.
//! Everyday, the update of 300 chunks is cut at a part of its operations; `SELVEDGE_FULL=1` cuts at all.

use std::env;

use selvedge_bundle::{BlobChunks, ChunkIndex, ChunkRef, compress};
use selvedge_trust::TargetsEdit;
use selvedge_wire::encode;

use super::{
    super::{BundleOffer, Digest, Topic, digest_of},
    world::{PROBATION_MS, World, bundle, noise, target_of, target_with},
};
use selvedge_bundle::Bundle;

/// What survives of that which was not synced.
#[derive(Clone, Copy, Debug)]
enum Survival {
    Nothing,
    Everything,
    Some,
    SomeUnordered,
}

const SURVIVALS: [Survival; 4] =
    [Survival::Nothing, Survival::Everything, Survival::Some, Survival::SomeUnordered];

/// After how many operations of the recovery the power is cut again.
const AGAIN: [Option<usize>; 4] = [None, Some(0), Some(3), Some(11)];

/// A world in which an update is about to come, and the one after it.
struct Sweep {
    before: World,
    old: Bundle,
    new: Bundle,
    next: Bundle,
    after: World,
}

/// What was counted.
#[derive(Debug, Default)]
struct Outcomes {
    points: usize,
    old: usize,
    new: usize,
    bad: Vec<String>,
}

impl Sweep {
    fn of_chunks(new: Bundle, index: &ChunkIndex) -> Self {
        let (old, mut before) = installed();
        before.publish_bytes(&new);
        before.publish_offer(&new, BundleOffer { index: index.encode() });
        for (digest, content) in pieces(&new, index) {
            let topic = Topic::Chunk(digest).to_string();
            before.retained.insert(topic, encode(&compress(content)));
        }
        before.edit_targets(&[TargetsEdit::Add(target_with(&new, index))]);
        Self::between(before, old, new)
    }

    /// An update that fetches a patch, and its index.
    fn of_a_patch() -> Self {
        let (old, mut before) = installed();
        let nudged = old.model().iter().enumerate();
        let nudged = nudged.map(|(place, byte)| byte ^ u8::from(place % 50 == 0));
        let new = bundle("2.0.0", nudged.collect());
        let patch = before.put_patched(&old, &new);
        let sweep = Self::between(before, old, new);
        let mut world = sweep.started();
        sweep.update(&mut world);
        let pieces = patch.index().pieces().iter().map(|piece| piece.digest);
        let fetched: Vec<_> = [patch.index().digest()].into_iter().chain(pieces).collect();
        assert_eq!(world.requested, fetched);
        sweep
    }

    fn between(before: World, old: Bundle, new: Bundle) -> Self {
        let next = bundle("3.0.0", noise(3000, 3));
        let mut after = before.fork();
        after.publish_bytes(&next);
        after.edit_targets(&[TargetsEdit::Add(target_of(&next))]);
        Self { before, old, new, next, after }
    }

    fn update(&self, world: &mut World) {
        world.deliver_timestamp();
        world.desire(2, &self.new);
        world.confirm(&self.new);
    }

    /// How many operations change something while the update comes in undisturbed.
    fn operations(&self) -> usize {
        let mut world = self.started();
        let begun = world.disk.operations();
        self.update(&mut world);
        assert_eq!(world.answering, Some(self.new.digest()), "{:?}", world.report());
        world.disk.operations() - begun
    }

    fn started(&self) -> World {
        let mut world = self.before.fork();
        // The broker has the news; the device does not listen yet.
        let retained = std::mem::take(&mut world.retained);
        world.start().expect("the disk works");
        world.retained = retained;
        world
    }

    fn run(&self, step: usize, sync_ignored: Option<&str>) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for cut in (0..self.operations()).step_by(step) {
            for survival in SURVIVALS {
                for again in AGAIN {
                    let place = format!("cut {cut}, {survival:?}, again {again:?}");
                    let mut world = self.started();
                    if let Some(path) = sync_ignored {
                        world.disk.ignore_sync(path);
                    }
                    outcomes.points += 1;
                    match self.cut(&mut world, cut, survival, again) {
                        Ok(bundle) if bundle == self.old.digest() => outcomes.old += 1,
                        Ok(_) => outcomes.new += 1,
                        Err(problem) => outcomes.bad.push(format!("{place}: {problem}")),
                    }
                }
            }
        }
        outcomes
    }

    /// Cuts the power, and says what answered afterwards, if that and the next update were right.
    fn cut(
        &self,
        world: &mut World,
        cut: usize,
        survival: Survival,
        again: Option<usize>,
    ) -> Result<Digest, String> {
        world.ended_cleanly = false;
        world.disk.set_unordered(matches!(survival, Survival::SomeUnordered));
        world.disk.cut_after(cut);
        self.update(world);
        power_cycle(world, survival, cut as u64);
        if let Some(operations) = again {
            world.disk.cut_after(operations);
            if world.start().is_ok() {
                self.update(world);
            }
            power_cycle(world, survival, cut as u64 + 7);
        }
        world.start().map_err(|error| format!("it does not start: {error}"))?;
        let known = [self.old.digest(), self.new.digest()];
        let answering = world.answering_at_start.filter(|bundle| known.contains(bundle));
        let answering =
            answering.ok_or_else(|| format!("{:?} answers", world.answering_at_start))?;
        if again.is_none() {
            // One cut alone costs no update.
            self.settle(world, 2, &self.new)?;
        }
        world.retained = self.after.retained.clone();
        self.settle(world, 3, &self.next)?;
        Ok(answering)
    }

    fn settle(&self, world: &mut World, generation: u64, bundle: &Bundle) -> Result<(), String> {
        world.deliver_timestamp();
        world.desire(generation, bundle);
        for _ in 0..4 {
            world.pass(60_000);
        }
        world.pass(PROBATION_MS);
        world.confirm(bundle);
        if world.answering == Some(bundle.digest()) && world.report().reason.is_none() {
            return Ok(());
        }
        Err(format!("generation {generation} does not come in: {:?}", world.report()))
    }
}

/// A world in which a first bundle answers.
fn installed() -> (Bundle, World) {
    let old = bundle("1.0.0", noise(3000, 1));
    let mut world = World::new();
    world.install(1, &old);
    world.requested.clear();
    (old, world)
}

fn power_cycle(world: &World, survival: Survival, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut dice = |sides: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % sides
    };
    match survival {
        Survival::Nothing => world.disk.power_cycle(|_| 0),
        Survival::Everything => world.disk.power_cycle(|sides| sides - 1),
        Survival::Some | Survival::SomeUnordered => world.disk.power_cycle(&mut dice),
    }
}

/// The index of a bundle whose model is cut into pieces of this length.
fn fine_index(bundle: &Bundle, piece_bytes: usize) -> ChunkIndex {
    let whole = ChunkIndex::of(bundle).expect("the bundle is small");
    let model = digest_of(bundle.model());
    let mut blobs = whole.blobs().to_vec();
    for blob in &mut blobs {
        if blob.digest == model {
            blob.chunks = bundle.model().chunks(piece_bytes).map(chunk_ref).collect();
        }
        // The encoding leaves out the one chunk that is the whole blob.
        if let [_] = blob.chunks[..] {
            blob.chunks.clear();
        }
    }
    let body = postcard::to_allocvec::<Vec<BlobChunks>>(&blobs).expect("it is plain");
    let index = ChunkIndex::decode(&[&whole.encode()[..1], &body].concat());
    index.expect("it is in the one encoding")
}

fn chunk_ref(content: &[u8]) -> ChunkRef {
    ChunkRef { digest: digest_of(content), len_bytes: content.len() as u32 }
}

fn pieces<'bundle>(bundle: &'bundle Bundle, index: &ChunkIndex) -> Vec<(Digest, &'bundle [u8])> {
    let mut pieces = Vec::new();
    for (blob, (_, mut rest)) in index.blobs().iter().zip(bundle.blobs()) {
        for chunk in &blob.chunks {
            let (content, more) = rest.split_at(chunk.len_bytes as usize);
            pieces.push((chunk.digest, content));
            rest = more;
        }
    }
    pieces
}

/// An update that fetches the OCI manifest, the bundle's manifest, and the model in so many pieces.
fn update_of(chunks: usize, piece_bytes: usize) -> Sweep {
    let new = bundle("2.0.0", noise((chunks - 2) * piece_bytes, 2));
    let index = fine_index(&new, piece_bytes);
    let sweep = Sweep::of_chunks(new, &index);
    let mut world = sweep.started();
    sweep.update(&mut world);
    assert_eq!(world.requested.len(), chunks);
    sweep
}

#[test]
fn wherever_the_power_fails_the_old_bundle_or_the_new_answers_and_the_next_update_ends() {
    let full = env::var_os("SELVEDGE_FULL").is_some();
    let (mut points, mut bad) = (0, Vec::new());
    for (what, sweep, step) in [
        ("3 chunks", update_of(3, 3000), 1),
        ("a patch", Sweep::of_a_patch(), 1),
        ("300 chunks", update_of(300, 64), if full { 1 } else { 37 }),
    ] {
        let outcomes = sweep.run(step, None);
        println!(
            "an update of {what}, {} operations: {} power cuts; the old bundle answered after {}, the new \
             one after {}, {} were bad",
            sweep.operations(),
            outcomes.points,
            outcomes.old,
            outcomes.new,
            outcomes.bad.len(),
        );
        points += outcomes.points;
        bad.extend(outcomes.bad);
    }
    assert!(points >= 1000, "{points} points");
    assert!(bad.is_empty(), "{} bad, among them {:#?}", bad.len(), &bad[..bad.len().min(5)]);
}

#[test]
fn a_sync_that_is_left_out_is_found() {
    let outcomes = update_of(3, 3000).run(5, Some("slots/"));
    println!("{} of {} points are bad without one sync", outcomes.bad.len(), outcomes.points);
    assert!(!outcomes.bad.is_empty());
}
