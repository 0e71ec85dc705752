//! Folded text, from which flame graphs are made.

use std::{fmt, fmt::Write as _, io};

use super::{
    row::{Row, Value},
    snapshot::Profile,
};

impl Profile {
    /// Writes one line for each row with `shown` above zero: route, task and stack from the outermost call
    /// on, separated by semicolons, and the figure. Flame graphs are made from that.
    ///
    /// # Errors
    ///
    /// Those of `writer`.
    pub fn write_folded(&self, shown: Value, mut writer: impl io::Write) -> io::Result<()> {
        for row in &self.rows {
            let value = row.value(shown);
            if value > 0 {
                writeln!(writer, "{} {value}", Line(row))?;
            }
        }
        Ok(())
    }
}

struct Line<'a>(&'a Row);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(row) = self;
        part(f, row.route().unwrap_or("(no route)"))?;
        if let Some(task) = row.task() {
            f.write_char(';')?;
            part(f, task)?;
        }
        for frame in row.frames.iter().rev() {
            if frame.functions().is_empty() {
                write!(f, ";{:#x}", frame.address)?;
            }
            for function in frame.functions().iter().rev() {
                f.write_char(';')?;
                part(f, &function.name)?;
            }
        }
        Ok(())
    }
}

/// Without what separates parts, values and lines.
fn part(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        f.write_char(match c {
            ';' => ':',
            ' ' => '_',
            c if c.is_control() => '?',
            c => c,
        })?;
    }
    Ok(())
}
