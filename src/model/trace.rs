//! The trace that a request belongs to, in the words of W3C Trace Context, among its metadata.
//!
//! Not the making of spans. The trace is no part of the work: who repeats a request does so in
//! another one. Invariant: what is not of the form is as good as none.

use super::value::Value;

/// The key of `metadata` for the trace, the span in it, and whether it is sampled.
pub const TRACEPARENT: &str = "traceparent";
/// The key of `metadata` for what tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";

/// Whether a key of `metadata` is about the trace.
pub fn is_trace_key(key: &str) -> bool {
    key == TRACEPARENT || key == TRACESTATE
}

/// The `traceparent` of these metadata, if it has the form of one: `00-<32>-<16>-<2>` in hex.
pub fn traceparent(metadata: &Value) -> Option<&str> {
    let text = metadata.get(TRACEPARENT)?.as_text()?;
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let is_hex = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    (lengths.get(..4) == Some(&[2, 32, 16, 2]) && is_hex).then_some(text)
}

/// Whether a `traceparent` says that its trace is sampled.
pub fn is_sampled(traceparent: &str) -> bool {
    let flags = traceparent.split('-').nth(3);
    flags.and_then(|flags| u8::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & 1 == 1)
}

/// The entries of these metadata that are about the trace.
pub fn trace_notes(metadata: &Value) -> impl Iterator<Item = &(String, Value)> {
    let entries = if let Value::Map(entries) = metadata { entries.as_slice() } else { &[] };
    entries.iter().filter(|(key, _)| is_trace_key(key))
}

/// Whether these are the same but for the trace.
pub(super) fn is_same_without_trace(one: &Value, other: &Value) -> bool {
    let (Value::Map(ones), Value::Map(others)) = (one, other) else { return one == other };
    let count =
        |entries: &[(String, Value)]| entries.iter().filter(|(key, _)| !is_trace_key(key)).count();
    let has_same =
        |(key, value): &(String, Value)| is_trace_key(key) || other.get(key) == Some(value);
    count(ones) == count(others) && ones.iter().all(has_same)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn notes(entries: &[(&str, &str)]) -> Value {
        let entries = entries.iter().map(|(key, text)| ((*key).to_owned(), Value::from(*text)));
        Value::Map(entries.collect())
    }

    #[test]
    fn a_traceparent_counts_only_in_its_form_and_tells_whether_it_is_sampled() {
        assert_eq!(traceparent(&notes(&[(TRACEPARENT, PARENT)])), Some(PARENT));
        assert!(is_sampled(PARENT) && !is_sampled(&PARENT.replace("-01", "-02")));
        for wrong in ["", "00-01", &PARENT[..52], &PARENT.replace('b', "é"), "--- -"] {
            assert_eq!(traceparent(&notes(&[(TRACEPARENT, wrong)])), None, "{wrong}");
        }
    }

    #[test]
    fn the_trace_is_no_part_of_the_work() {
        let plain = notes(&[("who", "me")]);
        let traced = notes(&[(TRACEPARENT, PARENT), ("who", "me"), (TRACESTATE, "a=b")]);
        assert!(is_same_without_trace(&plain, &traced) && is_same_without_trace(&traced, &plain));
        let more = notes(&[("who", "me"), ("what", "this")]);
        for other in [&plain, &traced] {
            assert!(!is_same_without_trace(&more, other) && !is_same_without_trace(other, &more));
        }
        assert!(!is_same_without_trace(&notes(&[("who", "you")]), &traced));
        assert_eq!(trace_notes(&traced).count(), 2);
    }
}
