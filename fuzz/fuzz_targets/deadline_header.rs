//! No bytes make a deadline header panic, or say something that its grammar does not.
#![no_main]

#[path = "../../tests/properties/deadline_header.rs"]
mod deadline_header;

libfuzzer_sys::fuzz_target!(|data: &[u8]| deadline_header::holds(data));
