#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = floe::testing::doors::knock("delta", bytes);
});
