#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| icestream::fuzzing::run("batches", data));
