//! Seeded bugs, by which the tests show what they catch. `ci/bugs` switches on one at a time.

/// `bug!("name")` is whether the bug of this name is switched on. Without `--cfg tower_memory_bugs` it is
/// the constant `false`, and leaves no code.
#[cfg(not(tower_memory_bugs))]
macro_rules! bug {
    ($name:literal) => {
        false
    };
}

#[cfg(tower_memory_bugs)]
macro_rules! bug {
    ($name:literal) => {
        crate::bug::is_on($name)
    };
}

/// Whether the environment variable `TOWER_MEMORY_BUG` is `name`.
///
/// Not for the allocator's own code: the first call may allocate.
#[cfg(tower_memory_bugs)]
pub(crate) fn is_on(name: &str) -> bool {
    // std's, also in loom's models: it is the same in all of them.
    static ON: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let on = ON.get_or_init(|| std::env::var_os("TOWER_MEMORY_BUG"));
    on.as_deref().is_some_and(|on| on == name)
}
