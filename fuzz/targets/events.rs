//! Bytes as the kernel writes them into the ring buffer: whatever they are, decoding does not
//! panic, and what comes out is valid JSON on one line.
//!
//! `cargo fuzz run fuzz_events` with a nightly toolchain; `scripts/test.sh fuzz` runs it briefly and
//! without instrumentation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The kind is one of few numbers, at a fixed place: found by chance it would be rare.
    let mut bytes = bytes.to_vec();
    if let Some(kind) = bytes.get_mut(16..20) {
        kind.copy_from_slice(&(u32::from(kind[0]) % 10).to_ne_bytes());
    }
    if let Some(event) = agentcg_core::fuzzing::decode(&bytes) {
        let json = event.to_json();
        assert!(!json.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
        assert!(value["event"].is_string());
    }
});
