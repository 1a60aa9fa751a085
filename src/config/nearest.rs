//! Which known word was probably meant.

/// The known word that is nearest, if it is near enough for a slip of the fingers.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = (word.chars().count() / 3).clamp(1, 6);
    known
        .map(|candidate| (distance(word, candidate, far), candidate))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters to add, remove, change, or swap with the next; more than `far` is not counted
/// out. Optimal string alignment after Damerau (1964), by the table of Wagner and Fischer (1974).
fn distance(left: &str, right: &str, far: usize) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    if left.len().abs_diff(right.len()) > far {
        return far + 1;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut next = vec![i + 1; right.len() + 1];
        for (j, b) in right.iter().enumerate() {
            let changed = row[j] + usize::from(a != b);
            next[j + 1] = changed.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                next[j + 1] = next[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = || ["timeouts", "performance", "election_timeout_ms"].into_iter();
        assert_eq!(nearest("timeout", known()), Some("timeouts"));
        assert_eq!(nearest("tiemouts", known()), Some("timeouts"));
        assert_eq!(nearest("perfomance", known()), Some("performance"));
        assert_eq!(nearest("election_timout_ms", known()), Some("election_timeout_ms"));
        assert_eq!(nearest("speed", known()), None);
        assert_eq!(nearest("", known()), None);
    }
}
