//! The verdict, decided from evidence.

use serde::Serialize;

/// One thing to do about an outcome, as data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Suggestion {
    /// Run it again with this hint.
    RetryWithHint {
        /// As `--hint` takes it.
        hint: String,
    },
}
