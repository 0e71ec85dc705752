use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    clock::{self, Anchor},
    incident,
    local::{OFF, is_on, switch},
    snapshot::TraceSnapshot,
    threads,
    watch::Watch,
};
use crate::{
    housekeeping::{Chore, start},
    sync::Arc,
};

/// What the recorder records, and which incidents it keeps.
///
/// # Examples
///
/// See [`trace`](super).
#[derive(Debug, Clone)]
#[must_use = "nothing is recorded until `start` is called"]
pub struct TraceSettings {
    events: usize,
    slow_poll: Option<Duration>,
    deadlines: bool,
    bytes: Option<u64>,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self::new()
    }
}

impl TraceSettings {
    /// 32 768 events for each thread, and no incidents.
    pub const fn new() -> Self {
        Self {
            events: 1 << 15,
            slow_poll: None,
            deadlines: false,
            bytes: None,
        }
    }

    /// Sets the events that each thread keeps, rounded up to a power of two from 64 to 2^22. Each takes 32 bytes,
    /// and up to 128 threads record: 1 MiB a thread by default.
    pub const fn events_per_thread(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    /// Keeps an incident when one poll takes so long, at least 1 ms: while it runs, and also if it never returns.
    /// Closures of [`spawn_blocking`](crate::RequestScope::spawn_blocking) may take as long as they like.
    ///
    /// The housekeeping looks at all threads four times in this time, at most every 5 ms.
    pub const fn slow_poll(mut self, duration: Duration) -> Self {
        self.slow_poll = Some(duration);
        self
    }

    /// Keeps an incident when a request exceeds its deadline.
    pub const fn deadlines(mut self) -> Self {
        self.deadlines = true;
        self
    }

    /// Keeps an incident when a request that closes has allocated so many heap bytes.
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Starts recording, for the whole process. What was recorded before, and incidents, are forgotten.
    pub fn start(self) {
        let mut control = control();
        switch(OFF);
        control.watch = None;
        clock::choose();
        let from = Anchor::earlier();
        control.from = Some(from);
        let recording = threads::begin(self.events.clamp(64, 1 << 22).next_power_of_two());
        incident::begin(from, self.deadlines, self.bytes);
        if let Some(slow) = self.slow_poll {
            let watch = Arc::new(Watch::new(slow.max(Duration::from_millis(1)), from));
            start(&watch, watch.housekeeping().now());
            control.watch = Some(watch);
        }
        switch(recording);
    }
}

struct Control {
    from: Option<Anchor>,
    watch: Option<Arc<Watch>>,
}

static CONTROL: Mutex<Control> = Mutex::new(Control {
    from: None,
    watch: None,
});

fn control() -> std::sync::MutexGuard<'static, Control> {
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops recording. What was recorded stays for [`snapshot`] until the next start.
///
/// # Examples
///
/// See [`trace`](super).
pub fn stop() {
    let mut control = control();
    switch(OFF);
    control.watch = None;
}

/// Returns whether polls are recorded.
#[must_use]
pub fn is_recording() -> bool {
    is_on()
}

/// Copies what was recorded lately. The threads are not stopped: what they overwrite meanwhile is
/// [lost](TraceSnapshot::lost). Without a recording there are no threads in it.
///
/// Takes about 15 ns an event, so half a millisecond for each full ring of the default size.
///
/// # Examples
///
/// See [`trace`](super).
#[must_use]
pub fn snapshot() -> TraceSnapshot {
    let from = control().from;
    TraceSnapshot::take(from.unwrap_or_else(Anchor::earlier))
}
