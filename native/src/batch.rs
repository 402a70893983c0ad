//! One wake-up: everything that happened becomes one array for one JavaScript call.

use std::{ptr, sync::Arc};

use bytes::Bytes;
use napi::{Env, bindgen_prelude::ToNapiValue, sys};

use crate::{
    arrivals,
    connection::Connection,
    js,
    queue::{Event, Queue},
    recv::{Scratch, Sink},
    runtime,
    send::Progress,
    stream::Stream,
};

/// `EventKind` of the contract.
mod kind {
    pub const CONNECTION: u32 = 1;
    pub const BIDI: u32 = 2;
    pub const UNI: u32 = 3;
    pub const DATA: u32 = 4;
    pub const END: u32 = 5;
    pub const RESET: u32 = 6;
    pub const STOPPED: u32 = 7;
    pub const DRAIN: u32 = 8;
    pub const DATAGRAMS: u32 = 9;
    pub const PATH: u32 = 10;
    pub const CLOSED: u32 = 11;
    pub const PATH_NOTICE: u32 = 12;
    pub const NEARBY: u32 = 13;
    pub const RELAYS: u32 = 14;
    pub const RELAY_ENDED: u32 = 15;
}

/// Bytes delivered, and as many again for every event, before the event loop gets a turn. At the speed of
/// loopback this is some 10 ms.
const TURN: usize = 4 * 1024 * 1024;
const EVENT: usize = 1024;

/// What the JavaScript thread keeps between two batches.
pub struct Deliverer {
    queue: Arc<Queue>,
    spare: Vec<Event>,
    scratch: Scratch,
    values: Vec<sys::napi_value>,
    /// Done since the event loop last had a turn, in bytes.
    work: usize,
}

impl Deliverer {
    pub fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            spare: Vec::new(),
            scratch: Scratch::default(),
            values: Vec::new(),
            work: 0,
        }
    }

    /// The event loop has had its turn.
    pub fn begin_turn(&mut self) {
        self.work = 0;
    }

    /// The array to call JavaScript with.
    pub fn next(&mut self, env: sys::napi_env) -> napi::Result<Quadruples> {
        self.values.clear();
        if self.work >= TURN {
            self.yield_to_loop();
            return array(env, &[]).map(Quadruples);
        }
        let mut events = self.queue.take(std::mem::take(&mut self.spare));
        let mut batch = Batch {
            env,
            values: &mut self.values,
            work: &mut self.work,
        };
        let mut left = events.drain(..);
        while let Some(event) = left.next() {
            // A stream opened in this very batch has not been started yet. Its data must come
            // before CLOSED too, so CLOSED waits for JavaScript to have seen the stream.
            let closes = matches!(event, Event::Closed(..)) && !batch.values.is_empty();
            if closes || *batch.work >= TURN {
                self.queue
                    .put_back(std::iter::once(event).chain(left.by_ref()).collect());
                self.queue.wake();
                break;
            }
            batch.add(event, &self.queue, &mut self.scratch)?;
        }
        drop(left);
        self.spare = events;
        array(env, &self.values).map(Quadruples)
    }

    /// Node calls a threadsafe function up to 1,000 times over before it looks at anything else, so
    /// on a fast connection sockets and timers would starve. Woken from another thread, the loop
    /// has had its turn.
    fn yield_to_loop(&mut self) {
        self.work = 0;
        let queue = self.queue.clone();
        runtime::handle().spawn(async move { queue.wake() });
    }
}

pub struct Quadruples(pub sys::napi_value);

impl ToNapiValue for Quadruples {
    unsafe fn to_napi_value(_: sys::napi_env, value: Self) -> napi::Result<sys::napi_value> {
        Ok(value.0)
    }
}

struct Batch<'a> {
    env: sys::napi_env,
    values: &'a mut Vec<sys::napi_value>,
    work: &'a mut usize,
}

impl Batch<'_> {
    fn add(&mut self, event: Event, queue: &Queue, scratch: &mut Scratch) -> napi::Result<()> {
        match event {
            Event::Readable(half) => half.pump(self),
            Event::Written(id, Progress::Drained) => self.push(kind::DRAIN, id, ptr::null_mut()),
            Event::Written(id, Progress::Stopped(code)) => {
                let code = js::number(self.env, code as f64);
                self.push(kind::STOPPED, id, code);
            }
            Event::Opened(link, pair) => {
                let kind = if pair.is_uni() { kind::UNI } else { kind::BIDI };
                let stream = unsafe { Stream::to_napi_value(self.env, Stream::from(*pair)) }?;
                self.push(kind, link.id, stream);
            }
            Event::Incoming(link) => {
                let conn = unsafe { Connection::to_napi_value(self.env, Connection::from(link)) }?;
                self.push(kind::CONNECTION, 0, conn);
            }
            Event::Datagrams(link, datagrams) => {
                let mut buffers = Vec::with_capacity(datagrams.len());
                for datagram in &datagrams {
                    buffers.push(buffer(
                        self.env,
                        std::slice::from_ref(datagram),
                        datagram.len(),
                    ));
                }
                let buffers = array(self.env, &buffers)?;
                self.push(kind::DATAGRAMS, link.id, buffers);
                link.datagrams_taken(datagrams.len());
            }
            Event::Path(link, info) => {
                let info = unsafe { ToNapiValue::to_napi_value(self.env, *info) }?;
                self.push(kind::PATH, link.id, info);
            }
            Event::PathNotice(link, notice) => {
                let notice = unsafe { ToNapiValue::to_napi_value(self.env, *notice) }?;
                self.push(kind::PATH_NOTICE, link.id, notice);
            }
            Event::Nearby(node) => {
                let node = unsafe { ToNapiValue::to_napi_value(self.env, *node) }?;
                self.push(kind::NEARBY, 0, node);
            }
            Event::Relays(relays) => {
                let relays = unsafe { ToNapiValue::to_napi_value(self.env, relays) }?;
                self.push(kind::RELAYS, 0, relays);
            }
            Event::Closed(link, info) => {
                link.drain(scratch, self);
                let info = unsafe { ToNapiValue::to_napi_value(self.env, *info) }?;
                self.push(kind::CLOSED, link.id, info);
            }
            Event::Ended(link) => {
                let _runtime = runtime::handle().enter();
                link.release();
            }
            Event::RelayEnded(reason) => {
                let reason = js::string(self.env, &reason);
                self.push(kind::RELAY_ENDED, 0, reason);
            }
            Event::Settle(settle) => settle.run(self.env),
            Event::Finished(waiting) => {
                arrivals::remove(queue);
                queue.finish();
                for resolver in waiting() {
                    resolver.with(Ok(())).run(self.env);
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, kind: u32, id: u64, a: sys::napi_value) {
        let mut kind_value = ptr::null_mut();
        unsafe { sys::napi_create_uint32(self.env, kind, &mut kind_value) };
        let id = js::number(self.env, id as f64);
        *self.work += EVENT;
        self.values.extend([kind_value, id, a, ptr::null_mut()]);
    }
}

impl Sink for Batch<'_> {
    fn data(&mut self, id: u64, chunks: &[Bytes], len: usize) {
        let data = buffer(self.env, chunks, len);
        *self.work += len;
        self.push(kind::DATA, id, data);
    }

    fn end(&mut self, id: u64) {
        self.push(kind::END, id, ptr::null_mut());
    }

    fn reset(&mut self, id: u64, code: u64) {
        let code = js::number(self.env, code as f64);
        self.push(kind::RESET, id, code);
    }
}

/// A Buffer of Node's own making, filled with the one copy that there is. An external one would
/// save nothing (the chunks have to be joined anyway) and cost a finalizer each.
fn buffer(env: sys::napi_env, chunks: &[Bytes], len: usize) -> sys::napi_value {
    let mut data = ptr::null_mut();
    let mut value = ptr::null_mut();
    let status = unsafe { sys::napi_create_buffer(env, len, &mut data, &mut value) };
    assert_eq!(
        status,
        sys::Status::napi_ok,
        "Node makes a buffer of {len} bytes"
    );
    let mut to = data.cast::<u8>();
    for chunk in chunks {
        unsafe {
            ptr::copy_nonoverlapping(chunk.as_ptr(), to, chunk.len());
            to = to.add(chunk.len());
        }
    }
    value
}

/// Null pointers become holes, which read as `undefined`.
fn array(env: sys::napi_env, values: &[sys::napi_value]) -> napi::Result<sys::napi_value> {
    let mut array = ptr::null_mut();
    napi::check_status!(unsafe {
        sys::napi_create_array_with_length(env, values.len(), &mut array)
    })?;
    for (index, value) in values.iter().enumerate() {
        if !value.is_null() {
            unsafe { sys::napi_set_element(env, array, index as u32, *value) };
        }
    }
    Ok(array)
}

/// Runs a batch; a panic in it becomes an uncaught exception in JavaScript rather than an abort.
pub fn deliver(deliverer: &mut Deliverer, env: Env) -> napi::Result<Quadruples> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| deliverer.next(env.raw())))
        .unwrap_or_else(|_| {
            Err(napi::Error::from_reason(
                "a panic was caught while delivering events",
            ))
        })
}
