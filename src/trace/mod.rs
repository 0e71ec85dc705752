//! A flight recorder: what each thread has polled in the last seconds, for which request, and for how long.
//!
//! Each thread writes the polls of requests, bodies and tasks into a ring of its own: the request's number and
//! route, where a task was started, duration and heap bytes. It also notes cancellations and chunks that arenas
//! take. Nothing is recorded until [`TraceSettings::start`] is called; until then a poll costs one comparison.
//!
//! [`TraceSnapshot::write_json`] writes it for [Perfetto](https://ui.perfetto.dev). Recordings of [incidents] are
//! kept by themselves: of a deadline, of a request that allocates much, and of a poll that takes long, which starves
//! all others of its thread. Such a poll is named while it runs, also when no worker of the runtime is left.
//!
//! # Examples
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_memory::{MemoryLayer, trace::{self, TraceSettings}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! TraceSettings::new().slow_poll(Duration::from_millis(20)).start();
//!
//! let layer = MemoryLayer::builder().route("/blocks").build()?;
//! let service = layer.layer(service_fn(|_: Request<()>| async {
//!     std::thread::sleep(Duration::from_millis(40)); // the mistake to find
//!     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
//! }));
//! drop(service.oneshot(Request::new(())).await?);
//!
//! let snapshot = trace::snapshot();
//! let poll = snapshot.polls().max_by_key(|poll| poll.duration).expect("recorded");
//! assert_eq!((poll.kind, poll.route.as_deref()), ("request", Some("/blocks")));
//! assert!(poll.duration >= Duration::from_millis(40) && !poll.running);
//!
//! let incident = &trace::incidents()[0];
//! assert!(incident.to_string().contains("(/blocks) "), "{incident}");
//!
//! let mut json = Vec::new();
//! snapshot.write_json(&mut json)?;
//! trace::stop();
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! 1. Reading the processor's counter has no precondition on `x86_64`, and no effect.

mod clock;
mod event;
mod incident;
mod json;
mod local;
mod request;
mod ring;
mod settings;
mod snapshot;
mod threads;
mod watch;

pub use self::incident::{Incident, IncidentKind, incidents};
pub use self::settings::{TraceSettings, is_recording, snapshot, stop};
pub use self::snapshot::{Poll, TraceSnapshot};

pub(crate) use self::event::{Kind, Origin};
pub(crate) use self::local::{Slice, event, is_on};
pub(crate) use self::request::{cancelled, is_large, large};
