//! How many events a second, printed and not asserted.
