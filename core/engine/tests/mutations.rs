//! Programs that were changed at random: each is refused, or runs within its arena with every kernel set.
//!
//! `SELVEDGE_FULL` runs a million; without it, 20,000 are run. A failure names the case, and the same case always
//! has the same program. Arena and program lie against pages that cannot be touched, so that a kernel which reads
//! too far ends the test.

#![cfg(unix)]

mod small;

use std::{ops::Range, panic, ptr, slice};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
use selvedge_engine::{Executable, KernelSet, Limits, Op, Program, ProgramBuilder};

const LIMITS: Limits = Limits {
    program_bytes_max: 1 << 16,
    arena_bytes_max: 1 << 15,
    operations_max: 64,
    ports_max: 16,
    extent_max: 1 << 24,
    work_max: 1 << 18,
};

/// What lies around the arena in the same page.
const GUARD: u8 = 0xa5;

#[test]
fn every_mutated_program_is_refused_or_runs_within_its_arena() {
    let full = std::env::var_os("SELVEDGE_FULL").is_some();
    let cases: u64 = if full { 1_000_000 } else { 20_000 };
    let originals = small::programs();
    let (arena, bytes) = (Fence::new(1 << 16), Fence::new(1 << 17));
    let mut accepted = 0;
    for case in 0..cases {
        let program = mutated(&originals, case);
        let outcome = panic::catch_unwind(|| run(&program, &arena, &bytes, case));
        match outcome {
            Ok(ran) => accepted += u64::from(ran),
            Err(_) => panic!("case {case}"),
        }
    }
    println!("{cases} programs, {accepted} of them ran");
    assert!(accepted * 50 >= cases, "only {accepted} ran: the mutations are too coarse");
}

/// Whether the program was accepted.
fn run(program: &[u8], arena: &Fence, bytes: &Fence, case: u64) -> bool {
    let at_end = case.is_multiple_of(2);
    let bytes = bytes.slice(program.len(), at_end);
    bytes.copy_from_slice(program);
    let Ok(program) = Program::check(bytes, &LIMITS) else { return false };
    let within = |run: &dyn Fn(&mut [u8])| {
        arena.all().fill(GUARD);
        let range = arena.range(program.arena_bytes(), at_end);
        run(arena.slice(program.arena_bytes(), at_end));
        let outside = [&arena.all()[..range.start], &arena.all()[range.end..]];
        assert!(outside.concat().iter().all(|byte| *byte == GUARD), "a byte outside was written");
    };
    within(&|arena| program.run(arena).expect("the arena is large enough"));
    for set in KernelSet::available() {
        let executable = Executable::prepare(&*bytes, set, &LIMITS).expect("it was checked");
        within(&|arena| executable.run(arena).expect("the arena is large enough"));
    }
    true
}

/// Memory between two pages that cannot be touched.
struct Fence {
    first: *mut u8,
    len_bytes: usize,
}

impl Fence {
    fn new(len_bytes: usize) -> Fence {
        let page = 1 << 16;
        // SAFETY: a new mapping that nothing else refers to; both changes are within it.
        let first = unsafe {
            let flags = ProtFlags::READ | ProtFlags::WRITE;
            let whole =
                mmap_anonymous(ptr::null_mut(), len_bytes + 2 * page, flags, MapFlags::PRIVATE)
                    .expect("memory for the test");
            let behind = whole.byte_add(page + len_bytes);
            for guard in [whole, behind] {
                mprotect(guard, page, MprotectFlags::empty()).expect("the pages are this test's");
            }
            whole.byte_add(page).cast()
        };
        Fence { first, len_bytes }
    }

    /// Where a block lies: against one end or the other.
    fn range(&self, len_bytes: usize, at_end: bool) -> Range<usize> {
        let start = if at_end { self.len_bytes - len_bytes } else { 0 };
        start..start + len_bytes
    }

    #[allow(clippy::mut_from_ref)]
    fn slice(&self, len_bytes: usize, at_end: bool) -> &mut [u8] {
        let range = self.range(len_bytes, at_end);
        // SAFETY: the range is within the mapping, which lives until the process ends. The test has one thread, and
        // uses a block only until it asks for the next one that overlaps with it.
        unsafe { slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }

    fn all(&self) -> &mut [u8] {
        self.slice(self.len_bytes, false)
    }
}

fn mutated(originals: &[Vec<u8>], case: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(case);
    let original = &originals[random.usize(..originals.len())];
    let other = &originals[random.usize(..originals.len())];
    let mut program = original.clone();
    for _ in 0..random.u32(1..=3) {
        program = match random.u32(0..10) {
            0 => flipped(program, &mut random),
            1 => cut(program, &mut random),
            2 => spliced(&program, other, &mut random),
            3 => reordered(&program, other, &mut random).unwrap_or(program),
            _ => renumbered(&program, &mut random),
        };
    }
    program
}

/// A few bits turned over, anywhere.
fn flipped(mut program: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    // Half of the time in the plan, which is small beside the constants.
    let end = if random.bool() { parts(&program).0.end } else { program.len() };
    for _ in 0..random.u32(1..=4) {
        program[random.usize(..end)] ^= 1 << random.u32(0..8);
    }
    program
}

/// Some bytes taken out or doubled.
fn cut(mut program: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    let start = random.usize(..program.len());
    let end = (start + random.usize(0..64)).min(program.len());
    let piece = program[start..end].to_vec();
    let with = if random.bool() { [&piece[..], &piece].concat() } else { Vec::new() };
    program.splice(start..end, with);
    program.resize(program.len().max(16), 0);
    program
}

/// A piece of another plan in the place of one of this.
fn spliced(program: &[u8], other: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let (plan, constants) = parts(program);
    let piece = piece(&other[parts(other).0], random);
    let mut plan = program[plan].to_vec();
    let at = random.usize(..=plan.len());
    let end = (at + piece.len()).min(plan.len());
    plan.splice(at..end, piece);
    assembled(&plan, &program[constants])
}

fn piece(plan: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let start = random.usize(..=plan.len());
    plan[start..(start + random.usize(0..48)).min(plan.len())].to_vec()
}

/// Operations of two programs in any order, over the constants of the first. `None` if the builder refuses them.
fn reordered(program: &[u8], other: &[u8], random: &mut fastrand::Rng) -> Option<Vec<u8>> {
    let first = Program::check(program, &LIMITS).ok()?;
    let second = Program::check(other, &LIMITS).ok()?;
    let mut ops: Vec<Op> = first.operations().chain(second.operations()).collect();
    random.shuffle(&mut ops);
    let mut builder = ProgramBuilder::new();
    builder.constants(&program[parts(program).1]);
    first.inputs().for_each(|port| builder.input(port.name, port.element, port.shape, port.offset));
    first
        .outputs()
        .for_each(|port| builder.output(port.name, port.element, port.shape, port.offset));
    ops.truncate(random.usize(1..=8));
    ops.into_iter().for_each(|op| builder.push(op));
    builder.finish(small::ARENA_BYTES, &LIMITS).ok()
}

/// One number of the plan changed: most fields of a record are numbers of variable length, so that most bytes of a
/// plan begin one.
fn renumbered(program: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let (plan, constants) = parts(program);
    let mut plan = program[plan].to_vec();
    let at = random.usize(..plan.len().max(1)).min(plan.len());
    let len_bytes =
        plan[at..].iter().take(5).position(|byte| *byte < 0x80).map_or(0, |last| last + 1);
    let digits = plan[at..at + len_bytes].iter().rev();
    let number = digits.fold(0_u32, |number, byte| number << 7 | u32::from(byte & 0x7f));
    let other = match random.u32(0..8) {
        0 => number.wrapping_add(1),
        1 => number.wrapping_sub(1),
        2 => number.wrapping_mul(2),
        3 => number / 2,
        4 => number.wrapping_add(random.u32(0..64)),
        5 => 0,
        6 => u32::MAX >> random.u32(0..32),
        _ => 1 << random.u32(0..32),
    };
    let mut encoded = Vec::new();
    let mut rest = other;
    while rest >= 0x80 {
        encoded.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    encoded.push(rest as u8);
    plan.splice(at..at + len_bytes, encoded);
    assembled(&plan, &program[constants])
}

/// Where the plan and the constants lie; as much of them as there is.
fn parts(program: &[u8]) -> (Range<usize>, Range<usize>) {
    let word = |at: usize| {
        program.get(at..at + 4).map_or(0, |word| {
            u32::from_le_bytes(word.try_into().expect("four bytes were asked for")) as usize
        })
    };
    let len = program.len();
    let plan = 16.min(len)..word(8).saturating_add(16).clamp(16.min(len), len);
    let start = plan.end.next_multiple_of(64).min(len);
    (plan, start..word(12).saturating_add(start).min(len))
}

fn assembled(plan: &[u8], constants: &[u8]) -> Vec<u8> {
    let mut program = b"SVIP\x01\0\0\0".to_vec();
    program.extend((plan.len() as u32).to_le_bytes());
    program.extend((constants.len() as u32).to_le_bytes());
    program.extend(plan);
    program.resize(program.len().next_multiple_of(64), 0);
    program.extend(constants);
    program
}
