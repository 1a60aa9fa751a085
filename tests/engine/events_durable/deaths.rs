//! Processes that are killed while they handle, while they acknowledge, while they publish.
//!
//! Not a simulation: the children are this test program again, and they die by SIGKILL.
