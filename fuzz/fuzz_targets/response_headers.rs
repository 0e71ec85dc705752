//! A route label of any text stays within the value of its header.
#![no_main]

#[path = "../../tests/support/figures.rs"]
mod figures;
#[path = "../../tests/properties/response_headers.rs"]
mod response_headers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| response_headers::holds(data));
