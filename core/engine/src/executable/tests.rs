//! Runs by several threads, of networks that are too small to be shared otherwise.

use std::thread;

use super::*;
use crate::Workers;
use crate::program::Element;

#[path = "../../tests/small/mod.rs"]
mod small;

/// Threads of its own for each run, and each waits for the others as soon as it can.
struct Scoped(usize);

impl Team for Scoped {
    fn run(&self, part: &(dyn Fn() + Sync)) {
        thread::scope(|scope| {
            (1..self.0).for_each(|_| drop(scope.spawn(part)));
            part();
        });
    }

    fn wait(&self, _: u32) {
        thread::yield_now();
    }
}

/// A team that calls no one.
struct Absent;

impl Team for Absent {
    fn run(&self, _: &(dyn Fn() + Sync)) {}

    fn wait(&self, _: u32) {}
}

/// The small programs, cut as finely as can be.
fn executables() -> impl Iterator<Item = Executable<Arena>> {
    small::programs().into_iter().flat_map(|bytes| {
        KernelSet::available().into_iter().map(move |set| {
            let mut executable = Executable::prepare(Arena::copied(&bytes), set, &Limits::new())
                .expect("it is sound");
            let ops = executable.steps.iter().map(|step| &step.op);
            executable.schedule = Schedule::with_pieces_of(ops, 1);
            executable
        })
    })
}

/// All of the arena after a run that began with other bytes in each port.
fn arena_after(
    executable: &Executable<Arena>,
    run: impl FnOnce(&mut [u8]) -> Result<(), ProgramError>,
) -> Arena {
    let mut arena = Arena::zeroed(executable.arena_bytes());
    for port in executable.program().ports() {
        let bytes = arena[port.range()].iter_mut().enumerate();
        match port.element {
            Element::F32 => bytes.for_each(|(at, byte)| *byte = [7, 81, at as u8, 63][at % 4]),
            _ => bytes.for_each(|(at, byte)| *byte = (at * 37) as u8),
        }
    }
    run(&mut arena).expect("the arena is large enough");
    arena
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    // Miri is slow: there, each way to share once, on one program.
    let (rounds, programs, threads_max) = if cfg!(miri) { (1, 1, 2) } else { (50, usize::MAX, 3) };
    let teams: Vec<_> = (1..threads_max)
        .map(|threads| Workers::start(threads).expect("threads can be started"))
        .collect();
    for executable in executables().take(programs) {
        let alone = arena_after(&executable, |arena| executable.run(arena));
        let same = |team: &dyn Fn(&mut [u8]) -> Result<(), ProgramError>| {
            let shared = arena_after(&executable, team);
            assert!(shared[..] == alone[..], "with {}", executable.kernels().name());
        };
        for _ in 0..rounds {
            same(&|arena| executable.run_phases(arena, &Absent));
            (1..=threads_max).for_each(|threads| {
                same(&|arena| executable.run_phases(arena, &Scoped(threads)));
            });
            teams.iter().for_each(|team| same(&|arena| executable.run_phases(arena, team)));
        }
    }
}

#[test]
fn a_small_program_does_not_ask_for_a_team() {
    struct Refusing;
    impl Team for Refusing {
        fn run(&self, _: &(dyn Fn() + Sync)) {
            panic!("it is not worth the time");
        }

        fn wait(&self, _: u32) {}
    }
    for executable in executables().take(1) {
        arena_after(&executable, |arena| executable.run_shared(arena, &Refusing));
    }
}

#[test]
fn workers_help_one_run_at_a_time_and_outlive_a_panic() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    let workers = Workers::start(1).expect("a thread can be started");
    let calls = AtomicUsize::new(0);
    let count = || {
        calls.fetch_add(1, Ordering::Relaxed);
    };
    workers.run(&|| {
        count();
        workers.run(&count);
    });
    // The worker may have been late, but one who is in a run is not called from within.
    let calls_of_one = calls.swap(0, Ordering::Relaxed);
    assert!(calls_of_one == 2 || calls_of_one == 4, "{calls_of_one}");
    let panicking = || workers.run(&|| panic!("as it should"));
    assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    workers.run(&count);
    assert!(calls.load(Ordering::Relaxed) >= 1);
}
