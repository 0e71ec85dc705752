//! A body is passed on, and its request ends as documented, whatever the body does.
#![no_main]

#[path = "../../tests/properties/body.rs"]
mod body;
#[path = "../../tests/properties/input.rs"]
mod input;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::holds(data));
