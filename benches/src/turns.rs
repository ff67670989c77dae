//! Measuring by turns.

use anyhow::Result;

/// Measures each of `all` so many times, by turns, for the host's other work changes from minute to
/// minute; the results in the order of `all`.
pub fn by_turns<W, T>(
    all: &[W],
    rounds: usize,
    mut measure: impl FnMut(&W) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    let mut results: Vec<Vec<T>> = all.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (one, results) in all.iter().zip(&mut results) {
            results.push(measure(one)?);
        }
    }
    Ok(results)
}
