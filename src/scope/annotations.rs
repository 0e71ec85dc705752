use std::fmt::{self, Write};

use crate::sync::{Mutex, lock};

/// Maximum number of annotations of a request.
const MAX_ANNOTATIONS: usize = 16;

/// Longer values are truncated.
const MAX_VALUE_BYTES: usize = 256;

// `RequestScope::annotate` states these bounds.
const _: () = assert!(MAX_ANNOTATIONS == 16 && MAX_VALUE_BYTES == 256);

/// What the application adds to a request's report.
#[derive(Debug)]
pub(crate) struct Annotations {
    values: Mutex<Vec<(&'static str, String)>>,
}

impl Annotations {
    pub(super) fn new() -> Self {
        Self {
            values: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn add(&self, key: &'static str, value: impl fmt::Display) {
        let mut text = Truncated::default();
        // An error is a value that is longer, or one that cannot be displayed: what came is kept.
        let _ = write!(text, "{value}");
        let value = text.text;
        let mut values = lock(&self.values);
        if let Some(old) = values.iter_mut().find(|old| old.0 == key) {
            old.1 = value;
        } else if values.len() < MAX_ANNOTATIONS {
            values.push((key, value));
        }
    }

    pub(super) fn copy(&self) -> Vec<(&'static str, String)> {
        lock(&self.values).clone()
    }

    pub(super) fn take(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut *lock(&self.values))
    }
}

/// Keeps the first [`MAX_VALUE_BYTES`] of a text.
#[derive(Default)]
struct Truncated {
    text: String,
    is_full: bool,
}

impl Write for Truncated {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.is_full {
            return Err(fmt::Error);
        }
        let mut end = more.len().min(MAX_VALUE_BYTES - self.text.len());
        while !more.is_char_boundary(end) {
            end -= 1;
        }
        self.text.push_str(&more[..end]);
        self.is_full = end < more.len();
        Ok(())
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn values_and_their_number_are_bounded() {
        let annotations = Annotations::new();
        let keys: Vec<&'static str> = "abcdefghijklmnopqrst"
            .split("")
            .filter(|key| !key.is_empty())
            .collect();
        for key in &keys {
            annotations.add(key, "first");
        }
        annotations.add(keys[3], "second");
        let kept = annotations.take();
        assert_eq!(kept.len(), MAX_ANNOTATIONS);
        assert_eq!(kept[3], ("d", "second".into()));
        assert_eq!(kept[4], ("e", "first".into()));
        assert!(annotations.take().is_empty());
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        struct Parts;

        impl fmt::Display for Parts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("x")?;
                for _ in 0..1000 {
                    // Goes on after an error.
                    let _ = f.write_str("é");
                }
                Ok(())
            }
        }

        let mut text = Truncated::default();
        let _ = write!(text, "{Parts}");
        assert_eq!(text.text, format!("x{}", "é".repeat(127)));
    }
}
