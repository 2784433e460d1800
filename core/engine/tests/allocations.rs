//! Running a prepared program allocates nothing, with any set of kernels: what the thread asks of its allocator is
//! counted.

mod small;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use selvedge_engine::{Arena, Executable, KernelSet, Limits};

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

// SAFETY: all is handed on to the system's allocator as it came; the counter is a plain cell of the thread, which
// takes no memory itself. Growing and zeroed memory go through `alloc`, as the trait has them.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + 1);
        // SAFETY: the caller keeps the rules of `alloc`, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the rules of `dealloc`, and the block is of the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn running_a_program_allocates_nothing() {
    for program in small::programs() {
        for set in KernelSet::available() {
            let executable =
                Executable::prepare(&program[..], set, &Limits::new()).expect("it is sound");
            let mut arena = Arena::zeroed(executable.arena_bytes());
            let before = ALLOCATED.get();
            assert!(before > 0, "preparing allocates, and is counted");
            executable.run(&mut arena).expect("the arena is large enough");
            assert_eq!(ALLOCATED.get(), before, "{}", set.name());
        }
    }
}
