//! What only the bus in a file claims: its file, its disk, what it keeps.
