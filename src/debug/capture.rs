//! Pages that take a while: one at a time waits for its seconds.

use std::{
    future::poll_fn,
    io,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::Duration,
};

use axum::response::{IntoResponse, Response};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER},
};
use tokio::time::Instant;

use super::{answer::refused, query::BadQuery, query::Query};
use crate::housekeeping::Timer;

/// The longest time that a page may wait.
const MOST: u64 = 60;

/// Whether a page waits for its seconds.
#[derive(Debug, Default)]
pub(super) struct Captures(AtomicBool);

/// What a page was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Capture {
    #[cfg(feature = "trace")]
    Trace,
    #[cfg(feature = "profile")]
    Heap,
    #[cfg(feature = "profile")]
    Allocs,
}

impl Capture {
    fn parameters(self) -> &'static [&'static str] {
        match self {
            #[cfg(feature = "trace")]
            Self::Trace => &["seconds"],
            #[cfg(feature = "profile")]
            Self::Heap | Self::Allocs => &["seconds", "debug"],
        }
    }

    /// Why there is nothing to see.
    fn is_off(self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "trace")]
            Self::Trace => (!crate::trace::is_recording())
                .then_some("the flight recorder is off: see TraceSettings::start"),
            #[cfg(feature = "profile")]
            Self::Heap | Self::Allocs => crate::profile::Profile::rate()
                .is_none()
                .then_some("the allocation profile is off: see Profile::start"),
        }
    }
}

impl Captures {
    /// Answers a page: at once, or after the seconds that the query asks for. The second that waits at the same time
    /// is refused.
    pub(super) async fn answer(
        &self,
        what: Capture,
        query: Option<&str>,
    ) -> Result<Response, BadQuery> {
        let query = Query::parse(query, what.parameters())?;
        let seconds = query.number("seconds", 1, MOST)?.map(Duration::from_secs);
        let as_text = query.number("debug", 0, 1)? == Some(1);
        if let Some(why) = what.is_off() {
            return Ok(refused(StatusCode::NOT_FOUND, &why));
        }
        let Some(_turn) = seconds.map_or(Some(None), |_| self.begin().map(Some)) else {
            let why = "another request with seconds is being answered";
            let mut busy = refused(StatusCode::CONFLICT, &why);
            let soon = HeaderValue::from_static("5");
            busy.headers_mut().insert(RETRY_AFTER, soon);
            return Ok(busy);
        };
        let written = match what {
            #[cfg(feature = "trace")]
            Capture::Trace => {
                let _ = as_text;
                wait(seconds).await;
                write(move || trace(seconds)).await
            }
            #[cfg(feature = "profile")]
            Capture::Heap | Capture::Allocs => {
                let earlier = seconds.map(|_| crate::profile::Profile::snapshot());
                wait(seconds).await;
                write(move || profile(what, earlier.as_ref(), as_text)).await
            }
        };
        let why = "it cannot be written";
        Ok(written.unwrap_or_else(|_| refused(StatusCode::INTERNAL_SERVER_ERROR, &why)))
    }

    fn begin(&self) -> Option<Turn<'_>> {
        // Acquire and release: one follows the other.
        let is_free = !self.0.swap(true, Ordering::AcqRel);
        is_free.then_some(Turn(self))
    }
}

/// Ends the turn when the request is answered, or its client is gone.
struct Turn<'a>(&'a Captures);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// Waits on any runtime.
async fn wait(time: Option<Duration>) {
    let Some(time) = time else {
        return;
    };
    let at = Instant::now() + time;
    let mut timer = Timer::new();
    poll_fn(|cx| match timer.poll(at, cx) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// Runs a slow function on a blocking thread, so that the worker serves other requests.
async fn write(f: impl FnOnce() -> io::Result<Response> + Send + 'static) -> io::Result<Response> {
    let written = tokio::task::spawn_blocking(f).await;
    written.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn file(content_type: &'static str, name: &'static str, content: Vec<u8>) -> Response {
    let headers = [(CONTENT_TYPE, content_type), (CONTENT_DISPOSITION, name)];
    (headers, content).into_response()
}

#[cfg(feature = "trace")]
fn trace(last: Option<Duration>) -> io::Result<Response> {
    let mut snapshot = crate::trace::snapshot();
    if let Some(last) = last {
        snapshot.keep(last);
    }
    let mut json = Vec::new();
    snapshot.write_json(&mut json)?;
    let name = "attachment; filename=\"trace.json\"";
    Ok(file("application/json", name, json))
}

#[cfg(feature = "profile")]
fn profile(
    what: Capture,
    earlier: Option<&crate::profile::Profile>,
    as_text: bool,
) -> io::Result<Response> {
    use crate::profile::{Profile, Value};

    let (shown, name) = match what {
        Capture::Allocs => (
            Value::AllocatedBytes,
            "attachment; filename=\"allocs.pb.gz\"",
        ),
        _ => (Value::InUseBytes, "attachment; filename=\"heap.pb.gz\""),
    };
    let now = Profile::snapshot();
    let profile = earlier.map_or_else(|| now.clone(), |earlier| now.since(earlier));
    let profile = profile.resolve();
    if as_text {
        let text = super::profile_text::text(&profile, shown);
        let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
        return Ok((headers, text).into_response());
    }
    let mut gzipped = Vec::new();
    profile.write_pprof(shown, &mut gzipped)?;
    Ok(file("application/octet-stream", name, gzipped))
}
