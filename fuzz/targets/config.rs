//! See `steersman_fuzz::config`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::config(bytes));
