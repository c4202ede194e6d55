//! Framing against an independent implementation: what redis-protocol encodes, our scanners delimit,
//! however the bytes are split on their way; and bytes that are no RESP are judged alike at any split.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use std::cell::Cell;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis_protocol::resp2::types::OwnedFrame as Resp2;
use redis_protocol::resp3::types::{OwnedFrame as Resp3, VerbatimStringFormat};
use redis_protocol::{resp2, resp3};
use ringway::resp::{Args, Limits, ReplyScanner, RequestScanner, Scan, Scanned};

/// What a scanner says of a stream: the lengths of its frames, then what became of the rest.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    frames: Vec<usize>,
    rest: Result<(), String>,
}

/// One step of a scanner: a frame's length, or the bytes that it needs.
type Step = Result<Result<usize, usize>, String>;

/// Feeds `bytes` in pieces that end at `cuts`, as a socket would bring them; every frame is scanned
/// by what `scanner` makes anew. A `patient` reader does not ask again before the bytes are there.
fn feed<S: FnMut(&[u8]) -> Step>(
    bytes: &[u8],
    cuts: &[usize],
    patient: bool,
    mut scanner: impl FnMut() -> S,
) -> Verdict {
    let (mut frames, mut start, mut need, mut scan) = (Vec::new(), 0, 0, scanner());
    for end in cuts.iter().copied().filter(|cut| *cut < bytes.len()).chain([bytes.len()]) {
        while start < end && !(patient && end - start < need) {
            match scan(&bytes[start..end]) {
                Ok(Ok(len)) => {
                    assert!(0 < len && len <= end - start, "a frame of {len} in {} bytes", end - start);
                    frames.push(len);
                    (start, need, scan) = (start + len, 0, scanner());
                }
                Ok(Err(more)) => {
                    assert!(more > end - start, "needs {more}, has {}", end - start);
                    need = more;
                    break;
                }
                Err(error) => return Verdict { frames, rest: Err(error) },
            }
        }
    }
    Verdict { frames, rest: Ok(()) }
}

fn replies(bytes: &[u8], cuts: &[usize], patient: bool) -> Verdict {
    feed(bytes, cuts, patient, || {
        let mut scanner = ReplyScanner::default();
        move |bytes| match scanner.scan(bytes) {
            Ok(Scanned::Frame { len }) => Ok(Ok(len)),
            Ok(Scanned::Partial { need }) => Ok(Err(need)),
            Err(error) => Err(error.to_string()),
        }
    })
}

/// The same for requests; `seen` is told each one's arguments.
fn requests(bytes: &[u8], cuts: &[usize], patient: bool, seen: impl FnMut(Vec<Vec<u8>>)) -> Verdict {
    let seen = std::cell::RefCell::new(seen);
    feed(bytes, cuts, patient, || {
        let (mut scanner, mut spans, seen) = (RequestScanner::default(), Vec::new(), &seen);
        move |bytes| match scanner.scan(bytes, &Limits::default(), true, &mut spans) {
            Ok(Scan::Frame { len, .. }) => {
                seen.borrow_mut()(Args::new(bytes, &spans).iter().map(<[u8]>::to_vec).collect());
                Ok(Ok(len))
            }
            Ok(Scan::Inline { len }) => Ok(Ok(len)),
            Ok(Scan::Partial { need }) => Ok(Err(need)),
            Err(error) => Err(error.to_string()),
        }
    })
}

/// Says the same of `bytes` at the cuts given, at every byte, and in one piece.
fn steadily(bytes: &[u8], cuts: &[usize], scan: impl Fn(&[u8], &[usize], bool) -> Verdict) -> Verdict {
    let whole = scan(bytes, &[], false);
    let each: Vec<usize> = (1..bytes.len()).collect();
    for cuts in [cuts, &each] {
        for patient in [false, true] {
            assert_eq!(scan(bytes, cuts, patient), whole, "cut at {cuts:?}, patient: {patient}");
        }
    }
    whole
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(0..400_usize, 0..8).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts
    })
}

/// Short ones mostly, and some whose length takes three digits.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => vec(any::<u8>(), 0..12),
        2 => vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'$')], 0..12),
        1 => vec(any::<u8>(), 95..140),
    ]
}

fn resp2_frame() -> impl Strategy<Value = Resp2> {
    let leaf = prop_oneof![
        "[ -~]{0,20}".prop_map(|text| Resp2::SimpleString(text.into_bytes())),
        "[A-Z]{1,9} [ -~]{0,20}".prop_map(Resp2::Error),
        any::<i64>().prop_map(Resp2::Integer),
        body().prop_map(Resp2::BulkString),
        Just(Resp2::Null),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| vec(inner, 0..8).prop_map(Resp2::Array))
}

/// Frames that may be keys of a map or members of a set.
fn resp3_scalar() -> impl Strategy<Value = Resp3> {
    prop_oneof![
        body().prop_map(|data| Resp3::BlobString { data, attributes: None }),
        body().prop_map(|data| Resp3::BlobError { data, attributes: None }),
        "[ -~]{0,20}".prop_map(|text| Resp3::SimpleString { data: text.into_bytes(), attributes: None }),
        "[A-Z]{1,9} [ -~]{0,20}".prop_map(|data| Resp3::SimpleError { data, attributes: None }),
        any::<bool>().prop_map(|data| Resp3::Boolean { data, attributes: None }),
        Just(Resp3::Null),
        any::<i64>().prop_map(|data| Resp3::Number { data, attributes: None }),
        any::<f64>()
            .prop_filter("a number", |data| !data.is_nan())
            .prop_map(|data| Resp3::Double { data, attributes: None }),
        "-?[1-9][0-9]{0,40}".prop_map(|text| Resp3::BigNumber { data: text.into_bytes(), attributes: None }),
        body().prop_map(|data| Resp3::VerbatimString { data, format: VerbatimStringFormat::Text, attributes: None }),
    ]
}

fn resp3_frame() -> impl Strategy<Value = Resp3> {
    let pairs = vec((resp3_scalar(), resp3_scalar()), 1..3).boxed();
    resp3_scalar().prop_recursive(4, 40, 6, move |inner| {
        let attributes =
            prop_oneof![3 => Just(None), 1 => pairs.clone().prop_map(|pairs| Some(pairs.into_iter().collect()))];
        prop_oneof![
            (vec(inner.clone(), 0..6), attributes).prop_map(|(data, attributes)| Resp3::Array { data, attributes }),
            vec(inner.clone(), 1..6).prop_map(|data| Resp3::Push { data, attributes: None }),
            vec(resp3_scalar(), 0..6)
                .prop_map(|data| Resp3::Set { data: data.into_iter().collect(), attributes: None }),
            vec((resp3_scalar(), inner), 0..4)
                .prop_map(|pairs| Resp3::Map { data: pairs.into_iter().collect(), attributes: None }),
        ]
    })
}

/// Appends the frame as redis-protocol encodes it, which must also decode it; its length.
fn put_resp2(stream: &mut Vec<u8>, frame: Resp2) -> usize {
    let mut bytes = BytesMut::new();
    resp2::encode::extend_encode(&mut bytes, &frame.into_bytes_frame(), false).unwrap();
    let (_, len) = resp2::decode::decode(&bytes).unwrap().unwrap();
    assert_eq!(len, bytes.len(), "the oracle's own two halves");
    stream.extend_from_slice(&bytes);
    len
}

fn put_resp3(stream: &mut Vec<u8>, frame: Resp3) -> usize {
    let mut bytes = BytesMut::new();
    resp3::encode::complete::extend_encode(&mut bytes, &frame.into_bytes_frame(), false).unwrap();
    let (_, len) = resp3::decode::complete::decode(&bytes).unwrap().unwrap();
    assert_eq!(len, bytes.len(), "the oracle's own two halves");
    stream.extend_from_slice(&bytes);
    len
}

/// Runs `check` on `cases` inputs and prints how many frames it saw.
fn run<S: Strategy>(what: &str, cases: u32, input: S, check: impl Fn(S::Value) -> usize) {
    let frames = Cell::new(0);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&input, |value| {
        frames.set(frames.get() + check(value));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{what}: {error}"));
    println!("{what}: {} frames in {cases} streams", frames.get());
    assert!(frames.get() > 0, "{what}: nothing was tried");
}

#[test]
fn replies_end_where_the_oracle_ends_them() {
    run("RESP2 replies", 1_500, (vec(resp2_frame(), 1..4), cuts()), |(frames, cuts)| {
        let mut stream = Vec::new();
        let frames: Vec<usize> = frames.into_iter().map(|frame| put_resp2(&mut stream, frame)).collect();
        let count = frames.len();
        assert_eq!(steadily(&stream, &cuts, replies), Verdict { frames, rest: Ok(()) });
        count
    });
    run("RESP3 replies", 1_500, (vec(resp3_frame(), 1..4), cuts()), |(frames, cuts)| {
        let mut stream = Vec::new();
        let frames: Vec<usize> = frames.into_iter().map(|frame| put_resp3(&mut stream, frame)).collect();
        let count = frames.len();
        assert_eq!(steadily(&stream, &cuts, replies), Verdict { frames, rest: Ok(()) });
        count
    });
}

#[test]
fn requests_end_where_the_oracle_ends_them() {
    run("requests", 1_500, (vec(vec(body(), 0..12), 1..4), cuts()), |(wanted, cuts)| {
        let mut stream = Vec::new();
        let bulks = |args: &Vec<Vec<u8>>| Resp2::Array(args.iter().cloned().map(Resp2::BulkString).collect());
        let frames: Vec<usize> = wanted.iter().map(|args| put_resp2(&mut stream, bulks(args))).collect();
        let count = frames.len();
        let verdict = steadily(&stream, &cuts, |bytes, cuts, patient| {
            let mut seen = Vec::new();
            let verdict = requests(bytes, cuts, patient, |args| seen.push(args));
            assert_eq!(seen, wanted, "the arguments");
            verdict
        });
        assert_eq!(verdict, Verdict { frames, rest: Ok(()) });
        count
    });
}

/// Bytes that look like RESP and hardly ever are.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[*$+:_#,(=!~>%|-][0-9]{0,2}\r\n".prop_map(String::into_bytes),
        2 => "[*$%~>|=!-]?-?[0-9]{0,22}\r?\n?".prop_map(String::into_bytes),
        2 => "(PING|GET k|\"|'|\r\n|\r|\n)".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..6),
    ];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A reply of redis-protocol's with one byte replaced.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    (resp3_frame(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(frame, at, byte)| {
        let mut bytes = Vec::new();
        put_resp3(&mut bytes, frame);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes
    })
}

#[test]
fn garbage_is_judged_alike_at_every_split() {
    let (fine, bad) = (Cell::new(0_usize), Cell::new(0_usize));
    let judge = |verdict: Verdict| {
        let count = if verdict.rest.is_ok() { &fine } else { &bad };
        count.set(count.get() + 1);
        1 + verdict.frames.len()
    };
    run("garbage", 3_000, (prop_oneof![garbage(), damaged()], cuts()), |(bytes, cuts)| {
        judge(steadily(&bytes, &cuts, replies))
            + judge(steadily(&bytes, &cuts, |bytes, cuts, patient| requests(bytes, cuts, patient, |_| {})))
    });
    println!("garbage: {} streams may go on, {} are refused", fine.get(), bad.get());
    assert!(fine.get() > 100 && bad.get() > 100, "{} and {}: one-sided garbage", fine.get(), bad.get());
}
