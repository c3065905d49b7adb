//! See `steersman_fuzz::data_files`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steersman_fuzz::data_files(bytes));
