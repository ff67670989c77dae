//! Text as users write it (names, sizes, durations, event kinds, filters, hints, command lines) and
//! as the kernel logs it.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use agentcg_core::{CgroupName, CommandKey, EventFilter, EventKind, Hint, Limit};
use agentcg_core::{parse_duration, parse_size};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Found by chance the beginnings of the records would be rare.
    let kinds: [&[u8]; 4] = [
        b"",
        b"6,1,2,-;oom-kill:constraint=",
        b"3,1,2,-;Out of memory: Killed process ",
        b"6,1,2,-;Tasks in ",
    ];
    for kind in kinds {
        let _ = agentcg_core::fuzzing::parse_kernel_log(&[kind, bytes].concat());
    }
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
    if let Ok(hint) = text.parse::<Hint>() {
        assert_eq!(hint.to_string().parse::<Hint>().ok(), Some(hint));
    }
    let as_script = CommandKey::normalise(&["bash", "-c", &*text]);
    let as_words: Vec<_> = bytes.split(|b| *b == 0).map(OsStr::from_bytes).collect();
    for key in [as_script, CommandKey::normalise(&as_words)] {
        assert!(!key.as_str().is_empty() && !key.as_str().chars().any(char::is_control));
    }
    let mut filter = EventFilter::default();
    filter.commands = vec![text.clone().into_owned()];
    filter.executables = vec![text.clone().into_owned().into()];
    if agentcg_core::fuzzing::check(&filter).is_ok() {
        assert!(text.len() <= 15 && !text.contains('\0'));
    }
});
