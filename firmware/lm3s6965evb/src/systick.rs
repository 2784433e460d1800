//! The time since the start, from the core's SysTick timer.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::{SYST, syst::SystClkSource};
use cortex_m_rt::exception;
use selvedge_node::Clock;

use crate::board::CORE_HZ;

const TICKS_PER_MS: u32 = CORE_HZ / 1000;
const TICKS_PER_US: u32 = CORE_HZ / 1_000_000;

static UPTIME_MS: AtomicU32 = AtomicU32::new(0);

/// Counts milliseconds by interrupt, and reads the timer for what is below.
pub struct Uptime {
    // Held so that no one else changes it.
    _timer: SYST,
}

impl Uptime {
    /// Starts the timer.
    pub fn start(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(TICKS_PER_MS - 1);
        timer.clear_current();
        timer.enable_interrupt();
        timer.enable_counter();
        Self { _timer: timer }
    }
}

impl Clock for Uptime {
    fn uptime_ms(&mut self) -> u32 {
        UPTIME_MS.load(Ordering::Relaxed)
    }

    fn uptime_us(&mut self) -> u32 {
        loop {
            let before_ms = self.uptime_ms();
            // The timer counts down.
            let ticks = TICKS_PER_MS - 1 - SYST::get_current();
            // The interrupt came in between: the two do not belong together.
            if self.uptime_ms() == before_ms {
                return before_ms.wrapping_mul(1000).wrapping_add(ticks / TICKS_PER_US);
            }
        }
    }
}

#[exception]
fn SysTick() {
    // Only this handler writes, so load and store need not be one operation.
    UPTIME_MS.store(UPTIME_MS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
