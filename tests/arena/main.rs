//! The arena and its pool, driven from outside: against a model, with types and iterators that
//! misbehave, and from several threads.

mod absurd;
#[cfg(feature = "axum")]
mod across_await;
#[cfg(all(feature = "allocator-api2", feature = "allocator-api2-04"))]
mod allocator;
mod buffer;
mod collections;
mod cursor;
mod model;
#[cfg(feature = "allocator-api2")]
mod panics;
mod pool;
#[cfg(feature = "allocator-api2")]
mod residue;
mod retention;
#[cfg(feature = "allocator-api2")]
mod stress;
mod threads;
mod values;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// The text of the panic that `f` ends with.
#[track_caller]
fn panic_text<R>(f: impl FnOnce() -> R) -> String {
    let payload: Box<dyn Any + Send> = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it did not panic"),
        Err(payload) => payload,
    };
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| {
            payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
        })
        .expect("a text")
}

/// Panics without a message on the test's output.
fn quiet_panic() -> ! {
    std::panic::resume_unwind(Box::new("quiet"))
}
