use std::fmt::{self, Write};

use super::handle::RequestScope;
use crate::sync::{Mutex, lock};

/// Maximum number of annotations of a request.
const MAX_ANNOTATIONS: usize = 16;

/// Longer values are truncated.
const MAX_VALUE_BYTES: usize = 256;

// `RequestScope::annotate` states these bounds.
const _: () = assert!(MAX_ANNOTATIONS == 16 && MAX_VALUE_BYTES == 256);

/// What the application adds to a request's report.
#[derive(Debug)]
pub(super) struct Annotations {
    values: Mutex<Vec<(&'static str, String)>>,
}

impl Annotations {
    pub(super) fn new() -> Self {
        Self {
            values: Mutex::new(Vec::new()),
        }
    }

    fn add(&self, key: &'static str, value: String) {
        let mut values = lock(&self.values);
        if let Some(old) = values.iter_mut().find(|old| old.0 == key) {
            old.1 = value;
        } else if values.len() < MAX_ANNOTATIONS {
            values.push((key, value));
        }
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

impl RequestScope {
    /// Adds a value to the request's [report](crate::ScopeReport::annotations), such as the id of the
    /// request or of the user.
    ///
    /// A second value of the same key replaces the first. A request has at most 16 keys; further ones are
    /// ignored. Values longer than 256 bytes are truncated. After the scope has closed this has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, sync::mpsc};
    ///
    /// use http::{Request, Response};
    /// use http_body_util::Empty;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_memory::{MemoryLayer, RequestScope, ScopeReport};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, reports) = mpsc::channel();
    /// let layer = MemoryLayer::builder().observe(move |report: &ScopeReport| {
    ///     let _ = sender.send(report.clone());
    /// }).build()?;
    /// let service = layer.layer(service_fn(|request: Request<()>| async move {
    ///     let scope = request.extensions().get::<RequestScope>().expect("the layer is there");
    ///     if let Some(id) = request.headers().get("x-request-id") {
    ///         scope.annotate("request_id", String::from_utf8_lossy(id.as_bytes()));
    ///     }
    ///     scope.annotate("rows", 7);
    ///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    /// }));
    /// drop(service.oneshot(Request::get("/").header("x-request-id", "c0ffee").body(())?).await?);
    ///
    /// let report = reports.recv()?;
    /// assert_eq!(report.annotations, [("request_id", "c0ffee".into()), ("rows", "7".into())]);
    /// assert!(report.to_string().ends_with("request_id=\"c0ffee\", rows=\"7\""));
    /// # Ok(())
    /// # }
    /// ```
    pub fn annotate(&self, key: &'static str, value: impl fmt::Display) {
        let mut text = Truncated::default();
        // An error is a value that is longer, or one that cannot be displayed: what came is kept.
        let _ = write!(text, "{value}");
        self.state().annotations.add(key, text.text);
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
            annotations.add(key, "first".into());
        }
        annotations.add(keys[3], "second".into());
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
