//! The writing side of a stream.
//!
//! What is written waits here for the engine's thread, or is sent at once (`outbox.rs`); what noq has no room for stays and is
//! tried again when noq's waker says so.

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
use iroh::endpoint::{SendStream, VarInt, WriteError};

use crate::{
    connection::Link,
    error::{Code, Failure, Result},
    lock,
    outbox::{Job, LITTLE},
    queue::Event,
};

/// Sent when a stream is dropped without an end of its own. Never a FIN: nobody said that what was
/// written is all there is.
const ABANDONED: VarInt = VarInt::from_u32(0);

/// So much is taken on trust before noq has been asked whether it has room.
const AHEAD: usize = 128 * 1024;

pub struct SendHalf {
    pub id: u64,
    link: Arc<Link>,
    /// Already in the outbox. Outside the lock, because noq's waker must not wait for it.
    queued: AtomicBool,
    state: Mutex<State>,
}

struct State {
    stream: Option<SendStream>,
    phase: Phase,
    pending: VecDeque<Bytes>,
    /// The size of all of it.
    kept: usize,
    /// noq had no room the last time.
    blocked: bool,
    /// JavaScript was told to wait.
    owing: bool,
    /// `finish` was called while something was pending.
    finishing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Finished,
    Reset,
    Stopped(u64),
    Lost,
}

/// What the engine's thread found out that JavaScript has to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    Drained,
    Stopped(u64),
}

impl SendHalf {
    pub fn new(id: u64, link: Arc<Link>, stream: SendStream) -> Arc<Self> {
        Arc::new(Self {
            id,
            link,
            queued: AtomicBool::new(false),
            state: Mutex::new(State {
                stream: Some(stream),
                phase: Phase::Open,
                pending: VecDeque::new(),
                kept: 0,
                blocked: false,
                owing: false,
                finishing: false,
            }),
        })
    }

    /// Answers how many bytes wait for room, 0 where there is no reason to hold back.
    pub fn write(self: &Arc<Self>, bytes: Bytes) -> Result<usize> {
        let mut state = lock(&self.state);
        state.check()?;
        if bytes.is_empty() {
            return Ok(0);
        }
        state.keep(bytes);
        state.owing = state.blocked || state.kept > AHEAD;
        let waiting = if state.owing { state.kept } else { 0 };
        let little = state.is_little();
        drop(state);
        self.enqueue(little);
        Ok(waiting)
    }

    /// A clean end behind everything written and `last`; `late` where nobody waits for it.
    pub fn finish(self: &Arc<Self>, last: Bytes, late: bool) -> Result<()> {
        let mut state = lock(&self.state);
        match state.phase {
            // The peer wants no more; that it gets no more is no error.
            Phase::Stopped(_) => return Ok(()),
            _ => state.check()?,
        }
        if !last.is_empty() {
            state.keep(last);
        }
        state.finishing = true;
        let little = state.is_little();
        drop(state);
        if !late {
            self.enqueue(little);
        } else if !self.queued.swap(true, Ordering::AcqRel) {
            self.link.outbox.push_late(Job::Send(self.clone()));
        }
        Ok(())
    }

    fn enqueue(self: &Arc<Self>, little: bool) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let job = Job::Send(self.clone());
        if little {
            self.link.outbox.do_here(job);
        } else {
            self.link.outbox.push(job);
        }
    }

    /// Gives noq what waits, and the end behind it. On the engine's thread.
    pub fn flush(self: &Arc<Self>) {
        self.queued.store(false, Ordering::Release);
        let waker = Waker::from(self.clone());
        let progress = lock(&self.state).advance(&mut Context::from_waker(&waker));
        if let Some(progress) = progress {
            self.link.queue.push(Event::Written(self.id, progress));
        }
    }

    pub fn reset(&self, code: VarInt) {
        let mut state = lock(&self.state);
        if state.phase != Phase::Reset {
            state.reset(code);
        }
    }

    /// Lets go of the stream because the connection is gone.
    pub fn lose(&self) {
        let stream = {
            let mut state = lock(&self.state);
            if state.phase == Phase::Open {
                state.phase = Phase::Lost;
                state.forget();
            }
            state.stream.take()
        };
        drop(stream);
    }

    /// Lets go of the stream: a reset, unless it has an end of its own.
    pub fn abandon(&self) {
        let stream = {
            let mut state = lock(&self.state);
            if state.finishing {
                // The end may not have been flushed yet. Where there is no room for it now, nobody would
                // be there to send it later.
                state.advance(&mut Context::from_waker(Waker::noop()));
            }
            if state.phase == Phase::Open {
                state.reset(ABANDONED);
            }
            state.stream.take()
        };
        drop(stream);
    }
}

impl State {
    /// Whether this is better sent at once than by the engine's thread.
    fn is_little(&self) -> bool {
        let stream = self.stream.as_ref();
        !self.blocked && self.kept <= LITTLE && stream.is_some_and(SendStream::is_quiet)
    }

    fn check(&self) -> Result<()> {
        match self.phase {
            Phase::Open if self.finishing => Err(Failure::stream_closed()),
            Phase::Open => Ok(()),
            Phase::Finished | Phase::Reset => Err(Failure::stream_closed()),
            Phase::Stopped(code) => Err(Failure::stopped(code)),
            Phase::Lost => Err(Failure::new(Code::ConnectionLost, "the connection is lost")),
        }
    }

    fn advance(&mut self, context: &mut Context<'_>) -> Option<Progress> {
        if self.phase != Phase::Open {
            return None;
        }
        let result = self.flush(context);
        self.blocked = result.is_pending();
        match result {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => {
                if self.finishing {
                    self.finish();
                }
                std::mem::take(&mut self.owing).then_some(Progress::Drained)
            }
            Poll::Ready(Err(error)) => {
                self.fail(&error);
                match error {
                    WriteError::Stopped(code) => Some(Progress::Stopped(code.into_inner())),
                    _ => None,
                }
            }
        }
    }

    fn flush(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), WriteError>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(WriteError::ClosedStream));
        };
        while !self.pending.is_empty() {
            let chunks = self.pending.make_contiguous();
            let before = chunks.len();
            let mut rest = &mut *chunks;
            // A part may be taken; the next poll then says whether there is room for more, and if
            // not it registers the waker.
            let result = pin!(stream.write_many_chunks(&mut rest)).poll(context);
            let taken = before - rest.len();
            self.pending.drain(..taken);
            self.kept = self.pending.iter().map(Bytes::len).sum();
            match result {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self) {
        self.phase = Phase::Finished;
        if let Some(stream) = &mut self.stream {
            // Fails only when there already is an end, which `phase` rules out.
            let _ = stream.finish();
        }
    }

    fn reset(&mut self, code: VarInt) {
        self.phase = Phase::Reset;
        self.forget();
        if let Some(stream) = &mut self.stream {
            // Fails when the connection is gone or everything was acknowledged: no harm.
            let _ = stream.reset(code);
        }
    }

    fn keep(&mut self, bytes: Bytes) {
        self.kept += bytes.len();
        self.pending.push_back(bytes);
    }

    fn forget(&mut self) {
        self.pending = VecDeque::new();
        self.kept = 0;
    }

    fn fail(&mut self, error: &WriteError) {
        self.forget();
        self.phase = match error {
            WriteError::Stopped(code) => Phase::Stopped(code.into_inner()),
            WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected => Phase::Lost,
            WriteError::ClosedStream => Phase::Finished,
        };
    }
}

impl Wake for SendHalf {
    fn wake(self: Arc<Self>) {
        self.enqueue(false);
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        // Reached with the stream still in place when JavaScript never saw it.
        self.abandon();
    }
}
