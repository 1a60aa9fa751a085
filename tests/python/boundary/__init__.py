"""The boundary between Python and Rust: what a user of the package may do to it."""
