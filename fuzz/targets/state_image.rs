//! See `steersman_fuzz::state_image`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::state_image(bytes));
