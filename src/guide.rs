//! Pages to read, from one to the next: what the reference says item by item, in the order of a task.
//!
//! | page | for |
//! |---|---|
//! | [`arenas`] | what to allocate where, and what the pool keeps |
//! | [`json`] | lists and texts out, orders in |
//! | [`deadlines`] | limits, their sources, and what the client gets |
//! | [`tasks`] | tasks, sockets, shutdown |
//! | [`placing`] | where to put the layer |
//! | [`figures`] | what is counted, outcomes, and what is not counted |
//! | [`limits`] | a limit for the process, a budget for each request |
//! | [`debug`] | pages for a browser: routes, plots, tasks |
//! | [`profile`] | which route and stack allocates, and what leaks |
//! | [`testing`] | holding routes to what they allocate |
//! | [`numbers`] | choosing numbers |
//! | [`production`] | a checklist |
//! | [`go`] | coming from Go |
//! | [`neighbours`] | other crates, and when not to use this one |

#[doc = include_str!("../docs/guide/arenas.md")]
pub mod arenas {}
#[doc = include_str!("../docs/guide/deadlines.md")]
pub mod deadlines {}
#[doc = include_str!("../docs/guide/debug.md")]
pub mod debug {}
#[doc = include_str!("../docs/guide/figures.md")]
pub mod figures {}
#[doc = include_str!("../docs/guide/go.md")]
pub mod go {}
#[doc = include_str!("../docs/guide/json.md")]
pub mod json {}
#[doc = include_str!("../docs/guide/limits.md")]
pub mod limits {}
#[doc = include_str!("../docs/guide/neighbours.md")]
pub mod neighbours {}
#[doc = include_str!("../docs/guide/numbers.md")]
pub mod numbers {}
#[doc = include_str!("../docs/guide/placing.md")]
pub mod placing {}
#[doc = include_str!("../docs/guide/production.md")]
pub mod production {}
#[doc = include_str!("../docs/guide/profile.md")]
pub mod profile {}
#[doc = include_str!("../docs/guide/tasks.md")]
pub mod tasks {}
#[doc = include_str!("../docs/guide/testing.md")]
pub mod testing {}
