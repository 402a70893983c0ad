//! `Stream`: what JavaScript holds of a stream.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use iroh::endpoint::{RecvStream, SendStream};
use napi::{Env, bindgen_prelude::BufferSlice};
use napi_derive::napi;

use crate::{
    connection::Link,
    error::{Failure, Result, quic_code},
    js::{self, Arg},
    recv::RecvHalf,
    send::SendHalf,
};

/// The sides a stream has here: both, or one of them.
pub struct Pair {
    pub id: u64,
    link: Arc<Link>,
    pub send: Option<Arc<SendHalf>>,
    pub recv: Option<Arc<RecvHalf>>,
}

impl Pair {
    pub fn new(link: &Arc<Link>, send: Option<SendStream>, recv: Option<RecvStream>) -> Self {
        let id = link.ids.next();
        let send = send.map(|stream| SendHalf::new(id, link.clone(), stream));
        let recv = recv.map(|stream| RecvHalf::new(id, link.clone(), stream));
        let halves = (
            send.as_ref().map_or_else(Weak::new, Arc::downgrade),
            recv.as_ref().map_or_else(Weak::new, Arc::downgrade),
        );
        link.add_pair(id, halves);
        Self {
            id,
            link: link.clone(),
            send,
            recv,
        }
    }

    pub fn is_uni(&self) -> bool {
        self.send.is_none() || self.recv.is_none()
    }
}

impl Drop for Pair {
    /// The halves may live on in noq's tables of wakers and in the queue; the stream must not.
    fn drop(&mut self) {
        self.link.remove_pair(self.id);
        if let Some(send) = &self.send {
            send.abandon();
        }
        if let Some(recv) = &self.recv {
            recv.abandon();
        }
    }
}

#[napi]
pub struct Stream {
    pair: Pair,
}

impl From<Pair> for Stream {
    fn from(pair: Pair) -> Self {
        Self { pair }
    }
}

impl Stream {
    fn send(&self) -> Result<&Arc<SendHalf>> {
        self.pair.send.as_ref().ok_or_else(Failure::stream_closed)
    }

    fn recv(&self) -> Result<&Arc<RecvHalf>> {
        self.pair.recv.as_ref().ok_or_else(Failure::stream_closed)
    }
}

fn size(bytes: Arg<f64>) -> Result<usize> {
    let bytes = bytes.get("bytes")?;
    if bytes >= 0.0 && bytes <= u32::MAX as f64 && bytes.fract() == 0.0 {
        Ok(bytes as usize)
    } else {
        Err(Failure::invalid(
            "a size is a whole number from 0 to 2^32 - 1",
        ))
    }
}

#[napi]
impl Stream {
    #[napi(getter)]
    pub fn id(&self) -> f64 {
        self.pair.id as f64
    }

    #[napi(getter)]
    pub fn readable(&self) -> bool {
        self.pair.recv.is_some()
    }

    #[napi(getter)]
    pub fn writable(&self) -> bool {
        self.pair.send.is_some()
    }

    #[napi]
    pub fn start(&self, env: Env, budget: Arg<f64>) -> napi::Result<()> {
        js::guard(env, || self.recv()?.start(size(budget)?))
    }

    #[napi]
    pub fn consumed(&self, env: Env, bytes: Arg<f64>) -> napi::Result<()> {
        js::guard(env, || {
            self.recv()?.consumed(size(bytes)?);
            Ok(())
        })
    }

    #[napi]
    pub fn write(
        &self,
        env: Env,
        head: Arg<Option<BufferSlice<'_>>>,
        body: Arg<Option<BufferSlice<'_>>>,
    ) -> napi::Result<f64> {
        js::guard(env, || {
            let (head, body) = (head.get("head")?, body.get("body")?);
            let head = head.as_deref().unwrap_or_default();
            let body = body.as_deref().unwrap_or_default();
            // One allocation and one copy, outside every lock. noq keeps the bytes as they are until
            // they are acknowledged, so borrowing JavaScript's memory instead is no option.
            let mut bytes = Vec::with_capacity(head.len() + body.len());
            bytes.extend_from_slice(head);
            bytes.extend_from_slice(body);
            Ok(self.send()?.write(Bytes::from(bytes))? as f64)
        })
    }

    #[napi]
    pub fn finish(
        &self,
        env: Env,
        last: Arg<Option<BufferSlice<'_>>>,
        late: Arg<bool>,
    ) -> napi::Result<()> {
        js::guard(env, || {
            let (last, late) = (last.get("last")?, late.get("late")?);
            let last = last.as_deref().unwrap_or_default();
            self.send()?.finish(Bytes::copy_from_slice(last), late)
        })
    }

    #[napi]
    pub fn reset(&self, env: Env, code: Arg<f64>) -> napi::Result<()> {
        js::guard(env, || {
            self.send()?.reset(quic_code(code.get("code")?)?);
            Ok(())
        })
    }

    #[napi]
    pub fn stop(&self, env: Env, code: Arg<f64>) -> napi::Result<()> {
        js::guard(env, || {
            self.recv()?.stop(quic_code(code.get("code")?)?);
            Ok(())
        })
    }
}
