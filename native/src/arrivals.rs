//! The JavaScript thread waits for packets by itself, where they are few: see `quiet.rs`.
//!
//! Its loop, libuv's, watches a descriptor that is readable when a packet is there (`waiting.rs` among the
//! patches). What follows from the packet then happens on this thread, down to the call of JavaScript, and
//! no other thread is woken. On systems without such a descriptor the engine's thread does it all.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use napi::sys;
use netwatch::waiting;

use crate::{queue::Queue, quiet};

/// Deliveries in one turn of the event loop.
const ROUNDS: usize = 4;

/// Called when packets have been handled on this thread and there are events.
pub type Deliver = Rc<dyn Fn()>;

struct Receiver {
    queue: Arc<Queue>,
    deliver: Deliver,
}

thread_local! {
    static RECEIVERS: RefCell<Vec<Receiver>> = const { RefCell::new(Vec::new()) };
    /// What happens now is delivered at the end of this turn.
    static RECEIVING: Cell<bool> = const { Cell::new(false) };
    static WATCHES: Cell<bool> = const { Cell::new(false) };
}

/// A thread of the process watches.
static WATCHED: AtomicBool = AtomicBool::new(false);
static TURNS: AtomicU64 = AtomicU64::new(0);

/// Whether this is the thread that delivers the events of `queue`, and about to.
pub fn is_receiving(queue: *const Queue) -> bool {
    RECEIVING.get() && RECEIVERS.with_borrow(|receivers| position(receivers, queue).is_some())
}

fn position(receivers: &[Receiver], queue: *const Queue) -> Option<usize> {
    let mut queues = receivers
        .iter()
        .map(|receiver| Arc::as_ptr(&receiver.queue));
    queues.position(|other| std::ptr::eq(other, queue))
}

/// Packets that come from now on are handled on this thread, where they are few.
pub fn add(env: sys::napi_env, queue: Arc<Queue>, deliver: Deliver) {
    if watch::start(env) {
        RECEIVERS.with_borrow_mut(|receivers| receivers.push(Receiver { queue, deliver }));
    }
}

/// Its last event has been delivered.
pub fn remove(queue: &Queue) {
    let gone = RECEIVERS.with_borrow_mut(|receivers| {
        position(receivers, queue).map(|at| receivers.swap_remove(at))
    });
    drop(gone);
}

fn turn() {
    TURNS.fetch_add(1, Ordering::Relaxed);
    RECEIVING.set(true);
    let handled = catch_unwind(AssertUnwindSafe(|| quiet::here(waiting::arrived)));
    if handled.is_err() {
        // As on the engine's thread, where a task that panics is one task less.
        waiting::take_back();
    }
    look();
    // What JavaScript is told of may bring more: a stream that it starts has been read already.
    for _ in 0..ROUNDS {
        let busy = busy(|receiver| receiver.deliver.clone());
        if busy.is_empty() {
            break;
        }
        for deliver in busy {
            deliver();
        }
    }
    RECEIVING.set(false);
    for queue in busy(|receiver| receiver.queue.clone()) {
        queue.wake();
    }
}

fn busy<T>(part: impl Fn(&Receiver) -> T) -> Vec<T> {
    RECEIVERS.with_borrow(|receivers| {
        let busy = receivers.iter().filter(|one| !one.queue.is_empty());
        busy.map(part).collect()
    })
}

/// Whoever waits for packets from now on, it is because of how many there are. On the JavaScript thread.
pub fn look() {
    quiet::look();
    if !WATCHES.get() {
        return;
    }
    match (quiet::is_quiet(), waiting::is_lent()) {
        (true, false) => waiting::lend(),
        (false, true) => waiting::take_back(),
        _ => {}
    }
}

/// The JavaScript thread has not looked at packets that are there, and had not at the last such call either.
pub fn is_stuck(last: &mut Option<u64>) -> bool {
    let turns = TURNS.load(Ordering::Relaxed);
    let unread = waiting::is_readable(0);
    let before = std::mem::replace(last, unread.then_some(turns));
    unread && before == Some(turns)
}

#[cfg(target_os = "linux")]
mod watch {
    use std::{
        alloc::{Layout, alloc_zeroed, dealloc},
        ffi::{CStr, c_int, c_void},
        mem::transmute_copy,
        os::fd::RawFd,
        ptr,
        sync::atomic::Ordering,
    };

    use napi::sys;
    use netwatch::waiting;

    use super::{RECEIVERS, WATCHED, WATCHES, turn};

    const UV_POLL: c_int = 8;
    const UV_READABLE: c_int = 1;
    const ALIGN: usize = 16;

    type Handle = *mut c_void;

    /// What Node exports of libuv, and this needs.
    struct Uv {
        handle_size: unsafe extern "C" fn(c_int) -> usize,
        poll_init: unsafe extern "C" fn(*mut c_void, Handle, c_int) -> c_int,
        poll_start: unsafe extern "C" fn(
            Handle,
            c_int,
            unsafe extern "C" fn(Handle, c_int, c_int),
        ) -> c_int,
        unref: unsafe extern "C" fn(Handle),
        close: unsafe extern "C" fn(Handle, unsafe extern "C" fn(Handle)),
    }

    impl Uv {
        fn find() -> Option<Self> {
            // SAFETY: these are their types, since libuv 1.0.
            unsafe {
                Some(Self {
                    handle_size: symbol(c"uv_handle_size")?,
                    poll_init: symbol(c"uv_poll_init")?,
                    poll_start: symbol(c"uv_poll_start")?,
                    unref: symbol(c"uv_unref")?,
                    close: symbol(c"uv_close")?,
                })
            }
        }

        fn layout(&self) -> Layout {
            // SAFETY: a number in, a number out.
            let size = unsafe { (self.handle_size)(UV_POLL) };
            Layout::from_size_align(size, ALIGN).expect("a handle is small")
        }
    }

    /// `F` is the type of a function, and that of this one.
    unsafe fn symbol<F: Copy>(name: &CStr) -> Option<F> {
        // SAFETY: a string that ends; a pointer to a function is as large as any.
        unsafe {
            let symbol = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
            (!symbol.is_null()).then(|| transmute_copy::<*mut c_void, F>(&symbol))
        }
    }

    /// Answers whether this thread watches, which one thread of a process can.
    pub fn start(env: sys::napi_env) -> bool {
        if WATCHES.get() {
            return true;
        }
        let Some((uv, descriptor)) = Uv::find().zip(waiting::descriptor()) else {
            return false;
        };
        if WATCHED.swap(true, Ordering::AcqRel) {
            return false;
        }
        let watches = begin(env, &uv, descriptor);
        WATCHES.set(watches);
        if !watches {
            WATCHED.store(false, Ordering::Release);
        }
        watches
    }

    fn begin(env: sys::napi_env, uv: &Uv, descriptor: RawFd) -> bool {
        let mut event_loop = ptr::null_mut();
        // SAFETY: the handle is initialised before it is used, and freed when the loop has let go of it.
        unsafe {
            if sys::napi_get_uv_event_loop(env, &mut event_loop) != sys::Status::napi_ok {
                return false;
            }
            let layout = uv.layout();
            let handle: Handle = alloc_zeroed(layout).cast();
            if handle.is_null() {
                return false;
            }
            if (uv.poll_init)(event_loop.cast(), handle, descriptor) != 0 {
                dealloc(handle.cast(), layout);
                return false;
            }
            // Whether the process goes on is not up to it.
            (uv.unref)(handle);
            if (uv.poll_start)(handle, UV_READABLE, on_readable) != 0
                || sys::napi_add_env_cleanup_hook(env, Some(end), handle) != sys::Status::napi_ok
            {
                (uv.close)(handle, free);
                return false;
            }
        }
        true
    }

    unsafe extern "C" fn on_readable(_: Handle, _: c_int, _: c_int) {
        turn();
    }

    /// The thread ends, or its JavaScript does.
    unsafe extern "C" fn end(handle: Handle) {
        waiting::take_back();
        let receivers = RECEIVERS.take();
        drop(receivers);
        if let Some(uv) = Uv::find() {
            // SAFETY: it was made by `begin`.
            unsafe { (uv.close)(handle, free) };
        }
        WATCHES.set(false);
        WATCHED.store(false, Ordering::Release);
    }

    unsafe extern "C" fn free(handle: Handle) {
        if let Some(uv) = Uv::find() {
            // SAFETY: made with this layout, and closed.
            unsafe { dealloc(handle.cast(), uv.layout()) };
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod watch {
    pub fn start(_: napi::sys::napi_env) -> bool {
        false
    }
}
