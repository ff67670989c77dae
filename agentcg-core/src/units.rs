//! The two kinds of quantity that users write: sizes and durations.

use std::time::Duration;

use crate::{Error, Result};

/// Parses a size in bytes: a number with an optional fraction and an optional `K`, `M`, `G` or `T`
/// (powers of 1024; `KiB` and `KB` mean the same).
///
/// ```
/// assert_eq!(agentcg_core::parse_size("1.5M")?, 1_572_864);
/// assert!(agentcg_core::parse_size("12Q").is_err());
/// # Ok::<(), agentcg_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the value.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = |why: &str| Error::invalid("size", text, why);
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(bad("expected a number with an optional K, M or G"));
    }
    parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|e| bad(&format!("{e}; expected a number with an optional K, M or G")))
}

/// Parses a duration: numbers with units, `500ms`, `30s`, `5m`, `1h 30m`.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(agentcg_core::parse_duration("500ms")?, Duration::from_millis(500));
/// assert!(agentcg_core::parse_duration("5").is_err()); // five what?
/// # Ok::<(), agentcg_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the value.
pub fn parse_duration(text: &str) -> Result<Duration> {
    humantime::parse_duration(text)
        .map_err(|e| Error::invalid("duration", text, format!("{e}; try 500ms, 30s or 5m")))
}

/// A size as users write it, exactly: `2G`, `1536M`, else bytes.
pub(crate) fn exact_size(bytes: u64) -> String {
    for (unit, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A size in words, with two decimals at most: `1.25 GiB`.
pub(crate) fn size_in_words(bytes: u64) -> String {
    let (n, unit) = in_unit(bytes, 1024.0);
    format!("{} {unit}", decimals(n))
}

/// A size in words, with two digits at least and three at most: `1.5 GiB`, `413 MiB`.
pub(crate) fn size_about(bytes: u64) -> String {
    // So that no number is rounded up to the next unit.
    let (n, unit) = in_unit(bytes, 1023.5);
    format!("{} {unit}", decimals(if n < 10.0 { (n * 10.0).round() / 10.0 } else { n.round() }))
}

/// The largest unit in which a size is less than `next`.
fn in_unit(bytes: u64, next: f64) -> (f64, &'static str) {
    let mut n = bytes as f64;
    let mut unit = "bytes";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if n < next {
            break;
        }
        n /= 1024.0;
        unit = larger;
    }
    (n, unit)
}

/// A number with two decimals at most.
pub(crate) fn decimals(n: f64) -> String {
    ((n * 100.0).round() / 100.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_size("4096").unwrap(), 4096);
        assert_eq!(parse_size("2K").unwrap(), 2048);
        assert_eq!(parse_size("0.5G").unwrap(), 512 << 20);
        for bad in ["", "-1", "1.5.2M", "M", "12Q", "1e999", "99999999999999T", "+1", " 1"] {
            let e = parse_size(bad).expect_err(bad);
            assert!(e.to_string().contains(bad), "{e}");
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(exact_size(2 << 30), "2G");
        assert_eq!(exact_size(3 << 29), "1536M");
        assert_eq!(exact_size(1025), "1025");
        assert_eq!(size_in_words(2 << 30), "2 GiB");
        assert_eq!(size_in_words(3 << 29), "1.5 GiB");
        assert_eq!(size_in_words(100 << 20), "100 MiB");
        assert_eq!(size_in_words(0), "0 bytes");
        assert_eq!(size_in_words((1 << 20) - 1), "1024 KiB");
        assert_eq!(size_in_words(5 << 28), "1.25 GiB");
        assert_eq!(size_about((1 << 20) - 1), "1 MiB");
        assert_eq!(size_about(5 << 28), "1.3 GiB");
        assert_eq!(size_about(1023), "1023 bytes");
        assert_eq!(size_about(u64::MAX), "16777216 TiB");
    }

    proptest! {
        #[test]
        fn an_exact_size_reads_back(bytes: u64) {
            // Beyond 2^53 what reads it goes through a double.
            let bytes = bytes >> 11;
            prop_assert_eq!(parse_size(&exact_size(bytes)).unwrap(), bytes);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }

        #[test]
        fn whole_numbers_are_bytes(n in 0u64..1 << 53) {
            prop_assert_eq!(parse_size(&n.to_string()).unwrap(), n);
        }
    }
}
