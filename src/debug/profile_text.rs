//! A profile as text, for a look without tools.

use std::fmt::Write;

use super::text;
use crate::profile::{Profile, Value};

/// One paragraph for each row, the largest first: its figures, and its stack from the innermost call on.
pub(super) fn text(profile: &Profile, shown: Value) -> String {
    let mut rows: Vec<_> = profile.rows().iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.value(shown)));
    let sum = |value| {
        profile
            .rows()
            .iter()
            .map(|row| row.value(value))
            .sum::<i64>()
    };
    let (samples, bytes) = profile.dropped();
    let mut out = String::new();
    // A text never refuses, here and below.
    let _ = writeln!(
        out,
        "heap profile by {}: in use {} objects, {} bytes; allocated {} objects, {} bytes\n\
         # estimates from samples, {:?}; {samples} samples for {bytes} bytes dropped",
        shown.as_str(),
        sum(Value::InUseObjects),
        sum(Value::InUseBytes),
        sum(Value::AllocatedObjects),
        sum(Value::AllocatedBytes),
        profile.stacks(),
    );
    for row in rows {
        let _ = write!(
            out,
            "\n{} bytes in use in {}, {} bytes allocated in {}",
            row.in_use.bytes, row.in_use.objects, row.allocated.bytes, row.allocated.objects
        );
        for (name, value) in [("route", row.route()), ("task", row.task())] {
            if let Some(value) = value {
                let _ = write!(out, ", {name} {}", text::name(value));
            }
        }
        out.push('\n');
        for function in row.functions() {
            let _ = writeln!(out, "#\t{function}");
        }
    }
    out
}
