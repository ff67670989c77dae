//! Text as users write it: names, sizes, durations, event kinds, filters.
#![no_main]

use agentcg_core::{CgroupName, EventFilter, EventKind, Limit, parse_duration, parse_size};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = parse_size(&text);
    let _ = parse_duration(&text);
    let _ = text.parse::<EventKind>();
    if let Ok(limit) = text.parse::<Limit>() {
        // What is written to the kernel reads back as the same.
        assert_eq!(limit.to_string().parse::<Limit>().ok(), Some(limit));
    }
    if let Ok(name) = CgroupName::new(text.clone()) {
        assert_eq!(std::path::Path::new(name.as_str()).components().count(), 1);
    }
    let mut filter = EventFilter::default();
    filter.commands = vec![text.clone().into_owned()];
    filter.executables = vec![text.clone().into_owned().into()];
    if agentcg_core::fuzzing::check(&filter).is_ok() {
        assert!(text.len() <= 15 && !text.contains('\0'));
    }
});
