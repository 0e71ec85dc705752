use std::fmt;

use super::{error::ArenaError, raw::Draft};

/// A text that can be appended to, and says why not.
pub(super) trait PushStr {
    fn push(&mut self, text: &str) -> Result<(), ArenaError>;
}

impl PushStr for Draft<'_> {
    #[inline]
    fn push(&mut self, text: &str) -> Result<(), ArenaError> {
        self.push_str(text)
    }
}

/// Keeps the arena's error, which `fmt::Error` cannot carry.
struct Writer<'w, W> {
    text: &'w mut W,
    error: Option<ArenaError>,
}

impl<W: PushStr> fmt::Write for Writer<'_, W> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push(text).map_err(|error| {
            self.error = Some(error);
            fmt::Error
        })
    }
}

/// Appends what `args` formats to.
///
/// # Panics
///
/// If a formatting trait implementation returns an error of its own.
#[inline]
pub(super) fn push_fmt<W: PushStr>(
    text: &mut W,
    args: fmt::Arguments<'_>,
) -> Result<(), ArenaError> {
    let mut writer = Writer { text, error: None };
    match (fmt::write(&mut writer, args), writer.error) {
        (Ok(()), None) => Ok(()),
        (_, Some(error)) => Err(error),
        (Err(fmt::Error), None) => {
            panic!("a formatting trait implementation returned an error")
        }
    }
}
