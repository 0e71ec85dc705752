//! `cargo +nightly fuzz run deadline_header`: no bytes make a deadline header panic, or say something
//! that its grammar does not.
#![no_main]

#[path = "../../tests/properties/deadline_header.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::holds(data));
