//! See `steersman_fuzz::snapshot`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::snapshot(bytes));
