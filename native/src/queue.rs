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
    send::Progress,
    stream::Pair,
};

pub enum Event {
    /// A handshake finished on an incoming connection.
    Incoming(Arc<Link>),
    /// The peer opened a stream on this connection.
    Opened(Arc<Link>, Box<Pair>),
    /// Bytes, an end or a reset are waiting to be read.
    Readable(Arc<RecvHalf>),
    /// What became of the writes of the stream of this number.
    Written(u64, Progress),
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
    finished: bool,
}

impl Queue {
    /// `waker` is called when the queue goes from empty to non-empty, from any thread.
    pub fn set_waker(&self, waker: Waker) {
        lock(&self.inner).waker = Some(waker);
    }

    pub fn push(&self, event: Event) {
        let waker = {
            let mut inner = lock(&self.inner);
            if inner.finished {
                drop(inner);
                return;
            }
            inner.events.push(event);
            if inner.events.len() > 1 {
                return;
            }
            inner.waker.clone()
        };
        // Outside the lock: waking takes a lock of Node's.
        if let Some(waker) = waker {
            waker();
        }
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.inner).events.is_empty()
    }

    /// Takes everything, leaving `spare` (emptied) behind so that its allocation is used again.
    pub fn take(&self, spare: Vec<Event>) -> Vec<Event> {
        std::mem::replace(&mut lock(&self.inner).events, spare)
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
