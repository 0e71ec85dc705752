//! No path and no query makes a debug page panic, or show what was sent.
#![no_main]

#[path = "../../tests/properties/debug_query.rs"]
mod debug_query;

libfuzzer_sys::fuzz_target!(|data: &[u8]| debug_query::holds(data));
