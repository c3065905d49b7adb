//! See `steersman_fuzz::peer`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::peer(bytes));
