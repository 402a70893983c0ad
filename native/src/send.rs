//! The writing side of a stream.
//!
//! A write is tried at once, on the JavaScript thread; what noq has no room for waits here and is
//! tried again when noq's waker says so.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use iroh::endpoint::{SendStream, VarInt, WriteError};

use crate::{
    connection::Link,
    error::{Code, Failure, Result},
    lock,
    queue::Event,
};

/// Sent when a stream is dropped without an end of its own. Never a FIN: nobody said that what was
/// written is all there is.
const ABANDONED: VarInt = VarInt::from_u32(0);

pub struct SendHalf {
    pub id: u64,
    link: Arc<Link>,
    state: Mutex<State>,
}

struct State {
    stream: Option<SendStream>,
    phase: Phase,
    pending: VecDeque<Bytes>,
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

/// What became of a pending write.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    Drained,
    Stopped(u64),
    Nothing,
}

impl SendHalf {
    pub fn new(id: u64, link: Arc<Link>, stream: SendStream) -> Arc<Self> {
        Arc::new(Self {
            id,
            link,
            state: Mutex::new(State {
                stream: Some(stream),
                phase: Phase::Open,
                pending: VecDeque::new(),
                finishing: false,
            }),
        })
    }

    /// Answers how many bytes were kept for later.
    pub fn write(self: &Arc<Self>, bytes: Bytes) -> Result<usize> {
        let mut state = lock(&self.state);
        state.check()?;
        let len = bytes.len();
        if len == 0 {
            return Ok(0);
        }
        let idle = state.pending.is_empty();
        state.pending.push_back(bytes);
        if !idle {
            return Ok(len);
        }
        let waker = Waker::from(self.clone());
        match state.flush(&mut Context::from_waker(&waker)) {
            Poll::Pending => Ok(state.pending.iter().map(Bytes::len).sum()),
            Poll::Ready(Ok(())) => Ok(0),
            Poll::Ready(Err(error)) => {
                state.fail(&error);
                Err(error.into())
            }
        }
    }

    /// Goes on with what was kept.
    pub fn resume(self: &Arc<Self>) -> Progress {
        let mut state = lock(&self.state);
        if state.phase != Phase::Open || state.pending.is_empty() {
            return Progress::Nothing;
        }
        let waker = Waker::from(self.clone());
        match state.flush(&mut Context::from_waker(&waker)) {
            Poll::Pending => Progress::Nothing,
            Poll::Ready(Ok(())) => {
                if state.finishing {
                    state.finish();
                }
                Progress::Drained
            }
            Poll::Ready(Err(error)) => {
                state.fail(&error);
                match error {
                    WriteError::Stopped(code) => Progress::Stopped(code.into_inner()),
                    _ => Progress::Nothing,
                }
            }
        }
    }

    pub fn finish(&self) -> Result<()> {
        let mut state = lock(&self.state);
        match state.phase {
            // The peer wants no more; that it gets no more is no error.
            Phase::Stopped(_) => return Ok(()),
            _ => state.check()?,
        }
        if state.pending.is_empty() {
            state.finish();
        } else {
            state.finishing = true;
        }
        Ok(())
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
                state.pending = VecDeque::new();
            }
            state.stream.take()
        };
        drop(stream);
    }

    /// Lets go of the stream: a reset, unless it has an end of its own.
    pub fn abandon(&self) {
        let stream = {
            let mut state = lock(&self.state);
            if state.phase == Phase::Open {
                state.reset(ABANDONED);
            }
            state.stream.take()
        };
        drop(stream);
    }
}

impl State {
    fn check(&self) -> Result<()> {
        match self.phase {
            Phase::Open if self.finishing => Err(Failure::stream_closed()),
            Phase::Open => Ok(()),
            Phase::Finished | Phase::Reset => Err(Failure::stream_closed()),
            Phase::Stopped(code) => Err(Failure::stopped(code)),
            Phase::Lost => Err(Failure::new(Code::ConnectionLost, "the connection is lost")),
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
        self.pending = VecDeque::new();
        if let Some(stream) = &mut self.stream {
            // Fails when the connection is gone or everything was acknowledged: no harm.
            let _ = stream.reset(code);
        }
    }

    fn fail(&mut self, error: &WriteError) {
        self.pending = VecDeque::new();
        self.phase = match error {
            WriteError::Stopped(code) => Phase::Stopped(code.into_inner()),
            WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected => Phase::Lost,
            WriteError::ClosedStream => Phase::Finished,
        };
    }
}

impl Wake for SendHalf {
    fn wake(self: Arc<Self>) {
        let link = self.link.clone();
        link.queue.push(Event::Writable(self));
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        // Reached with the stream still in place when JavaScript never saw it.
        self.abandon();
    }
}
