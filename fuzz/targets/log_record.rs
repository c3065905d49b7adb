//! See `steersman_fuzz::log_record`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::log_record(bytes));
