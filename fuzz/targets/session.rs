//! See `steersman_fuzz::session`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::session(bytes));
