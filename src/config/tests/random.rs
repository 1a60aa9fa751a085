//! The reader never panics, whatever anybody writes: pieces of YAML, put together at random.

use super::*;

const ROUNDS: u64 = 3_000;

const PIECES: &[&str] = &[
    "coordination_service:",
    "\n",
    "\n  ",
    "\n    ",
    "\n\t",
    ": ",
    "- ",
    "? ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "&a ",
    "*a",
    "&b ",
    "*b",
    "!!str ",
    "!x ",
    "|",
    ">-",
    "\"",
    "'",
    "#",
    " # c",
    "---\n",
    "...\n",
    "%TAG",
    "timeouts",
    "consensus",
    "cluster_nodes",
    "secret",
    "secret_file",
    "node_id",
    "<<",
    "x-y",
    "~",
    "null",
    "true",
    "0x1F",
    "1e999",
    "-1",
    ".nan",
    "${",
    "${A}",
    "${A:-",
    "}",
    "$${",
    "\u{feff}",
    "\u{0}",
    "\u{85}",
    "\u{2028}",
    "\u{e4}",
    "\r\n",
    "@",
    "`",
    "\\",
    "prepare_phase_timeout_seconds: 5",
];

/// Xorshift, after Marsaglia (2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("it is below a usize")
    }
}

#[test]
fn no_text_makes_the_reader_panic() {
    let given = std::env::var("UNANIMITY_SEED").ok().and_then(|text| text.parse().ok());
    let base: u64 = given.unwrap_or_else(|| u64::from(std::process::id()) * 7_919 + 1);
    let rounds = if given.is_some() { 1 } else { ROUNDS };
    for seed in base..base + rounds {
        let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // Half of them are a good file with something in it that does not belong there.
        let mut bytes = if chance.below(2) == 0 { DESIGN.as_bytes().to_vec() } else { Vec::new() };
        for _ in 0..chance.below(24) {
            let at = chance.below(bytes.len() + 1);
            let piece = PIECES[chance.below(PIECES.len())].as_bytes();
            bytes.splice(at..at, piece.iter().copied());
        }
        if chance.below(8) == 0 && !bytes.is_empty() {
            let at = chance.below(bytes.len());
            bytes[at] = u8::try_from(chance.below(256)).unwrap_or_default();
        }
        if chance.below(8) == 0 {
            bytes.truncate(chance.below(bytes.len() + 1));
        }
        let file = file_of(&bytes);
        let environment = environment(&[("A", "1")]);
        let read = std::panic::catch_unwind(|| {
            let sources = Sources {
                file: Some(file.path()),
                environment: Some(&environment),
                ..Sources::default()
            };
            match Config::read(sources) {
                Ok(config) => assert_eq!(config.settings().len(), super::super::KEYS.len()),
                Err(problems) => assert!(!problems.0.is_empty()),
            }
        });
        let text = String::from_utf8_lossy(&bytes);
        assert!(read.is_ok(), "UNANIMITY_SEED={seed} made it panic:\n{text}");
    }
}
