use std::fmt;

use super::error::ArenaError;

/// Keeps the arena's error, which `fmt::Error` cannot carry.
struct Writer<F> {
    push: F,
    error: Option<ArenaError>,
}

impl<F: FnMut(&str) -> Result<(), ArenaError>> fmt::Write for Writer<F> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.push)(text).map_err(|error| {
            self.error = Some(error);
            fmt::Error
        })
    }
}

/// Formats `args` and passes the parts to `push`.
///
/// # Panics
///
/// If a formatting trait implementation returns an error of its own.
#[inline]
pub(super) fn write<F>(args: fmt::Arguments<'_>, push: F) -> Result<(), ArenaError>
where
    F: FnMut(&str) -> Result<(), ArenaError>,
{
    let mut writer = Writer { push, error: None };
    match (fmt::write(&mut writer, args), writer.error) {
        (Ok(()), None) => Ok(()),
        (_, Some(error)) => Err(error),
        (Err(fmt::Error), None) => {
            panic!("a formatting trait implementation returned an error")
        }
    }
}
