//! See `steersman_fuzz::batch`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::batch(bytes));
