//! A stand-in for a JavaScript thread that is busy with something else.
//!
//! Streams are read on that thread, and noq cannot be left alone with many small packets unread (see
//! `recv.rs`). While the queue is not taken, this takes them out of noq from time to time.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{
    queue::{Queue, Watch},
    recv::Scratch,
    runtime,
};

/// Short enough that no stream gets 2,000 packets meanwhile, long enough to cost nothing.
const TICK: Duration = Duration::from_millis(20);

/// Guards `queue` from the next push on, and rests whenever nothing is waiting in it.
pub fn install(queue: &Arc<Queue>) {
    let weak = Arc::downgrade(queue);
    queue.set_guard(Arc::new(move || {
        runtime::handle().spawn(guard(weak.clone()));
    }));
}

async fn guard(queue: Weak<Queue>) {
    let mut takes = u64::MAX;
    let mut scratch = None;
    loop {
        tokio::time::sleep(TICK).await;
        let Some(queue) = queue.upgrade() else {
            return;
        };
        match queue.watch(&mut takes) {
            Watch::Rest => return,
            Watch::Moving => {}
            Watch::Stalled(streams) => {
                let scratch = scratch.get_or_insert_with(Scratch::default);
                for stream in streams {
                    stream.hoard(scratch);
                }
            }
        }
    }
}
