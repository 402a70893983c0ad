//! The reading side of a stream.
//!
//! There is no task per stream. A stream that has nothing to read costs a waker in noq's table; when
//! that waker fires, the stream goes into the endpoint's queue and the JavaScript thread reads from
//! it, straight into the buffer that JavaScript gets. So a stop never waits for a read, and what
//! JavaScript does not take can be left to QUIC, whose flow control holds the peer.
//!
//! But not all of it. noq 1.4.0 gives up the whole connection ("too many gaps in stream buffer") once a
//! stream holds some 2,000 chunks unread, and it does not join them: a peer that writes 200 bytes at a
//! time to a reader that pauses gets there with 500 KB, far below the window. So while a reader is out
//! of budget, not started, or JavaScript is busy, what arrives is taken out of noq, joined and kept
//! here, up to a limit for the connection. With the mend of quinn issue 2809 in noq, `hoard` and
//! `guard.rs` can go.

use std::{
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
    queue::Event,
};

/// At most this much becomes one DATA event. More saves little, and holds up the other streams.
pub const COALESCE: usize = 256 * 1024;

/// Chunks asked for under one lock of the connection; 256 KiB in packets of the usual size.
const CHUNKS: usize = 256;

/// Chunks are rarely smaller than this in bulk; used only to size a read to a small budget.
const TYPICAL_CHUNK: usize = 1024;

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
pub struct Scratch {
    slots: Vec<Bytes>,
    chunks: Vec<Bytes>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            slots: vec![Bytes::new(); CHUNKS],
            chunks: Vec::with_capacity(CHUNKS),
        }
    }
}

pub struct RecvHalf {
    pub id: u64,
    link: Arc<Link>,
    /// Already in the queue. Outside the lock, because noq's waker must not wait for it.
    queued: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<RecvStream>,
    /// Read, but beyond the budget of the moment.
    kept: Vec<Bytes>,
    /// What follows `kept`, joined.
    joined: Vec<u8>,
    /// The size of both, as counted in `Link::hoarded`.
    held: usize,
    /// Seen by a read whose data is still kept.
    end: Option<End>,
    started: bool,
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
            state: Mutex::new(State {
                stream: Some(stream),
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
            if state.started || state.stream.is_none() {
                return Ok(());
            }
            state.started = true;
            state.budget = budget;
        }
        if self.link.add_reader(self.clone()) {
            self.enqueue();
        }
        Ok(())
    }

    pub fn consumed(self: &Arc<Self>, bytes: usize) {
        let was_out = {
            let mut state = lock(&self.state);
            let was_out = state.started && state.budget == 0;
            state.budget = state.budget.saturating_add(bytes);
            was_out && bytes > 0
        };
        if was_out {
            self.enqueue();
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
        let stream = {
            let mut state = lock(&self.state);
            state.forget(&self.link);
            state.stream.take()
        };
        if stream.is_some() {
            self.link.remove_reader(self.id);
        }
        stream
    }

    fn enqueue(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.link.queue.push(Event::Readable(self.clone()));
        }
    }

    /// Reads what is there, within the budget, and asks to be called again when there may be more.
    pub fn pump(self: &Arc<Self>, scratch: &mut Scratch, sink: &mut dyn Sink) {
        self.read(scratch, sink, false);
    }

    /// Reads all there is, budget or not: the connection has ended, so this is bounded by the
    /// receive window and would be lost otherwise.
    pub fn drain(self: &Arc<Self>, scratch: &mut Scratch, sink: &mut dyn Sink) {
        while self.read(scratch, sink, true) {}
    }

    /// Takes out of noq what is there, on behalf of a reader that does not.
    pub fn hoard(self: &Arc<Self>, scratch: &mut Scratch) {
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        lock(&self.state).hoard(&self.link, &mut context, &mut scratch.slots);
    }

    /// Answers whether the stream may have more right now.
    fn read(self: &Arc<Self>, scratch: &mut Scratch, sink: &mut dyn Sink, all: bool) -> bool {
        self.queued.store(false, Ordering::Release);
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        let Scratch { slots, chunks } = scratch;

        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if state.stream.is_none() {
            return false;
        }
        let limit = if all {
            COALESCE
        } else if state.started {
            state.budget.min(COALESCE)
        } else {
            0
        };
        let mut len = 0;
        if limit > 0 && state.held > 0 {
            len = state.held;
            chunks.append(&mut state.kept);
            if !state.joined.is_empty() {
                chunks.push(std::mem::take(&mut state.joined).into());
            }
            state.count(&self.link, 0);
        }
        let mut more = true;
        while more && len < limit {
            let want = ((limit - len) / TYPICAL_CHUNK + 1).min(CHUNKS);
            match state.poll(&mut context, &mut slots[..want]) {
                Some(count) => {
                    for slot in &mut slots[..count] {
                        let chunk = std::mem::take(slot);
                        len += chunk.len();
                        chunks.push(chunk);
                    }
                }
                None => more = false,
            }
        }
        if len > limit {
            state.kept = split_off(chunks, limit);
            state.count(&self.link, len - limit);
            len = limit;
        }
        if !all {
            state.budget -= len;
            if more && state.budget == 0 {
                state.hoard(&self.link, &mut context, slots);
            }
        }
        // The peer gave up what it sent; noq drops what it holds of it, too.
        // Before the start nobody listens: an end found by then is kept.
        let over = state.started && (state.held == 0 || matches!(state.end, Some(End::Reset(_))));
        let end = if over { state.end.take() } else { None };
        let again = !all && state.budget > 0 && (more || state.held > 0);
        let done = end.is_some();
        if done {
            let stream = state.stream.take();
            state.forget(&self.link);
            drop(guard);
            drop(stream);
            self.link.remove_reader(self.id);
        } else {
            drop(guard);
        }

        if len > 0 {
            sink.data(self.id, chunks, len);
        }
        chunks.clear();
        match end {
            Some(End::Finished) => sink.end(self.id),
            Some(End::Reset(code)) => sink.reset(self.id, code),
            Some(End::Lost) | None => {}
        }
        if again && !done {
            self.enqueue();
        }
        !done && (more || len == limit)
    }
}

impl State {
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
        while link.hoarded.load(Ordering::Relaxed) < HOARD
            && let Some(count) = self.poll(context, slots)
        {
            let mut len = 0;
            for chunk in &mut slots[..count] {
                len += chunk.len();
                self.joined.extend_from_slice(chunk);
                *chunk = Bytes::new();
            }
            self.count(link, self.held + len);
        }
    }

    fn forget(&mut self, link: &Link) {
        self.kept = Vec::new();
        self.joined = Vec::new();
        self.count(link, 0);
    }

    fn count(&mut self, link: &Link, held: usize) {
        link.hoarded.fetch_add(held, Ordering::Relaxed);
        link.hoarded.fetch_sub(self.held, Ordering::Relaxed);
        self.held = held;
    }
}

/// Shortens `chunks` to `limit` bytes and answers what was cut off.
fn split_off(chunks: &mut Vec<Bytes>, limit: usize) -> Vec<Bytes> {
    let mut len = 0;
    for index in 0..chunks.len() {
        let size = chunks[index].len();
        if len + size > limit {
            let mut rest = chunks.split_off(index);
            let head = rest[0].split_to(limit - len);
            if !head.is_empty() {
                chunks.push(head);
            }
            return rest;
        }
        len += size;
    }
    Vec::new()
}

impl Wake for RecvHalf {
    fn wake(self: Arc<Self>) {
        self.enqueue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_keeps_every_byte_in_order() {
        let parts = ["abc", "de", "fghi"];
        for limit in 0..=9 {
            let mut head: Vec<_> = parts
                .iter()
                .map(|part| Bytes::from_static(part.as_bytes()))
                .collect();
            let rest = split_off(&mut head, limit);
            assert_eq!(head.concat().len(), limit);
            assert_eq!([head.concat(), rest.concat()].concat(), b"abcdefghi");
            assert!(head.iter().all(|chunk| !chunk.is_empty()));
        }
    }
}
