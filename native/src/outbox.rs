//! What the engine's own thread does for the streams of an endpoint.
//!
//! noq holds one lock a connection, for as long as it builds packets and hands them to the system. A
//! JavaScript thread that wrote and read by itself would wait for it again and again, a system call or two
//! each time. So it only leaves word here, and what needs the lock is done where the connections' drivers
//! run, between two of their turns: the writes of many streams in one go, and in one packet where they fit.
//!
//! But where there is little to do (`quiet.rs`), it is done by the thread that has it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use noq::here;

use crate::{
    connection::Link,
    lock, quiet,
    recv::{RecvHalf, Scratch},
    runtime,
    send::SendHalf,
};

/// How often what nobody reads is taken out of noq: short enough that no stream gets 2,000 packets
/// meanwhile (see `recv.rs`), long enough to cost nothing.
const TICK: Duration = Duration::from_millis(20);

/// So many bytes are a few packets, which are made before another thread is awake.
pub const LITTLE: usize = 4096;

/// How long what nobody waits for may wait for company.
const LATE: Duration = Duration::from_millis(5);

pub enum Job {
    Send(Arc<SendHalf>),
    Receive(Arc<RecvHalf>),
    /// Streams to have ready for those who open one.
    Spare(Arc<Link>),
}

#[derive(Default)]
pub struct Outbox {
    jobs: Mutex<Jobs>,
    wake: Notify,
    /// Of whoever does it on another thread than the engine's.
    scratch: Mutex<Scratch>,
}

fn do_all(work: &mut Vec<Job>, scratch: &mut Scratch, left: &mut Vec<Arc<RecvHalf>>) {
    for job in work.drain(..) {
        match job {
            Job::Send(half) => half.flush(),
            Job::Receive(half) => {
                if half.fill(scratch) {
                    left.push(half);
                }
            }
            Job::Spare(link) => link.fill_spare(),
        }
    }
}

impl here::Run for Outbox {
    fn run(self: Arc<Self>) {
        let mut work = {
            let mut jobs = lock(&self.jobs);
            jobs.hurried = false;
            std::mem::take(&mut jobs.waiting)
        };
        let mut left = Vec::new();
        do_all(&mut work, &mut lock(&self.scratch), &mut left);
        if !left.is_empty() {
            lock(&self.jobs).left.append(&mut left);
            self.wake.notify_one();
        }
    }

    fn leave(&self) {
        self.wake.notify_one();
    }
}

/// Whether it looks at what waits without being woken.
#[derive(PartialEq, Eq)]
enum Thread {
    Awake,
    Asleep,
}

#[derive(PartialEq, Eq)]
enum Haste {
    Now,
    Late,
}

#[derive(Default)]
struct Jobs {
    waiting: Vec<Job>,
    /// What was found elsewhere to be looked at from time to time.
    left: Vec<Arc<RecvHalf>>,
    /// Some of them are to be done at once.
    hurried: bool,
    /// Nothing is looked at before a wake-up.
    asleep: bool,
    finished: bool,
}

impl Outbox {
    /// Does what is left here until `finish`.
    pub fn start() -> Arc<Self> {
        let outbox = Arc::new(Self::default());
        runtime::handle().spawn(outbox.clone().work());
        outbox
    }

    /// Has `job` done at once.
    pub fn push(self: &Arc<Self>, job: Job) {
        if self.add(job, Haste::Now).is_some() && !here::defer(self) {
            self.wake.notify_one();
        }
    }

    /// Does `job` on this thread, with what waits for company, or has it done where there are many.
    pub fn do_here(self: &Arc<Self>, job: Job) {
        quiet::send(|| self.push(job));
    }

    /// Has `job` done with the next one, or after `LATE`: waking a thread costs more than most jobs.
    pub fn push_late(&self, job: Job) {
        if self.add(job, Haste::Late) == Some(Thread::Asleep) {
            self.wake.notify_one();
        }
    }

    fn add(&self, job: Job, haste: Haste) -> Option<Thread> {
        let mut jobs = lock(&self.jobs);
        if jobs.finished {
            // Unlocked: it may own the last handle of a stream.
            drop(jobs);
            drop(job);
            return None;
        }
        jobs.waiting.push(job);
        jobs.hurried |= haste == Haste::Now;
        Some(if jobs.asleep {
            Thread::Asleep
        } else {
            Thread::Awake
        })
    }

    /// Nothing is done any more, and nothing held.
    pub fn finish(&self) {
        let left = {
            let mut jobs = lock(&self.jobs);
            jobs.finished = true;
            std::mem::take(&mut jobs.waiting)
        };
        self.wake.notify_one();
        // Unlocked: a job may own the last handle of a stream.
        drop(left);
    }

    async fn work(self: Arc<Self>) {
        let mut scratch = Scratch::default();
        let mut work = Vec::new();
        let mut left: Vec<Arc<RecvHalf>> = Vec::new();
        let mut next_look = Instant::now();
        loop {
            if left.is_empty() {
                self.sleep().await;
                next_look = Instant::now() + TICK;
            } else if tokio::time::timeout_at(next_look, self.wake.notified())
                .await
                .is_err()
            {
                left.retain(|half| half.look(&mut scratch));
                next_look = Instant::now() + TICK;
            }
            {
                let mut jobs = lock(&self.jobs);
                if jobs.finished {
                    return;
                }
                jobs.asleep = false;
                jobs.hurried = false;
                std::mem::swap(&mut work, &mut jobs.waiting);
                left.append(&mut jobs.left);
            }
            do_all(&mut work, &mut scratch, &mut left);
            if !lock(&self.jobs).waiting.is_empty() {
                // The drivers are on this thread too, and what was done is of no use before their turn.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Until there is something to do at once, or what came late is due.
    async fn sleep(&self) {
        loop {
            let due = {
                let mut jobs = lock(&self.jobs);
                if jobs.hurried || jobs.finished || !jobs.left.is_empty() {
                    return;
                }
                jobs.asleep = jobs.waiting.is_empty();
                !jobs.asleep
            };
            if !due {
                self.wake.notified().await;
            } else if tokio::time::timeout(LATE, self.wake.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }
}
