//! Where there is little to do, the thread that has something to do does it by itself.
//!
//! Waking another thread takes longer than handling a packet. So where packets are few, what is sent is sent
//! by the JavaScript thread, and it waits for what comes in, too (`arrivals.rs`). Where they are many, all of
//! that is the engine's thread's, which does many in one go, beside the JavaScript thread.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::runtime;

/// What is judged: at least so long.
const WINDOW: Duration = Duration::from_millis(4);

/// Packets a millisecond, received and sent here, above which they are many.
const MANY: u64 = 32;

/// Above which they are many for a thread that has hardly any time left.
const MANY_FOR_BUSY: u64 = 8;

/// Below which they are few again.
const FEW: u64 = 16;

/// For so long. A thread that has drawn something for 20 ms has got few meanwhile of what is a fast transfer.
const CALM: Duration = Duration::from_millis(50);

static QUIET: AtomicBool = AtomicBool::new(true);
static SENT: AtomicU64 = AtomicU64::new(0);

/// Whether packets are few.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Something is sent.
pub fn sent() {
    SENT.fetch_add(1, Ordering::Relaxed);
}

/// Runs `work`, which sends something little: on this thread to its end, where packets are few.
pub fn send<T>(work: impl FnOnce() -> T) -> T {
    sent();
    if is_quiet() { here(work) } else { work() }
}

/// Runs `work`, and on this thread what the engine's tasks have to do because of it.
pub fn here<T>(work: impl FnOnce() -> T) -> T {
    let _runtime = runtime::handle().enter();
    noq::here::here(work)
}

#[derive(Clone, Copy)]
struct Pace {
    since: Instant,
    packets: u64,
    /// That the thread had had by then.
    cpu: Duration,
    /// Since when they are not many, and how many there had been by then.
    calm: (Instant, u64),
}

impl Pace {
    /// Whether packets are few, at `now` with so many in all; nothing where it is too early to say, or neither.
    fn judge(
        &mut self,
        now: Instant,
        packets: u64,
        cpu: impl FnOnce() -> Duration,
    ) -> Option<bool> {
        let elapsed = now - self.since;
        let fresh = packets - self.packets;
        if elapsed < WINDOW && !is_above(MANY, fresh, WINDOW) {
            return None;
        }
        let cpu = cpu();
        let is_busy = (cpu - self.cpu) * 5 > elapsed * 4;
        (self.since, self.packets, self.cpu) = (now, packets, cpu);
        let many = if is_busy { MANY_FOR_BUSY } else { MANY };
        if is_above(many, fresh, elapsed.max(WINDOW)) {
            self.calm = (now, packets);
            return Some(false);
        }
        let (since, before) = self.calm;
        if now - since < CALM {
            return None;
        }
        self.calm = (now, packets);
        (!is_above(FEW, packets - before, now - since)).then_some(true)
    }
}

/// Whether so many packets in such a time are more than `rate` a millisecond.
fn is_above(rate: u64, packets: u64, time: Duration) -> bool {
    packets * 1000 > rate * time.as_micros() as u64
}

thread_local! {
    static PACE: Cell<Option<Pace>> = const { Cell::new(None) };
}

/// Looks at the packets since the last look. On the JavaScript thread.
pub fn look() {
    let now = Instant::now();
    let packets = noq::here::received() + SENT.load(Ordering::Relaxed);
    let mut pace = PACE.get().unwrap_or_else(|| Pace {
        since: now,
        packets,
        cpu: thread_time(),
        calm: (now, packets),
    });
    if let Some(few) = pace.judge(now, packets, thread_time) {
        QUIET.store(few, Ordering::Relaxed);
    }
    PACE.set(Some(pace));
}

/// That this thread has had of a processor.
#[cfg(unix)]
fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` lives until the call returns.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn thread_time() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_few_or_many_by_what_came_in_a_window() {
        let start = Instant::now();
        let mut pace = Pace {
            since: start,
            packets: 0,
            cpu: Duration::ZERO,
            calm: (start, 0),
        };
        let mut judge = |ms: u64, packets: u64, cpu_ms: u64| {
            pace.judge(start + Duration::from_millis(ms), packets, || {
                Duration::from_millis(cpu_ms)
            })
        };
        assert_eq!(judge(1, 5, 0), None, "too early");
        assert_eq!(judge(2, 500, 1), Some(false), "many in a short time");
        assert_eq!(judge(12, 500 + 200, 5), None, "neither");
        assert_eq!(judge(40, 700 + 10, 9), None, "few, but not for long");
        assert_eq!(judge(50, 710 + 400, 15), Some(false), "many again");
        assert_eq!(
            judge(60, 1110 + 120, 24),
            Some(false),
            "many for a busy thread"
        );
        assert_eq!(judge(110, 1230 + 900, 30), None, "not few for that long");
        assert_eq!(judge(160, 2130 + 500, 40), Some(true), "few");
        assert_eq!(judge(1160, 2630 + 2000, 50), Some(true), "a pause");
    }
}
