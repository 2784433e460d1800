//! How long to wait before the next connection: exponential, with full jitter.
//!
//! Source: M. Brooker, "Exponential Backoff And Jitter" (2015). Randomness is an argument.

/// The waits since the last connection that lasted.
#[derive(Debug)]
pub(crate) struct Backoff {
    first_ms: u64,
    max_ms: u64,
    ceiling_ms: u64,
}

impl Backoff {
    pub(crate) fn new(first_ms: u64, max_ms: u64) -> Self {
        Self { first_ms, max_ms, ceiling_ms: first_ms.min(max_ms) }
    }

    /// The next wait, from 0 up to a ceiling that doubles each time.
    pub(crate) fn next_ms(&mut self, random: u64) -> u64 {
        let ceiling_ms = self.ceiling_ms;
        self.ceiling_ms = ceiling_ms.saturating_mul(2).min(self.max_ms);
        random.checked_rem(ceiling_ms.saturating_add(1)).unwrap_or(random)
    }

    /// Begins anew, after a connection that lasted.
    pub(crate) fn reset(&mut self) {
        self.ceiling_ms = self.first_ms.min(self.max_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_reach_up_to_a_ceiling_that_doubles_to_its_limit() {
        let mut backoff = Backoff::new(1000, 5000);
        for ceiling_ms in [1000, 2000, 4000, 5000, 5000] {
            assert_eq!(backoff.ceiling_ms, ceiling_ms);
            // The remainder of ceiling + 1 reaches both ends.
            assert_eq!(backoff.next_ms(ceiling_ms), ceiling_ms);
        }
        assert_eq!(backoff.next_ms(5001), 0);
        backoff.reset();
        assert_eq!(backoff.next_ms(1000), 1000);
        assert_eq!(Backoff::new(0, 0).next_ms(7), 0);
    }
}
