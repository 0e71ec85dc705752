//! JSON written without `core::fmt` and read into an arena, beside serde_json and `axum::Json`.
#![cfg(all(feature = "axum", feature = "json"))]
#![forbid(unsafe_code)]

#[path = "json/bodies.rs"]
mod bodies;
#[path = "json/reading.rs"]
mod reading;
#[path = "json/writing.rs"]
mod writing;

use tower_memory::TrackingAllocator;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();
