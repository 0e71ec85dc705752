//! Arenas, cursors and buffers behave as owned values.
#![no_main]

#[path = "../../tests/properties/arena.rs"]
mod arena;
#[path = "../../tests/properties/input.rs"]
mod input;

libfuzzer_sys::fuzz_target!(|data: &[u8]| arena::holds(data));
