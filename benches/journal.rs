//! Group commit, measured.
fn main() {}
