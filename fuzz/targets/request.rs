//! See `steersman_fuzz::request`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::request(bytes));
