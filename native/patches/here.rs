//! In noq: tasks that the thread which has something for them can run itself.
//!
//! noq leaves receiving and sending to tasks, its drivers. Where they wait, and on another thread, that is a
//! thread to be woken for each packet, which takes longer than handling the packet.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use udp::RecvMeta;

/// What goes on for longer than so many turns goes on on its own thread.
const TURNS: usize = 64;

/// What has to run, inside of `here`.
pub trait Run: Send + Sync {
    /// Does what there is to do without waiting for anything, or has it done elsewhere.
    fn run(self: Arc<Self>);
    /// Has it done elsewhere.
    fn leave(&self);
}

thread_local! {
    /// In order, each at most once.
    static WOKEN: RefCell<Option<Vec<Arc<dyn Run>>>> = const { RefCell::new(None) };
}

/// Runs `work`, and then on this thread what it has woken, and what that wakes.
pub fn here<T>(work: impl FnOnce() -> T) -> T {
    let is_outermost = WOKEN.with_borrow_mut(|woken| {
        let is_outermost = woken.is_none();
        woken.get_or_insert_default();
        is_outermost
    });
    // Made only there: its drop is what runs them.
    let _running = is_outermost.then(|| Running);
    work()
}

/// Leaves `task` to the end of `here`. Answers false outside of it.
pub fn defer(task: &Arc<impl Run + 'static>) -> bool {
    WOKEN.with_borrow_mut(|woken| {
        let Some(woken) = woken else {
            return false;
        };
        let address = Arc::as_ptr(task).cast::<()>();
        if !woken
            .iter()
            .any(|other| Arc::as_ptr(other).cast::<()>() == address)
        {
            woken.push(task.clone());
        }
        true
    })
}

/// In its drop, so that nothing is forgotten where something panics.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        let _left = Leave;
        if std::thread::panicking() {
            return;
        }
        for _ in 0..TURNS {
            let next = WOKEN.with_borrow_mut(|woken| {
                let woken = woken.as_mut().filter(|woken| !woken.is_empty());
                woken.map(|woken| woken.remove(0))
            });
            let Some(next) = next else {
                return;
            };
            next.run();
        }
    }
}

struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        for task in WOKEN.take().into_iter().flatten() {
            task.leave();
        }
    }
}

/// A future for a task, which whoever wakes it inside of `here` runs there.
pub fn movable<F: Future<Output: Send> + Send + 'static>(future: F) -> Movable<F> {
    Movable(Arc::new(Task {
        state: Mutex::new(State::Running(Box::pin(future))),
        home: Mutex::new(None),
    }))
}

/// See [`movable`].
pub struct Movable<F: Future>(Arc<Task<F>>);

struct Task<F: Future> {
    state: Mutex<State<F>>,
    /// Of the task it is at home in.
    home: Mutex<Option<Waker>>,
}

enum State<F: Future> {
    Running(Pin<Box<F>>),
    /// None once it has been taken, and where the future has panicked.
    Done(Option<F::Output>),
}

impl<F: Future<Output: Send> + Send + 'static> Future for Movable<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut home = lock(&self.0.home);
            if !home.as_ref().is_some_and(|home| home.will_wake(cx.waker())) {
                *home = Some(cx.waker().clone());
            }
        }
        let mut state = lock(&self.0.state);
        self.0.turn(&mut state);
        match &mut *state {
            State::Running(_) => Poll::Pending,
            State::Done(output) => match output.take() {
                Some(output) => Poll::Ready(output),
                None => panic!("the future of this task has panicked on another thread"),
            },
        }
    }
}

impl<F: Future> Drop for Movable<F> {
    /// With its task: what is still woken finds nothing to do.
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *lock(&self.0.state), State::Done(None));
        drop(state);
    }
}

impl<F: Future<Output: Send> + Send + 'static> Task<F> {
    fn turn(self: &Arc<Self>, state: &mut State<F>) {
        if matches!(state, State::Done(_)) {
            return;
        }
        // Taken out meanwhile: one that panics is not to be polled again.
        let State::Running(mut future) = std::mem::replace(state, State::Done(None)) else {
            unreachable!("just looked at");
        };
        let waker = Waker::from(self.clone());
        *state = match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => State::Running(future),
            Poll::Ready(output) => State::Done(Some(output)),
        };
    }

    fn wake_home(&self) {
        let home = lock(&self.home).clone();
        if let Some(home) = home {
            home.wake();
        }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Run for Task<F> {
    fn run(self: Arc<Self>) {
        let done = match self.state.try_lock() {
            Ok(mut state) => {
                self.turn(&mut state);
                matches!(*state, State::Done(Some(_)))
            }
            // It is running, and may have passed by what it was woken for.
            Err(_) => true,
        };
        if done {
            self.wake_home();
        }
    }

    fn leave(&self) {
        self.wake_home();
    }
}

impl<F: Future<Output: Send> + Send + 'static> Wake for Task<F> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !defer(self) {
            self.wake_home();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// Packets that have come in, on all endpoints.
pub fn received() -> u64 {
    RECEIVED.load(Ordering::Relaxed)
}

pub(crate) fn count(metas: &[RecvMeta]) {
    let packets: usize = metas
        .iter()
        .map(|meta| meta.len.div_ceil(meta.stride.max(1)))
        .sum();
    RECEIVED.fetch_add(packets as u64, Ordering::Relaxed);
}
