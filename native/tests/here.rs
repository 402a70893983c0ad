//! Tasks that the thread which wakes them runs itself: `here.rs` among the patches.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Poll, Waker},
    thread::{self, ThreadId},
    time::Duration,
};

use noq::here::{here, movable};
use tokio::{runtime::Runtime, task::JoinHandle};

/// Notes by which thread it is polled, until it is told to end.
struct Task {
    waker: Mutex<Option<Waker>>,
    polled: Mutex<mpsc::Sender<ThreadId>>,
    polls: AtomicUsize,
    /// It wakes itself.
    restless: bool,
    ends_at: usize,
}

impl Task {
    fn spawn(
        runtime: &Runtime,
        restless: bool,
        ends_at: usize,
    ) -> (Arc<Self>, mpsc::Receiver<ThreadId>, JoinHandle<usize>) {
        let (polled, by) = mpsc::channel();
        let task = Arc::new(Self {
            waker: Mutex::default(),
            polled: Mutex::new(polled),
            polls: AtomicUsize::new(0),
            restless,
            ends_at,
        });
        let own = task.clone();
        let handle = runtime.spawn(movable(poll_fn(move |cx| own.poll(cx.waker()))));
        assert_ne!(next(&by), thread::current().id(), "the first time");
        (task, by, handle)
    }

    fn poll(&self, waker: &Waker) -> Poll<usize> {
        let polls = self.polls.fetch_add(1, Ordering::SeqCst) + 1;
        *self.waker.lock().unwrap() = Some(waker.clone());
        let _ = self.polled.lock().unwrap().send(thread::current().id());
        if polls == self.ends_at {
            return Poll::Ready(polls);
        }
        if self.restless && polls > 1 {
            waker.wake_by_ref();
        }
        Poll::Pending
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap().clone();
        waker.expect("polled before").wake();
    }
}

fn next(by: &mpsc::Receiver<ThreadId>) -> ThreadId {
    let id = by.recv_timeout(Duration::from_secs(20)).expect("is polled");
    if id != thread::current().id() {
        settle();
    }
    id
}

/// Until another thread's turn, which has been seen to begin, is over.
fn settle() {
    thread::sleep(Duration::from_millis(50));
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap()
}

#[test]
fn a_task_runs_on_the_thread_that_wakes_it_inside_of_here_and_at_home_otherwise() {
    let runtime = runtime();
    let (task, by, handle) = Task::spawn(&runtime, false, 5);
    task.wake();
    assert_ne!(next(&by), thread::current().id(), "outside");
    here(|| {
        task.wake();
        task.wake();
        assert!(by.try_recv().is_err(), "not before all is done");
    });
    assert_eq!(next(&by), thread::current().id(), "inside");
    assert!(by.try_recv().is_err(), "once");
    task.wake();
    assert_ne!(next(&by), thread::current().id(), "outside again");
    here(|| here(|| task.wake()));
    assert_eq!(next(&by), thread::current().id(), "in one in another");
    let polls = runtime.block_on(handle).expect("ends well");
    assert_eq!(polls, 5, "what it answered here arrives at home");
}

#[test]
fn one_that_does_not_come_to_rest_goes_on_at_home() {
    let runtime = runtime();
    let (task, by, handle) = Task::spawn(&runtime, true, 200);
    here(|| task.wake());
    let polls = runtime.block_on(handle).expect("ends well");
    assert_eq!(polls, 200);
    let own = by
        .try_iter()
        .filter(|id| *id == thread::current().id())
        .count();
    assert!((1..150).contains(&own), "{own} times on this thread");
}

#[test]
fn one_that_is_running_is_woken_at_home() {
    let runtime = runtime();
    let (begun, begin) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let waker = Arc::new(Mutex::new(None::<Waker>));
    let own = waker.clone();
    let mut polls = 0;
    let handle = runtime.spawn(movable(poll_fn(move |cx| {
        polls += 1;
        *own.lock().unwrap() = Some(cx.waker().clone());
        if polls == 1 {
            begun.send(()).unwrap();
            wait.recv().unwrap();
            return Poll::Pending;
        }
        Poll::Ready(thread::current().id())
    })));
    begin.recv().unwrap();
    here(|| waker.lock().unwrap().clone().unwrap().wake());
    go_on.send(()).unwrap();
    let by = runtime.block_on(handle).expect("is polled again");
    assert_ne!(by, thread::current().id());
}

#[test]
fn a_panic_ends_the_task_at_home_too_and_loses_no_other() {
    let runtime = runtime();
    let (task, by, _handle) = Task::spawn(&runtime, false, 0);
    let waker = Arc::new(Mutex::new(None::<Waker>));
    let own = waker.clone();
    let (begun, begin) = mpsc::channel();
    let mut polls = 0;
    let failing = runtime.spawn(movable(poll_fn(move |cx| {
        polls += 1;
        assert!(polls == 1, "on purpose");
        *own.lock().unwrap() = Some(cx.waker().clone());
        begun.send(()).unwrap();
        Poll::<()>::Pending
    })));
    begin.recv().unwrap();
    settle();
    let caught = std::panic::catch_unwind(|| {
        here(|| {
            waker.lock().unwrap().clone().unwrap().wake();
            task.wake();
        });
    });
    assert!(caught.is_err());
    assert_ne!(next(&by), thread::current().id(), "at home");
    waker.lock().unwrap().clone().unwrap().wake();
    assert!(runtime.block_on(failing).expect_err("fails").is_panic());
}
