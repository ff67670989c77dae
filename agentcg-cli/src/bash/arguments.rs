//! Which command lines of bash have a command (`-c`), by the rules of bash's own `shell.c`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Options of one word; each may be written with one dash too.
const LONG: [&[u8]; 14] = [
    b"debug",
    b"debugger",
    b"dump-po-strings",
    b"dump-strings",
    b"login",
    b"noediting",
    b"noprofile",
    b"norc",
    b"posix",
    b"pretty-print",
    b"protected",
    b"restricted",
    b"verbose",
    b"wordexp",
];
/// They take the next word.
const WITH_VALUE: [&[u8]; 2] = [b"init-file", b"rcfile"];
/// They print and leave.
const PRINT: [&[u8]; 2] = [b"help", b"version"];

/// Does bash execute a command string when it is given these arguments? An error of usage is no
/// command: bash itself is to report it.
pub(super) fn has_command(args: &[OsString]) -> bool {
    let mut words = args.iter().map(|a| a.as_bytes()).peekable();
    // First the long options, then the others: after the first short one bash looks for no long one.
    while let Some(word) = words.peek() {
        let Some(name) = word.strip_prefix(b"--").or_else(|| word.strip_prefix(b"-")) else {
            break;
        };
        if PRINT.contains(&name) {
            return false;
        }
        let with_value = WITH_VALUE.contains(&name);
        if !with_value && !LONG.contains(&name) {
            break;
        }
        words.next();
        if with_value {
            words.next();
        }
    }
    let mut wanted = false;
    while let Some(word) = words.next_if(|w| matches!(w.first(), Some(b'-' | b'+'))) {
        if word == b"-" || word == b"--" {
            break;
        }
        if word.starts_with(b"--") {
            return false;
        }
        for flag in &word[1..] {
            match flag {
                b'c' => wanted = true,
                // Their names are the words that follow, one for each.
                b'o' | b'O' => {
                    words.next();
                }
                _ => {}
            }
        }
    }
    wanted && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_bash_reads_them() {
        for (line, expected) in [
            ("-c X", true),
            ("-lc X", true),
            ("-cl X", true),
            ("-l -c X", true),
            ("-e -c X", true),
            ("-c -e X", true),
            ("-ec X name a b", true),
            ("-euxc X", true),
            ("-ic X", true),
            ("--login -c X", true),
            ("-login -c X", true),
            ("--norc --noprofile -c X", true),
            ("--rcfile FILE -c X", true),
            ("--init-file FILE -lc X", true),
            ("-o pipefail -c X", true),
            ("-oc pipefail X", true),
            ("-co pipefail X", true),
            ("-eo pipefail -c X", true),
            ("-euo pipefail -c X", true),
            ("+o pipefail -c X", true),
            ("-O extglob -c X", true),
            ("-oO pipefail extglob -c X", true),
            ("+e -c X", true),
            ("+c X", true),
            ("-c -- X", true),
            ("-c - X", true),
            ("-sc X", true),
            ("-c --", false),
            ("-c", false),
            ("-lc", false),
            ("-oc pipefail", false),
            ("", false),
            ("-l", false),
            ("-i", false),
            ("-s", false),
            ("-s a b", false),
            ("script", false),
            ("script -c X", false),
            ("-e script -c X", false),
            ("-- -c X", false),
            ("- -c X", false),
            ("-o -c X", false),
            ("--rcfile -c X", false),
            ("--version", false),
            ("--help -c X", false),
            ("-c --version", false),
            ("-e --login -c X", false),
            ("--frob -c X", false),
            ("-version -c X", false),
        ] {
            let args: Vec<_> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(has_command(&args), expected, "{line}");
        }
        // An empty command is a command.
        assert!(has_command(&["-c".into(), "".into()]));
    }
}
