//! One target: that whose name this program has.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::fuzz::feed(env!("CARGO_BIN_NAME"), bytes));
