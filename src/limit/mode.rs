/// What a [`ProcessLimit`](super::ProcessLimit) does.
///
/// The environment variable `TOWER_MEMORY_LIMIT` (`off`, `observe`, `warn` or `enforce`) replaces the mode of
/// the code when a limit is built; [`ProcessLimit::set_mode`](super::ProcessLimit::set_mode) changes it later.
///
/// # Examples
///
/// ```
/// use tower_memory::limit::{LimitMode, ProcessLimit};
///
/// let limit = ProcessLimit::builder().bytes(1 << 30).mode(LimitMode::Observe).build()?;
/// assert_eq!(limit.mode(), LimitMode::Observe);
/// # Ok::<(), tower_memory::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitMode {
    /// Nothing is counted or done.
    Off,
    /// Nothing is refused, trimmed or cancelled. What would have been done is counted.
    Observe,
    /// As `Observe`, and what would have been done is logged (feature `tracing`), at most once per route and
    /// minute.
    Warn,
    /// The limit is enforced.
    #[default]
    Enforce,
}

impl LimitMode {
    const ALL: [Self; 4] = [Self::Off, Self::Observe, Self::Warn, Self::Enforce];

    /// Returns the name, as in the environment: for example `observe`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Warn => "warn",
            Self::Enforce => "enforce",
        }
    }

    pub(super) const fn code(self) -> u8 {
        self as u8
    }

    pub(super) fn from_code(code: u8) -> Self {
        Self::ALL
            .get(usize::from(code))
            .copied()
            .unwrap_or_default()
    }

    /// The mode of a name; letters of either case.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let name = name.trim();
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(name))
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_mode_survives_its_code_and_its_name() {
        for mode in LimitMode::ALL {
            assert_eq!(LimitMode::from_code(mode.code()), mode);
            assert_eq!(LimitMode::from_name(mode.as_str()), Some(mode));
        }
        assert_eq!(LimitMode::from_name(" Observe\n"), Some(LimitMode::Observe));
        for word in ["", "on", "offline", "enforce!"] {
            assert_eq!(LimitMode::from_name(word), None, "{word:?}");
        }
    }
}
