//! What happened, in order, on its way to the JavaScript thread.
//!
//! One queue and one wake-up per endpoint: libuv visits every async handle at each wake-up, so a
//! handle per stream would make the loop's work grow with the number of open streams.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::{
    connection::{CloseInfo, Link},
    lock,
    lookup::Nearby,
    network::RelayInfo,
    path::{PathChange, PathNotice},
    promise::{Resolver, Settle},
    recv::RecvHalf,
    send::SendHalf,
    stream::Pair,
};

pub enum Event {
    /// A handshake finished on an incoming connection.
    Incoming(Arc<Link>),
    /// The peer opened a stream on this connection.
    Opened(Arc<Link>, Box<Pair>),
    /// Bytes, an end or a reset are waiting to be read.
    Readable(Arc<RecvHalf>),
    /// There may be room for what a write left over.
    Writable(Arc<SendHalf>),
    Datagrams(Arc<Link>, Vec<Bytes>),
    /// Another path is selected.
    Path(Arc<Link>, Box<PathChange>),
    PathNotice(Arc<Link>, Box<PathNotice>),
    Closed(Arc<Link>, Box<CloseInfo>),
    /// JavaScript has been told that it is closed.
    Ended(Arc<Link>),
    Nearby(Box<Nearby>),
    /// The home relays, as they are now.
    Relays(Vec<RelayInfo>),
    /// Why a relay is no more although nobody closed it.
    RelayEnded(String),
    /// A promise to resolve or reject.
    Settle(Settle),
    /// The endpoint is gone: nothing comes after this.
    /// Answers the promises that were waiting for it.
    Finished(Box<dyn FnOnce() -> Vec<Resolver> + Send>),
}

type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    events: Vec<Event>,
    waker: Option<Waker>,
    /// Starts the guard over a JavaScript thread that takes too long; see `guard.rs`.
    guard: Option<Waker>,
    guarded: bool,
    /// How often everything was taken.
    takes: u64,
    finished: bool,
}

impl Queue {
    /// `waker` is called when the queue goes from empty to non-empty, from any thread.
    pub fn set_waker(&self, waker: Waker) {
        lock(&self.inner).waker = Some(waker);
    }

    /// `guard` is called when the queue fills and no guard is watching it.
    pub fn set_guard(&self, guard: Waker) {
        lock(&self.inner).guard = Some(guard);
    }

    pub fn push(&self, event: Event) {
        let (waker, guard) = {
            let mut inner = lock(&self.inner);
            if inner.finished {
                drop(inner);
                return;
            }
            inner.events.push(event);
            if inner.events.len() > 1 {
                return;
            }
            let guard = inner.guard.clone().filter(|_| !inner.guarded);
            inner.guarded |= guard.is_some();
            (inner.waker.clone(), guard)
        };
        // Outside the lock: waking takes a lock of Node's.
        for call in [waker, guard].into_iter().flatten() {
            call();
        }
    }

    /// Takes everything, leaving `spare` (emptied) behind so that its allocation is used again.
    pub fn take(&self, spare: Vec<Event>) -> Vec<Event> {
        let mut inner = lock(&self.inner);
        inner.takes += 1;
        std::mem::replace(&mut inner.events, spare)
    }

    /// What the guard does next, `takes` being what it saw last.
    pub fn watch(&self, takes: &mut u64) -> Watch {
        let mut inner = lock(&self.inner);
        if inner.events.is_empty() {
            inner.guarded = false;
            return Watch::Rest;
        }
        if std::mem::replace(takes, inner.takes) != inner.takes {
            return Watch::Moving;
        }
        let waiting = inner.events.iter().filter_map(|event| match event {
            Event::Readable(half) => Some(half.clone()),
            Event::Opened(_, pair) => pair.recv.clone(),
            _ => None,
        });
        Watch::Stalled(waiting.collect())
    }

    /// Puts events back in front of what arrived meanwhile. Whoever does this wakes for them too.
    pub fn put_back(&self, mut events: Vec<Event>) {
        let mut inner = lock(&self.inner);
        events.append(&mut inner.events);
        inner.events = events;
    }

    pub fn wake(&self) {
        let waker = lock(&self.inner).waker.clone();
        if let Some(waker) = waker {
            waker();
        }
    }

    /// Refuses everything from now on and lets go of the waker, and with it of the event loop.
    pub fn finish(&self) {
        let left = {
            let mut inner = lock(&self.inner);
            let finished = Inner {
                finished: true,
                ..Inner::default()
            };
            std::mem::replace(&mut *inner, finished)
        };
        // Dropped here, unlocked: an event may own the last handle of a connection.
        drop(left);
    }
}

pub enum Watch {
    /// Nothing is waiting; the next push calls for a guard again.
    Rest,
    Moving,
    /// Nothing was taken since the last look; these streams have something to read.
    Stalled(Vec<Arc<RecvHalf>>),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn event() -> Event {
        Event::Finished(Box::new(Vec::new))
    }

    fn counted() -> (Queue, Arc<AtomicUsize>) {
        let queue = Queue::default();
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = wakes.clone();
        queue.set_waker(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        (queue, wakes)
    }

    #[test]
    fn many_events_are_one_wake_up() {
        let (queue, wakes) = counted();
        for _ in 0..100 {
            queue.push(event());
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        assert_eq!(queue.take(Vec::new()).len(), 100);
        queue.push(event());
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn events_put_back_come_first() {
        let (queue, wakes) = counted();
        queue.push(event());
        queue.take(Vec::new());
        queue.push(Event::Finished(Box::new(|| panic!("the later one"))));
        queue.put_back(vec![event()]);
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
        match queue.take(Vec::new()).remove(0) {
            Event::Finished(first) => assert!(first().is_empty()),
            _ => unreachable!(),
        }
    }

    #[test]
    fn a_guard_is_called_for_once_and_tells_a_stall_from_work() {
        let (queue, _) = counted();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        queue.set_guard(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let mut takes = u64::MAX;
        queue.push(event());
        assert!(matches!(queue.watch(&mut takes), Watch::Moving));
        assert!(matches!(queue.watch(&mut takes), Watch::Stalled(_)));
        queue.take(Vec::new());
        queue.push(event());
        assert!(matches!(queue.watch(&mut takes), Watch::Moving));
        queue.take(Vec::new());
        assert!(matches!(queue.watch(&mut takes), Watch::Rest));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        queue.push(event());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_finished_queue_takes_nothing_and_holds_nobody() {
        let (queue, wakes) = counted();
        queue.push(event());
        queue.finish();
        queue.push(event());
        assert!(queue.take(Vec::new()).is_empty());
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        assert_eq!(Arc::strong_count(&wakes), 1);
    }
}
