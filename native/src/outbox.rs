//! What the engine's own thread does for the streams of an endpoint.
//!
//! noq holds one lock a connection, for as long as it builds packets and hands them to the system. A
//! JavaScript thread that wrote and read by itself would wait for it again and again, a system call or two
//! each time. So it only leaves word here, and what needs the lock is done where the connections' drivers
//! run, between two of their turns: the writes of many streams in one go, and in one packet where they fit.
//!
//! But where the engine has nothing to do, waking its thread takes longer than a packet. What is little is
//! then made and sent by the thread that has it (`do_here`).

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

/// So many bytes are a few packets, which are made before another thread is awake.
pub const LITTLE: usize = 4096;

/// Where jobs come closer behind each other than this, on average, they are left to the engine's thread: many
/// are better done in one go and beside the thread that has them.
const CLOSE: Duration = Duration::from_micros(250);

/// A longer pause says no more than this one.
const PAUSE: Duration = Duration::from_millis(1);

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
    /// Of `do_here`.
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

/// Whether it looks at what waits without being woken.
#[derive(PartialEq, Eq)]
enum Thread {
    Awake,
    Asleep,
}

#[derive(Default)]
struct Jobs {
    waiting: Vec<Job>,
    /// What `do_here` found to be looked at from time to time.
    left: Vec<Arc<RecvHalf>>,
    /// When `do_here` was called.
    last: Option<Instant>,
    /// From one such time to the next, on average.
    gap: Duration,
    /// Nothing is looked at before a wake-up.
    asleep: bool,
    finished: bool,
}

impl Jobs {
    /// One more is to be done at `now`.
    fn are_close(&mut self, now: Instant) -> bool {
        let last = self.last.replace(now);
        let gap = last.map_or(PAUSE, |last| (now - last).min(PAUSE));
        let before = last.map_or(PAUSE, |_| self.gap);
        self.gap = (before * 7 + gap) / 8;
        self.gap < CLOSE || gap < CLOSE / 2
    }
}

impl Outbox {
    /// Does what is left here until `finish`.
    pub fn start() -> Arc<Self> {
        let outbox = Arc::new(Self::default());
        runtime::handle().spawn(outbox.clone().run());
        outbox
    }

    /// Has `job` done at once.
    pub fn push(&self, job: Job) {
        if self.add(job).is_some() {
            self.wake.notify_one();
        }
    }

    /// Does `job` on this thread, with what waits for company, or has it done where there are many.
    pub fn do_here(&self, job: Job) {
        let mut work = {
            let mut jobs = lock(&self.jobs);
            if jobs.are_close(Instant::now()) || jobs.finished {
                drop(jobs);
                return self.push(job);
            }
            std::mem::take(&mut jobs.waiting)
        };
        work.push(job);
        let mut left = Vec::new();
        noq::together(|| {
            do_all(&mut work, &mut lock(&self.scratch), &mut left);
        });
        if !left.is_empty() {
            lock(&self.jobs).left.append(&mut left);
            self.wake.notify_one();
        }
    }

    /// Has `job` done with the next one, or after `LATE`: waking a thread costs more than most jobs.
    pub fn push_late(&self, job: Job) {
        if self.add(job) == Some(Thread::Asleep) {
            self.wake.notify_one();
        }
    }

    fn add(&self, job: Job) -> Option<Thread> {
        let mut jobs = lock(&self.jobs);
        if jobs.finished {
            // Unlocked: it may own the last handle of a stream.
            drop(jobs);
            drop(job);
            return None;
        }
        jobs.waiting.push(job);
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

    async fn run(self: Arc<Self>) {
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

    /// Until a wake-up, or until what came late is due.
    async fn sleep(&self) {
        if tokio::time::timeout(LATE, self.wake.notified())
            .await
            .is_ok()
        {
            return;
        }
        {
            let mut jobs = lock(&self.jobs);
            if !jobs.waiting.is_empty() {
                return;
            }
            jobs.asleep = true;
        }
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_close_where_they_are_so_on_average_or_right_behind_each_other() {
        let (mut jobs, mut now) = (Jobs::default(), Instant::now());
        let mut after = |gap: u64, times: u32| {
            let mut close = true;
            for _ in 0..times {
                now += Duration::from_micros(gap);
                close = jobs.are_close(now);
            }
            close
        };
        assert!(!after(0, 1), "the first one");
        assert!(after(20, 1), "the next one right behind it");
        assert!(!after(10_000, 1), "after a pause");
        assert!(after(150, 30), "many");
        assert!(after(600, 1), "one that is a little later among many");
        assert!(!after(600, 10), "where there are fewer again");
    }
}
