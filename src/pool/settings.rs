use std::time::Duration;

use crate::sync::Arc;

/// Called after much was freed, with the bytes.
pub(super) type OnTrim = Arc<dyn Fn(u64) + Send + Sync>;

/// What a pool keeps of the arenas that are returned. Set by [`PoolBuilder`](super::PoolBuilder).
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) initial_bytes: usize,
    pub(super) max_arena_bytes: usize,
    pub(super) max_total_bytes: usize,
    pub(super) enabled: bool,
    pub(super) wipe: bool,
    pub(super) trim_interval: Option<Duration>,
}

impl Settings {
    pub(super) const DEFAULT: Self = Self {
        initial_bytes: 16 * 1024,
        max_arena_bytes: 1024 * 1024,
        max_total_bytes: 64 * 1024 * 1024,
        enabled: true,
        wipe: false,
        trim_interval: Some(Duration::from_secs(10)),
    };
}

// The setters of `PoolBuilder` say so.
const _: () = assert!(matches!(
    Settings::DEFAULT,
    Settings {
        initial_bytes: 0x4000,
        max_arena_bytes: 0x10_0000,
        max_total_bytes: 0x400_0000,
        enabled: true,
        wipe: false,
        trim_interval: Some(interval),
    } if interval.as_millis() == 10_000
));
