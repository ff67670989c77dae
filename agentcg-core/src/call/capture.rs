//! Output kept within a limit: all of it, or its head and its tail.

use std::collections::VecDeque;

use super::outcome::Captured;

/// Keeps the first half of the limit and the last half.
#[derive(Debug)]
pub(super) struct Capture {
    limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Capture {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = (self.limit.div_ceil(2)).saturating_sub(self.head.len()).min(bytes.len());
        let (head, tail) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        let keep = self.limit / 2;
        // Of what comes at once, more than the tail holds need not be copied.
        let tail = &tail[tail.len().saturating_sub(keep)..];
        let over = (self.tail.len() + tail.len()).saturating_sub(keep);
        self.tail.drain(..over);
        self.tail.extend(tail);
    }

    pub(super) fn finish(self) -> Captured {
        let mut bytes = self.head;
        let head = bytes.len();
        bytes.extend(self.tail);
        let cut_at = (self.total > bytes.len() as u64).then_some(head);
        Captured { bytes, total: self.total, cut_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn head_and_tail_are_kept(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            limit in 0usize..100,
        ) {
            let all = parts.concat();
            let mut capture = Capture::new(limit);
            for part in &parts {
                capture.push(part);
            }
            let kept = capture.finish();
            prop_assert_eq!(kept.total, all.len() as u64);
            if all.len() <= limit {
                prop_assert_eq!(kept.cut_at, None);
                prop_assert_eq!(kept.bytes, all);
            } else {
                let cut = kept.cut_at.unwrap();
                prop_assert_eq!(kept.bytes.len(), limit);
                prop_assert_eq!(&kept.bytes[..cut], &all[..limit.div_ceil(2)]);
                prop_assert_eq!(&kept.bytes[cut..], &all[all.len() - limit / 2..]);
                prop_assert_eq!(kept.bytes.len() as u64 + (all.len() - limit) as u64, kept.total);
            }
        }
    }
}
