//! Every way a request can end: each ends its scope once, with the right outcome, and gives back
//! arenas, tokens, tasks and places in flight.
#![cfg(feature = "axum")]
#![forbid(unsafe_code)]

#[path = "exits/answers.rs"]
mod answers;
#[path = "exits/arena.rs"]
mod arena;
#[path = "exits/body.rs"]
mod body;
#[path = "exits/body_limits.rs"]
mod body_limits;
#[path = "exits/cut_off.rs"]
mod cut_off;
#[path = "exits/deadline.rs"]
mod deadline;
#[path = "exits/disconnect.rs"]
mod disconnect;
#[path = "exits/dispatch.rs"]
mod dispatch;
#[path = "exits/draining.rs"]
mod draining;
#[path = "exits/environment.rs"]
mod environment;
#[path = "exits/figures.rs"]
mod figures;
#[path = "exits/framing.rs"]
mod framing;
#[path = "exits/future.rs"]
mod future;
#[path = "exits/headers.rs"]
mod headers;
#[path = "exits/moved.rs"]
mod moved;
#[path = "exits/observers.rs"]
mod observers;
#[path = "exits/orders.rs"]
mod orders;
#[path = "exits/outliving.rs"]
mod outliving;
#[path = "exits/policy.rs"]
mod policy;
#[path = "support/random.rs"]
mod random;
#[path = "exits/router.rs"]
mod router;
#[path = "exits/routes.rs"]
mod routes;
#[path = "exits/serving.rs"]
mod serving;
#[path = "exits/shed.rs"]
mod shed;
#[path = "exits/shutdown.rs"]
mod shutdown;
#[path = "exits/strict.rs"]
mod strict;
#[path = "exits/support.rs"]
mod support;
#[path = "exits/tasks.rs"]
mod tasks;
#[path = "exits/tracked.rs"]
mod tracked;
#[path = "exits/unread.rs"]
mod unread;
#[path = "exits/upgrade.rs"]
mod upgrade;
#[path = "exits/uploads.rs"]
mod uploads;
#[path = "exits/vanished.rs"]
mod vanished;
#[path = "exits/waiting.rs"]
mod waiting;
#[path = "exits/wire.rs"]
mod wire;
