//! See `steersman_fuzz::keeper`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::keeper(bytes));
