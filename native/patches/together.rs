//! In noq: what little there is to send is sent by the thread that has it.
//!
//! noq leaves all sending to a connection's driver. Where the driver waits, and on another thread, that is a
//! thread to be woken for each packet, which takes longer than making the packet.

use std::{
    cell::RefCell,
    sync::Arc,
    task::{Context, Waker},
};

use super::{ConnectionInner, Shared, State};

thread_local! {
    /// The connections that have something to send, inside of `together`.
    static GATHERED: RefCell<Option<Vec<Arc<ConnectionInner>>>> = const { RefCell::new(None) };
}

/// Runs `work`, and then sends what it has given connections to send whose drivers wait. Not to be nested.
pub fn together<T>(work: impl FnOnce() -> T) -> T {
    GATHERED.set(Some(Vec::new()));
    let _sending = Sending;
    work()
}

/// In its drop, so that nothing is forgotten where `work` panics.
struct Sending;

impl Drop for Sending {
    fn drop(&mut self) {
        for conn in GATHERED.take().into_iter().flatten() {
            conn.lock_without_waking("together")
                .send_or_wake(&conn.shared);
        }
    }
}

impl ConnectionInner {
    /// Whether the lock is free and the driver waits for something to do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state
            .try_lock()
            .is_some_and(|state| state.driver.is_some())
    }

    /// Answers whether the driver need not be woken, because `together` will send.
    pub(super) fn is_gathered(&self, state: &State) -> bool {
        state.driver.is_some()
            && GATHERED.with_borrow_mut(|gathered| {
                let Some(gathered) = gathered else {
                    return false;
                };
                if !gathered.iter().any(|conn| std::ptr::eq(&**conn, self)) {
                    gathered.extend(self.me.upgrade());
                }
                true
            })
    }
}

impl State {
    /// What the driver does in its turn, but for what has come in. Wakes the driver where that was not all.
    fn send_or_wake(&mut self, shared: &Shared) {
        // The first timer is made by the driver: that takes the runtime.
        if self.error.is_none()
            && self.timer.is_some()
            && let Some(driver) = self.driver.clone()
            && self.send(&driver, shared)
        {
            return;
        }
        self.wake();
    }

    /// Answers whether that was all.
    fn send(&mut self, driver: &Waker, shared: &Shared) -> bool {
        let cx = &mut Context::from_waker(driver);
        let Ok(more) = self.drive_transmit(cx) else {
            return false;
        };
        let more = self.drive_timer(cx) | more;
        self.forward_endpoint_events();
        self.forward_app_events(shared);
        !more
    }
}
