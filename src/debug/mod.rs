//! Pages that show what a layer knows, for a browser: routes, plots of memory, live requests, and tasks that outlive
//! their request.
//!
//! Everything is rendered by the server. The pages need no script and load nothing, neither from this server nor
//! from others. They are read-only, and refuse all requests until [`DebugPages`] has an access rule.

mod access;
mod answer;
#[cfg(any(feature = "trace", feature = "profile"))]
mod capture;
mod document;
mod history;
#[cfg(feature = "trace")]
mod incidents;
mod page;
mod pages;
mod plot;
#[cfg(feature = "profile")]
mod profile_text;
mod query;
mod requests;
mod router;
mod routes;
mod text;

pub use self::router::DebugPages;
