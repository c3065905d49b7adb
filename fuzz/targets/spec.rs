//! See `steersman_fuzz::spec`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::spec(bytes));
