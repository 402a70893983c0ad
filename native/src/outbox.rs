//! What the engine's own thread does for the streams of an endpoint.
//!
//! noq holds one lock a connection, for as long as it builds packets and hands them to the system. A
//! JavaScript thread that wrote and read by itself would wait for it again and again, a system call or two
//! each time. So it only leaves word here, and what needs the lock is done where the connections' drivers
//! run, between two of their turns: the writes of many streams in one go, and in one packet where they fit.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    connection::Link,
    lock,
    recv::{RecvHalf, Scratch},
    runtime,
    send::SendHalf,
};

/// How often what nobody reads is taken out of noq: short enough that no stream gets 2,000 packets
/// meanwhile (see `recv.rs`), long enough to cost nothing.
const TICK: Duration = Duration::from_millis(20);

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
}

#[derive(Default)]
struct Jobs {
    waiting: Vec<Job>,
    finished: bool,
}

impl Outbox {
    /// Does what is left here until `finish`.
    pub fn start() -> Arc<Self> {
        let outbox = Arc::new(Self::default());
        runtime::handle().spawn(outbox.clone().run());
        outbox
    }

    /// Leaves `job` for the next wake-up.
    pub fn push(&self, job: Job) {
        let mut jobs = lock(&self.jobs);
        if jobs.finished {
            drop(jobs);
            return;
        }
        jobs.waiting.push(job);
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Nothing is done any more, and nothing held.
    pub fn finish(&self) {
        let left = {
            let mut jobs = lock(&self.jobs);
            jobs.finished = true;
            std::mem::take(&mut jobs.waiting)
        };
        self.wake();
        // Unlocked: a job may own the last handle of a stream.
        drop(left);
    }

    async fn run(self: Arc<Self>) {
        let mut scratch = Scratch::default();
        let mut work = Vec::new();
        let mut left: Vec<Arc<RecvHalf>> = Vec::new();
        let mut next_look = Instant::now();
        loop {
            if left.is_empty() {
                self.wake.notified().await;
                next_look = Instant::now() + TICK;
            } else if tokio::time::timeout_at(next_look, self.wake.notified())
                .await
                .is_err()
            {
                left.retain(|half| half.look(&mut scratch));
                next_look = Instant::now() + TICK;
                continue;
            }
            {
                let mut jobs = lock(&self.jobs);
                if jobs.finished {
                    return;
                }
                std::mem::swap(&mut work, &mut jobs.waiting);
            }
            for job in work.drain(..) {
                match job {
                    Job::Send(half) => half.flush(),
                    Job::Receive(half) => {
                        if half.fill(&mut scratch) {
                            left.push(half);
                        }
                    }
                    Job::Spare(link) => link.fill_spare(),
                }
            }
            if !lock(&self.jobs).waiting.is_empty() {
                // The drivers are on this thread too, and what was done is of no use before their turn.
                tokio::task::yield_now().await;
            }
        }
    }
}
