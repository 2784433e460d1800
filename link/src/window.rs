//! Which packet identifier belongs to which request.
//!
//! The client library hands out identifiers in the order of its requests, as 1, 2, … n and again from
//! 1, and tells each when it is sent. It is confused when an identifier comes round while its last
//! bearer is still under way (a collision), so that many requests in a row are never outstanding:
//! the ring here holds a place for each request from the oldest that waits to the newest.

use std::collections::VecDeque;

/// The most requests that are in the client library's channel.
pub(crate) const REQUESTS_MAX: usize = 4;

/// The broker or the client library answered what was never asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfStep;

/// The requests of one connection that are under way.
#[derive(Debug)]
pub(crate) struct Window<T> {
    width: usize,
    /// Requests that were handed over and not told as sent; nothing for one without an identifier.
    unsent: VecDeque<Option<T>>,
    /// Requests that were sent, by identifier; nothing for one that was answered out of order.
    ring: VecDeque<(u16, Option<T>)>,
}

impl<T> Window<T> {
    /// A window for a library that hands out `ids` identifiers.
    pub(crate) fn new(ids: u16) -> Self {
        // One less than all: with all in use the library stops taking acknowledgements from us.
        let width = usize::from(ids.saturating_sub(1)).max(1);
        Self { width, unsent: VecDeque::new(), ring: VecDeque::new() }
    }

    /// Narrows the window to what the broker grants.
    pub(crate) fn narrow(&mut self, ids: u16) {
        self.width = self.width.min(usize::from(ids.saturating_sub(1)).max(1));
    }

    /// Whether a request that needs no identifier may be handed over.
    pub(crate) fn has_channel_room(&self) -> bool {
        self.unsent.len() < REQUESTS_MAX
    }

    /// Whether a request that needs an identifier may be handed over.
    pub(crate) fn has_room(&self) -> bool {
        let outstanding = self.ring.len() + self.unsent.iter().flatten().count();
        self.has_channel_room() && outstanding < self.width
    }

    /// A request was handed over; nothing for one that needs no identifier.
    pub(crate) fn handed_over(&mut self, request: Option<T>) {
        self.unsent.push_back(request);
    }

    /// The library has sent the oldest request that was handed over.
    pub(crate) fn sent(&mut self, id: Option<u16>) -> Result<Option<&T>, OutOfStep> {
        match (self.unsent.pop_front(), id) {
            (Some(Some(request)), Some(id)) => {
                self.ring.push_back((id, Some(request)));
                Ok(self.ring.back().and_then(|(_, request)| request.as_ref()))
            }
            (Some(None), None) => Ok(None),
            _ => Err(OutOfStep),
        }
    }

    /// The broker has answered the request with that identifier.
    pub(crate) fn answered(&mut self, id: u16) -> Result<T, OutOfStep> {
        let slot = self.ring.iter_mut().find(|(sent, request)| *sent == id && request.is_some());
        let request = slot.and_then(|(_, request)| request.take()).ok_or(OutOfStep)?;
        while matches!(self.ring.front(), Some((_, None))) {
            self.ring.pop_front();
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(window: &mut Window<u32>, request: u32, id: u16) {
        window.handed_over(Some(request));
        window.sent(Some(id)).expect("a request was handed over");
    }

    #[test]
    fn an_answer_out_of_order_frees_no_room_until_those_before_it_are_answered() {
        let mut window = Window::new(4);
        for id in 1..=3 {
            assert!(window.has_room());
            send(&mut window, u32::from(id) * 10, id);
        }
        assert!(!window.has_room());
        assert_eq!(window.answered(2), Ok(20));
        assert!(!window.has_room());
        assert_eq!(window.answered(1), Ok(10));
        assert!(window.has_room());
        assert_eq!(window.answered(3), Ok(30));
        assert_eq!(window.answered(3), Err(OutOfStep));
    }

    #[test]
    fn acknowledgements_take_room_in_the_channel_but_no_identifier() {
        let mut window = Window::<u32>::new(100);
        for _ in 0..REQUESTS_MAX {
            assert!(window.has_channel_room());
            window.handed_over(None);
        }
        assert!(!window.has_channel_room() && !window.has_room());
        assert_eq!(window.sent(None), Ok(None));
        assert!(window.has_room());
        assert_eq!(window.sent(Some(1)), Err(OutOfStep));
    }

    #[test]
    fn a_broker_that_grants_one_at_a_time_gets_one_at_a_time() {
        let mut window = Window::new(16);
        window.narrow(1);
        window.handed_over(Some(1));
        assert!(!window.has_room());
        assert_eq!(window.sent(Some(1)), Ok(Some(&1)));
        assert!(!window.has_room());
        assert_eq!(window.answered(1), Ok(1));
        assert!(window.has_room());
    }
}
