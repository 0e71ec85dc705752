use std::fmt;

use super::error::ArenaError;

/// Keeps the arena's error, which `fmt::Error` cannot carry.
struct Writer<F> {
    push: F,
    error: Option<ArenaError>,
}

impl<F: FnMut(&str, &mut Option<ArenaError>) -> fmt::Result> fmt::Write for Writer<F> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.push)(text, &mut self.error)
    }
}

/// Keeps the error of a part in `kept`.
#[inline]
pub(super) fn keep(part: Result<(), ArenaError>, kept: &mut Option<ArenaError>) -> fmt::Result {
    part.map_err(|error| {
        *kept = Some(error);
        fmt::Error
    })
}

/// Formats `args` and passes the parts to `push`, which [keeps](keep) its error.
///
/// # Panics
///
/// If a formatting trait implementation returns an error of its own.
#[inline]
pub(super) fn write<F>(args: fmt::Arguments<'_>, push: F) -> Result<(), ArenaError>
where
    F: FnMut(&str, &mut Option<ArenaError>) -> fmt::Result,
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
