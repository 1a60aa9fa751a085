//! Bytes that others wrote: cut anywhere, damaged anywhere, or none of ours at all.

use bytes::{Bytes, BytesMut};

use super::frame::{Decoder, FrameError, encode};
use super::hello::{Hello, Welcome, carried};
use super::message::Message;
use super::proof::{Role, Seal, Secret};
use super::test_kit::Chance;

const BOUND: usize = 1_000;
const RUNS: usize = 2_000;

fn seal() -> Seal {
    Secret::new(b"the secret of the cluster").unwrap().seal(Role::Caller, b"said")
}

/// Bodies, and the stream of their frames.
fn stream(chance: &mut Chance, is_sealed: bool) -> (Vec<Vec<u8>>, BytesMut) {
    let bodies: Vec<_> = (0..=chance.below(4)).map(|_| chance.bytes(200)).collect();
    let (mut seal, mut out) = (is_sealed.then(seal), BytesMut::new());
    for body in &bodies {
        let middle = chance.below(body.len() + 1);
        encode(&[&body[..middle], &body[middle..]], seal.as_mut(), &mut out);
    }
    (bodies, out)
}

fn decoder(is_sealed: bool) -> Decoder {
    Decoder::new(BOUND, is_sealed.then(seal))
}

/// What comes out of a stream that arrives in portions.
fn read(
    decoder: &mut Decoder,
    stream: &[u8],
    chance: &mut Chance,
) -> (Vec<Bytes>, Option<FrameError>) {
    let (mut buffer, mut read, mut at) = (BytesMut::new(), Vec::new(), 0);
    while at < stream.len() {
        let end = stream.len().min(at + 1 + chance.below(64));
        buffer.extend_from_slice(&stream[at..end]);
        at = end;
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(body)) => read.push(body),
                Ok(None) => break,
                Err(error) => return (read, Some(error)),
            }
        }
    }
    (read, None)
}

#[test]
fn frames_come_out_as_they_went_in_however_they_arrive() {
    let mut chance = Chance::new();
    for run in 0..RUNS {
        let is_sealed = run % 2 == 0;
        let (bodies, stream) = stream(&mut chance, is_sealed);
        let (read, error) = read(&mut decoder(is_sealed), &stream, &mut chance);
        assert_eq!((read, error), (bodies.into_iter().map(Bytes::from).collect(), None));
    }
}

#[test]
fn a_damaged_or_truncated_stream_gives_nothing_that_was_not_sent() {
    let mut chance = Chance::new();
    for run in 0..RUNS {
        let is_sealed = run % 2 == 0;
        let (bodies, mut stream) = stream(&mut chance, is_sealed);
        if chance.below(3) == 0 {
            stream.truncate(chance.below(stream.len()));
        } else {
            let at = chance.below(stream.len());
            stream[at] ^= 1 << chance.below(8);
        }
        let (read, _) = read(&mut decoder(is_sealed), &stream, &mut chance);
        assert!(read.len() < bodies.len(), "damage was not seen");
        assert!(read.iter().zip(&bodies).all(|(seen, sent)| seen == sent));
    }
}

#[test]
fn random_bytes_are_refused_without_harm_and_without_memory() {
    let mut chance = Chance::new();
    for run in 0..RUNS {
        let noise = chance.bytes(300);
        let mut buffer = BytesMut::from(&noise[..]);
        let mut decoder = decoder(run % 2 == 0);
        while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        assert!(buffer.capacity() <= 300, "memory was taken for a length that a stranger told");
        let noise = Bytes::from(noise);
        let _ = Message::decode(noise.clone());
        let _ = (Hello::decode(noise.clone()), Welcome::decode(&noise), carried(noise));
    }
}

#[test]
fn a_length_over_the_bound_is_refused_by_its_head_alone() {
    let mut head = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
    head.extend_from_slice(&[0; 4]);
    let length = u32::MAX as usize;
    let error = decoder(false).decode(&mut head).unwrap_err();
    assert_eq!(error, FrameError::TooLong { length, bound: BOUND });
    assert!(head.capacity() < 1_000);
}

#[test]
fn sealed_frames_that_are_left_out_repeated_or_swapped_are_seen() {
    let frames: Vec<_> = {
        let mut seal = seal();
        let frame = |body: &[u8]| {
            let mut out = BytesMut::new();
            encode(&[body], Some(&mut seal), &mut out);
            out
        };
        [&b"one"[..], b"two", b"three"].map(frame).into()
    };
    let ends = |order: &[usize]| {
        let mut buffer: BytesMut = order.iter().flat_map(|at| frames[*at].to_vec()).collect();
        let mut decoder = decoder(true);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    };
    assert_eq!(ends(&[0, 1, 2]), Ok(None));
    for order in [&[1, 2][..], &[0, 2], &[0, 0], &[1, 0]] {
        assert_eq!(ends(order), Err(FrameError::Forged), "{order:?}");
    }
}

#[test]
fn messages_and_greetings_are_read_as_they_were_written_and_not_when_cut() {
    let mut chance = Chance::new();
    for _ in 0..200 {
        let (number, body) = (chance.below(usize::MAX) as u64, Bytes::from(chance.bytes(50)));
        let messages = [
            Message::StillHere,
            Message::Request { number, body: body.clone() },
            Message::Answer { number, body },
            Message::AnswerTooLarge { number },
        ];
        for message in messages {
            let (head, body) = message.parts();
            let whole = Bytes::from([&head[..], body].concat());
            assert_eq!(Message::decode(whole.clone()), Ok(message));
            assert!(Message::decode(whole.slice(..chance.below(9))).is_err());
        }
    }
    let hello = Hello {
        cluster: "c".to_owned(),
        node: "a".to_owned(),
        to: String::new(),
        frame_max: 7,
        nonce: [3; 32],
    };
    let whole = hello.encode();
    for end in 0..whole.len() {
        assert!(Hello::decode(whole.slice(..end)).is_err());
    }
    assert!(Hello::decode([&whole[..], &[0]].concat().into()).is_err());
    assert_eq!(Hello::decode(whole), Ok(hello));
}

#[test]
fn names_in_a_greeting_cannot_play_with_the_log() {
    for node in ["a\nb", "a\u{1b}[2J", &"x".repeat(129)] {
        let nonce = [0; 32];
        let (cluster, to) = (String::new(), String::new());
        let hello = Hello { cluster, node: node.to_owned(), to, frame_max: 1, nonce };
        assert!(Hello::decode(hello.encode()).is_err(), "{node:?}");
    }
}
