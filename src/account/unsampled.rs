use super::raw;

/// Calls `f` without samples of what it allocates on this thread: a profile is not about what makes it.
pub(crate) fn unsampled<R>(f: impl FnOnce() -> R) -> R {
    let was_muted = raw::own().is_none_or(|block| block.draw.mute());
    let _unmute = (!was_muted).then_some(Unmute);
    f()
}

struct Unmute;

impl Drop for Unmute {
    fn drop(&mut self) {
        if let Some(block) = raw::own() {
            block.draw.unmute(block.bytes_allocated());
            // Its mark may be beyond the next sample.
            block.look_at_next();
        }
    }
}
