//! The reading side of a stream.
//!
//! There is no task per stream. A stream that has nothing to read costs a waker in noq's table; when
//! that waker fires, the engine's thread (`outbox.rs`) takes out of noq what is there, within the budget
//! that JavaScript gave, and the JavaScript thread copies it into the buffer that JavaScript gets. So a
//! stop never waits for a read, and what JavaScript does not take can be left to QUIC, whose flow control
//! holds the peer.
//!
//! But not all of it. noq 1.4.0 gives up the whole connection ("too many gaps in stream buffer") once a
//! stream holds some 2,000 chunks unread, and it does not join them: a peer that writes 200 bytes at a
//! time to a reader that pauses gets there with 500 KB, far below the window. So what lies in noq for some
//! time, because its reader is out of budget or not started, is taken out all the same, joined and kept here,
//! up to a limit for the connection. With the mend of quinn issue 2809 in noq, `hoard` can go.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use iroh::endpoint::{ReadError, RecvStream, VarInt};

use crate::{
    connection::Link,
    error::{Failure, Result},
    lock,
    outbox::Job,
    queue::Event,
};

/// At most this much becomes one DATA event. More saves little, and holds up the other streams.
pub const COALESCE: usize = 256 * 1024;

/// Chunks asked for under one lock of the connection; 256 KiB in packets of the usual size.
const CHUNKS: usize = 256;

/// Chunks are rarely smaller than this in bulk; used only to size a read to a small budget.
const TYPICAL_CHUNK: usize = 1024;

/// So much of a stream is read before it is started: what its opener sends along.
const EARLY: usize = 16 * 1024;

/// As many are kept as they are. What comes after them is joined: each holds the packets it came with.
const KEPT: usize = 1024;

/// At most so much of a connection is kept outside QUIC's flow control. A well-behaved peer stays below
/// it by the session's own flow control, whose windows add up to no more.
const HOARD: usize = 64 * 1024 * 1024;

/// What a read found.
pub trait Sink {
    fn data(&mut self, id: u64, chunks: &[Bytes], len: usize);
    fn end(&mut self, id: u64);
    fn reset(&mut self, id: u64, code: u64);
}

/// Room for one read, kept by the reader so that no stream has to own it.
pub struct Scratch(Vec<Bytes>);

impl Default for Scratch {
    fn default() -> Self {
        Self(vec![Bytes::new(); CHUNKS])
    }
}

pub struct RecvHalf {
    pub id: u64,
    link: Arc<Link>,
    /// Already in the queue, to be handed to JavaScript.
    queued: AtomicBool,
    /// Already in the outbox, to be read. Outside the lock, because noq's waker must not wait for it.
    awaited: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<RecvStream>,
    /// Read and not handed over yet.
    kept: VecDeque<Bytes>,
    /// What follows `kept`, joined.
    joined: Vec<u8>,
    /// The size of both.
    held: usize,
    /// Of it, what is counted in `Link::hoarded`: what was read beyond the budget of the moment.
    hoarded: usize,
    /// noq may have more, and will not call for it to be read.
    more: bool,
    /// `look` is called from time to time.
    looked_after: bool,
    /// Read since the last look.
    fresh: bool,
    /// Seen by a read whose data may still be held.
    end: Option<End>,
    started: bool,
    /// Bytes that may still be handed over.
    budget: usize,
}

enum End {
    Finished,
    Reset(u64),
    /// With its connection, whose CLOSED says so.
    Lost,
}

impl RecvHalf {
    pub fn new(id: u64, link: Arc<Link>, stream: RecvStream) -> Arc<Self> {
        Arc::new(Self {
            id,
            link,
            queued: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            state: Mutex::new(State {
                stream: Some(stream),
                more: true,
                ..State::default()
            }),
        })
    }

    pub fn start(self: &Arc<Self>, budget: usize) -> Result<()> {
        if budget == 0 {
            return Err(Failure::invalid(
                "a budget of 0 bytes would deliver nothing",
            ));
        }
        {
            let mut state = lock(&self.state);
            if state.started || state.is_over() {
                return Ok(());
            }
            state.started = true;
            state.budget = budget;
        }
        if self.link.add_reader(self.clone()) {
            let state = lock(&self.state);
            if state.is_ready() {
                self.tell();
            }
            // There can be nothing yet on a stream of this side's, and what came early on one of the peer's
            // has been read.
            if state.wants_more() && !self.awaited.swap(true, Ordering::AcqRel) {
                self.link.outbox.push_late(Job::Receive(self.clone()));
            }
        }
        Ok(())
    }

    pub fn consumed(self: &Arc<Self>, bytes: usize) {
        let mut state = lock(&self.state);
        state.budget = state.budget.saturating_add(bytes);
        self.go_on(&state);
    }

    /// Sees to it that what the budget allows is handed over, and read.
    fn go_on(self: &Arc<Self>, state: &State) {
        if state.is_ready() {
            self.tell();
        }
        if state.wants_more() {
            self.ask();
        }
    }

    pub fn stop(&self, code: VarInt) {
        let stream = self.take();
        if let Some(mut stream) = stream {
            // Already ended or reset: there is nothing left to stop.
            let _ = stream.stop(code);
        }
    }

    /// Ends reading; a stream that has not ended by itself is stopped with code 0 by its drop.
    pub fn abandon(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<RecvStream> {
        let (stream, was_over) = {
            let mut state = lock(&self.state);
            let was_over = state.is_over();
            state.end = None;
            state.forget(&self.link);
            (state.stream.take(), was_over)
        };
        if !was_over {
            self.link.remove_reader(self.id);
        }
        stream
    }

    /// Puts the stream into the queue for JavaScript.
    fn tell(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.link.queue.push(Event::Readable(self.clone()));
        }
    }

    /// Has it read on the engine's thread.
    pub fn ask(self: &Arc<Self>) {
        if !self.awaited.swap(true, Ordering::AcqRel) {
            self.link.outbox.push(Job::Receive(self.clone()));
        }
    }

    /// Takes out of noq what is there, within the budget. On the engine's thread. Answers whether somebody
    /// has to look after it from now on, because something may be left that noq will not call for.
    pub fn fill(self: &Arc<Self>, scratch: &mut Scratch) -> bool {
        self.awaited.store(false, Ordering::Release);
        self.take_out(|state, context| {
            if state.started {
                state.read(context, &mut scratch.0, state.budget);
            } else {
                state.read_early(&self.link, context, &mut scratch.0);
            }
            state.fresh = true;
            state.more && !std::mem::replace(&mut state.looked_after, true)
        })
    }

    /// A look from time to time at what `fill` has left. Answers whether to look again.
    pub fn look(self: &Arc<Self>, scratch: &mut Scratch) -> bool {
        self.take_out(|state, context| {
            // One that is being read gets to the rest by itself.
            if state.more && !std::mem::take(&mut state.fresh) {
                state.hoard(&self.link, context, &mut scratch.0);
            }
            state.looked_after = state.more;
            state.more
        })
    }

    fn take_out(self: &Arc<Self>, read: impl FnOnce(&mut State, &mut Context<'_>) -> bool) -> bool {
        let waker = Waker::from(self.clone());
        let (answer, over, ready) = {
            let mut state = lock(&self.state);
            let answer = read(&mut state, &mut Context::from_waker(&waker));
            // At its end the stream is of no more use, and letting go of it takes noq's lock.
            let over = if state.end.is_some() {
                state.stream.take()
            } else {
                None
            };
            (answer, over, state.is_ready())
        };
        drop(over);
        if ready {
            self.tell();
        }
        answer
    }

    /// Hands over what is there, within the budget, and asks to be called again when there is more.
    pub fn pump(self: &Arc<Self>, sink: &mut dyn Sink) {
        self.queued.store(false, Ordering::Release);
        let mut state = lock(&self.state);
        let limit = if state.started {
            state.budget.min(COALESCE)
        } else {
            0
        };
        let (chunks, len) = state.next(&self.link, limit);
        state.budget -= len;
        let end = state.take_end(&self.link);
        let again = state.is_ready();
        drop(state);
        self.deliver(&chunks, len, end, sink);
        if again {
            self.tell();
        }
    }

    /// Hands over all there is, budget or not: the connection has ended, so this is bounded by the
    /// receive window and would be lost otherwise.
    pub fn drain(self: &Arc<Self>, scratch: &mut Scratch, sink: &mut dyn Sink) {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let mut state = lock(&self.state);
            state.started = true;
            state.read(&mut context, &mut scratch.0, COALESCE);
            let (chunks, len) = state.next(&self.link, COALESCE);
            let end = state.take_end(&self.link);
            let done = end.is_some() || len == 0;
            drop(state);
            self.deliver(&chunks, len, end, sink);
            if done {
                return;
            }
        }
    }

    fn deliver(&self, chunks: &[Bytes], len: usize, end: Option<End>, sink: &mut dyn Sink) {
        if len > 0 {
            sink.data(self.id, chunks, len);
        }
        if end.is_some() {
            self.link.remove_reader(self.id);
        }
        match end {
            Some(End::Finished) => sink.end(self.id),
            Some(End::Reset(code)) => sink.reset(self.id, code),
            Some(End::Lost) | None => {}
        }
    }
}

impl State {
    /// Nothing comes any more, or nobody wants it.
    fn is_over(&self) -> bool {
        self.stream.is_none() && self.end.is_none()
    }

    /// There is something for JavaScript now.
    fn is_ready(&self) -> bool {
        self.started && (self.held > 0 && self.budget > 0 || self.end_is_next())
    }

    fn end_is_next(&self) -> bool {
        match self.end {
            // The peer gave up what it sent; noq drops what it holds of it, too.
            Some(End::Reset(_)) => true,
            Some(_) => self.held == 0,
            None => false,
        }
    }

    /// There may be something that noq holds and does not call for.
    fn wants_more(&self) -> bool {
        self.more && self.started && self.held < self.budget
    }

    /// Reads until `limit` bytes are held or noq has no more.
    fn read(&mut self, context: &mut Context<'_>, slots: &mut [Bytes], limit: usize) {
        while self.held < limit {
            let want = ((limit - self.held) / TYPICAL_CHUNK + 1).min(slots.len());
            let Some(count) = self.poll(context, &mut slots[..want]) else {
                self.more = false;
                return;
            };
            for slot in &mut slots[..count] {
                let chunk = std::mem::take(slot);
                self.held += chunk.len();
                if self.kept.len() < KEPT && self.joined.is_empty() {
                    self.kept.push_back(chunk);
                } else {
                    self.joined.extend_from_slice(&chunk);
                }
            }
        }
        self.more = true;
    }

    fn read_early(&mut self, link: &Link, context: &mut Context<'_>, slots: &mut [Bytes]) {
        let room = HOARD.saturating_sub(link.hoarded.load(Ordering::Relaxed));
        self.read(context, slots, EARLY.min(room));
        self.count(link, self.held);
    }

    /// Answers how many chunks there were; none at the end, and none where noq will wake us.
    fn poll(&mut self, context: &mut Context<'_>, slots: &mut [Bytes]) -> Option<usize> {
        if self.end.is_some() {
            return None;
        }
        let stream = self.stream.as_mut()?;
        self.end = Some(match pin!(stream.read_many_chunks(slots)).poll(context) {
            Poll::Pending => return None,
            Poll::Ready(Ok(Some(count))) => return Some(count),
            Poll::Ready(Ok(None)) => End::Finished,
            Poll::Ready(Err(ReadError::Reset(code))) => End::Reset(code.into_inner()),
            Poll::Ready(Err(_)) => End::Lost,
        });
        None
    }

    fn hoard(&mut self, link: &Link, context: &mut Context<'_>, slots: &mut [Bytes]) {
        while link.hoarded.load(Ordering::Relaxed) < HOARD {
            let Some(count) = self.poll(context, slots) else {
                self.more = false;
                return;
            };
            let mut len = 0;
            for chunk in &mut slots[..count] {
                len += chunk.len();
                self.joined.extend_from_slice(chunk);
                *chunk = Bytes::new();
            }
            self.held += len;
            self.count(link, self.hoarded + len);
        }
    }

    /// Takes out what is held, up to `limit` bytes.
    fn next(&mut self, link: &Link, limit: usize) -> (Vec<Bytes>, usize) {
        let mut chunks = Vec::new();
        let mut len = 0;
        while len < limit {
            let Some(mut chunk) = self.kept.pop_front().or_else(|| self.take_joined()) else {
                break;
            };
            if len + chunk.len() > limit {
                let head = chunk.split_to(limit - len);
                self.kept.push_front(chunk);
                chunk = head;
            }
            len += chunk.len();
            chunks.push(chunk);
        }
        self.held -= len;
        self.count(link, self.hoarded.min(self.held));
        (chunks, len)
    }

    fn take_joined(&mut self) -> Option<Bytes> {
        (!self.joined.is_empty()).then(|| std::mem::take(&mut self.joined).into())
    }

    /// The end, where everything before it has been handed over.
    fn take_end(&mut self, link: &Link) -> Option<End> {
        if !self.started || !self.end_is_next() {
            return None;
        }
        self.forget(link);
        self.stream = None;
        self.end.take()
    }

    fn forget(&mut self, link: &Link) {
        self.kept = VecDeque::new();
        self.joined = Vec::new();
        self.held = 0;
        self.count(link, 0);
    }

    fn count(&mut self, link: &Link, hoarded: usize) {
        link.hoarded.fetch_add(hoarded, Ordering::Relaxed);
        link.hoarded.fetch_sub(self.hoarded, Ordering::Relaxed);
        self.hoarded = hoarded;
    }
}

impl Wake for RecvHalf {
    fn wake(self: Arc<Self>) {
        self.ask();
    }
}
