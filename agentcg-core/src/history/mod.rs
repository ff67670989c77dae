//! What commands have taken before, and so what the next run may have (`memory:auto`).

mod key;
mod propose;
mod shell;
mod store;

pub use key::CommandKey;
pub use propose::Run;
pub use store::History;
