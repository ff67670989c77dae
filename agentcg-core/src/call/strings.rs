//! Strings as `execve` takes them: each ends with NUL, all in one block, for there can be many.

use std::ffi::c_char;

#[derive(Debug, Default)]
pub(super) struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Strings {
    /// Adds one that is made of these parts; false, and nothing is added, when a NUL is in it.
    #[must_use]
    pub(super) fn push(&mut self, parts: &[&[u8]]) -> bool {
        if parts.iter().any(|part| part.contains(&0)) {
            return false;
        }
        self.starts.push(self.bytes.len());
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.bytes.push(0);
        true
    }

    /// What comes after `NAME=` in one of them.
    pub(super) fn value(&self, name: &str) -> Option<&[u8]> {
        self.starts.iter().find_map(|start| {
            let value = self.bytes[*start..].strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            value.split(|b| *b == 0).next()
        })
    }

    /// Their addresses, and null after them; good as long as nothing is added.
    pub(super) fn pointers(&self) -> Vec<*const c_char> {
        let all = self.starts.iter().map(|start| self.bytes[*start..].as_ptr().cast());
        all.chain([std::ptr::null()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn each_ends_with_nul_and_is_found_by_its_name() {
        let mut strings = Strings::default();
        assert!(strings.push(&[b"A", b"=", b"1"]));
        assert!(!strings.push(&[b"B=", b"\0"]));
        assert!(strings.push(&[b"AB="]));
        let pointers = strings.pointers();
        assert_eq!(pointers.len(), 3);
        assert!(pointers[2].is_null());
        // SAFETY: they end with NUL and live as long as `strings`.
        let texts = [0, 1].map(|i| unsafe { CStr::from_ptr(pointers[i]) });
        assert_eq!(texts, [c"A=1", c"AB="]);
        assert_eq!(strings.value("A"), Some(&b"1"[..]));
        assert_eq!(strings.value("AB"), Some(&b""[..]));
        assert_eq!(strings.value("B"), None);
    }
}
