//! What a server's COMMAND INFO says of one command, and where that puts its keys.
//!
//! Key specifications (since 7.0) are read as the server reads them (`getKeysUsingKeySpecs`);
//! without them the older first, last and step count.
//! <https://redis.io/docs/latest/develop/reference/key-specs/>

use crate::resp::{Args, elements, integer};

/// A command that only the servers know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    arity: i64,
    pub(super) reads: bool,
    pub(super) blocks: bool,
    pub(super) no_multi: bool,
    /// The specifications do not tell every key.
    vague: bool,
    specs: Vec<Spec>,
}

/// What became of the search for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Positions {
    /// All are found; there may be none.
    Known,
    /// The command does not say where they are.
    Unknown,
    /// The request is one that the server refuses.
    Malformed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Spec {
    begin: Begin,
    find: Find,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Begin {
    Index(i64),
    Keyword { word: Vec<u8>, from: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Find {
    Range { last: i64, step: i64, limit: i64 },
    Count { count: i64, first: i64, step: i64 },
}

impl Foreign {
    /// Reads one element of COMMAND INFO's reply; None when it is nil.
    pub(super) fn parse(info: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = elements(info).collect();
        let &[_, arity, flags, first, last, step, ..] = fields.as_slice() else { return None };
        let flag = |name: &[u8]| elements(flags).any(|flag| line(flag) == name);
        let (first, last, step) = (number(first), number(last), number(step).max(1));
        let mut vague = false;
        let mut specs = Vec::new();
        match fields.get(8) {
            Some(list) => {
                for spec in elements(list) {
                    let says = |name: &[u8]| {
                        field(spec, b"flags").is_some_and(|flags| elements(flags).any(|flag| line(flag) == name))
                    };
                    if says(b"not_key") {
                        continue;
                    }
                    vague |= says(b"incomplete");
                    match Spec::parse(spec) {
                        Some(spec) => specs.push(spec),
                        None => vague = true,
                    }
                }
                vague |= specs.is_empty() && flag(b"movablekeys");
            }
            None => {
                vague = flag(b"movablekeys");
                if first > 0 {
                    // Here the last one counts from the beginning of the request, there from the first key.
                    let last = if last >= 0 { last - first } else { last };
                    specs.push(Spec { begin: Begin::Index(first), find: Find::Range { last, step, limit: 0 } });
                }
            }
        }
        Some(Self {
            arity: number(arity),
            reads: flag(b"readonly"),
            blocks: flag(b"blocking"),
            no_multi: flag(b"no_multi"),
            vague,
            specs,
        })
    }

    pub(super) fn takes(&self, argc: usize) -> bool {
        let argc = argc as i64;
        if self.arity >= 0 { argc == self.arity } else { argc >= -self.arity }
    }

    /// Appends the positions of the request's keys to `out`.
    pub(super) fn keys(&self, args: Args<'_>, out: &mut Vec<u32>) -> Positions {
        if self.vague {
            return Positions::Unknown;
        }
        for spec in &self.specs {
            let Some(first) = spec.begin.find(args) else { continue };
            if !spec.find.keys(first, args, out) {
                return Positions::Malformed;
            }
        }
        Positions::Known
    }
}

impl Spec {
    fn parse(spec: &[u8]) -> Option<Self> {
        let (begin, find) = (field(spec, b"begin_search")?, field(spec, b"find_keys")?);
        let (begin_spec, find_spec) = (field(begin, b"spec")?, field(find, b"spec")?);
        let begin = match body(field(begin, b"type")?) {
            b"index" => Begin::Index(number(field(begin_spec, b"index")?)),
            b"keyword" => Begin::Keyword {
                word: body(field(begin_spec, b"keyword")?).to_vec(),
                from: number(field(begin_spec, b"startfrom")?),
            },
            _ => return None,
        };
        let find = match body(field(find, b"type")?) {
            b"range" => Find::Range {
                last: number(field(find_spec, b"lastkey")?),
                step: number(field(find_spec, b"keystep")?).max(1),
                limit: number(field(find_spec, b"limit")?),
            },
            b"keynum" => Find::Count {
                count: number(field(find_spec, b"keynumidx")?),
                first: number(field(find_spec, b"firstkey")?),
                step: number(field(find_spec, b"keystep")?).max(1),
            },
            _ => return None,
        };
        Some(Self { begin, find })
    }
}

impl Begin {
    /// Where the part with the keys begins; None when the request has no such part.
    fn find(&self, args: Args<'_>) -> Option<i64> {
        let argc = args.len() as i64;
        match self {
            Self::Index(index) => Some(*index),
            Self::Keyword { word, from } => {
                let is = |at: &i64| args.at(*at as usize).eq_ignore_ascii_case(word);
                let at = if *from > 0 {
                    (*from..argc - 1).find(is)
                } else {
                    // A negative start is searched toward the command's name.
                    (2..=argc + *from).rev().find(is)
                };
                at.map(|at| at + 1)
            }
        }
    }
}

impl Find {
    /// Appends the positions of the keys of the part at `first`; false when they are not there.
    fn keys(self, first: i64, args: Args<'_>, out: &mut Vec<u32>) -> bool {
        let argc = args.len() as i64;
        let (first, last, step) = match self {
            Self::Range { last, step, .. } if last >= 0 => (first, first + last, step),
            Self::Range { last, step, limit } if limit <= 1 => (first, argc + last, step),
            Self::Range { last, step, limit } => (first, first + (argc - first) / limit + last, step),
            Self::Count { count, first: offset, step } => {
                let at = usize::try_from(first + count).unwrap_or(usize::MAX);
                let Some(many) = integer(args.at(at)).filter(|many| (0..=argc).contains(many)) else { return false };
                let first = first + offset;
                (first, first + (many - 1) * step, step)
            }
        };
        if first < 1 || last >= argc {
            return false;
        }
        out.extend((first..=last).step_by(step as usize).map(|at| at as u32));
        true
    }
}

/// The value of `name` in a map, or in an array that stands for one.
fn field<'a>(map: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut fields = elements(map);
    while let (Some(key), Some(value)) = (fields.next(), fields.next()) {
        if body(key) == name {
            return Some(value);
        }
    }
    None
}

/// The text of a status, an integer or an error.
fn line(frame: &[u8]) -> &[u8] {
    let text = frame.get(1..).unwrap_or_default();
    text.strip_suffix(b"\r\n").unwrap_or(text)
}

fn number(frame: &[u8]) -> i64 {
    integer(line(frame)).unwrap_or(0)
}

/// The bytes of a bulk string.
fn body(frame: &[u8]) -> &[u8] {
    let start = frame.iter().position(|byte| *byte == b'\n').map_or(frame.len(), |at| at + 1);
    frame[start..].strip_suffix(b"\r\n").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, RequestScanner, request};

    /// Writes words as a reply: `[ ]` arrays, `:n` integers, `+x` statuses, others bulks.
    fn frame(text: &str) -> Vec<u8> {
        fn write(words: &mut std::iter::Peekable<std::str::SplitWhitespace<'_>>, out: &mut Vec<u8>) {
            match words.next().expect("a word") {
                "[" => {
                    let (mut inner, mut count) = (Vec::new(), 0);
                    while words.peek() != Some(&"]") {
                        write(words, &mut inner);
                        count += 1;
                    }
                    words.next();
                    out.extend_from_slice(format!("*{count}\r\n").as_bytes());
                    out.extend_from_slice(&inner);
                }
                word if word.starts_with([':', '+']) => out.extend_from_slice(format!("{word}\r\n").as_bytes()),
                word => out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes()),
            }
        }
        let mut out = Vec::new();
        write(&mut text.split_whitespace().peekable(), &mut out);
        out
    }

    fn check(info: &str, line: &str, expected: &str) {
        let foreign = Foreign::parse(&frame(info)).expect("a command");
        let (mut bytes, mut spans, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        request(&mut bytes, &line.split(' ').collect::<Vec<_>>());
        RequestScanner::default().scan(&bytes, &Limits::default(), true, &mut spans).expect("a request");
        let args = Args::new(&bytes, &spans);
        let found = match foreign.keys(args, &mut keys) {
            Positions::Known => {
                let words = keys.iter().map(|at| String::from_utf8_lossy(args.at(*at as usize)));
                words.collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        };
        assert_eq!(found, expected, "{line}");
    }

    fn range(index: i64, last: i64, step: i64, limit: i64) -> String {
        format!(
            "[ flags [ +RO ] begin_search [ type index spec [ index :{index} ] ] find_keys [ type range spec \
             [ lastkey :{last} keystep :{step} limit :{limit} ] ] ]"
        )
    }

    fn info(flags: &str, specs: &str) -> String {
        format!("[ x :-2 [ {flags} ] :1 :1 :1 [ +@slow ] [ ] [ {specs} ] [ ] ]")
    }

    #[test]
    fn ranges_count_from_either_end() {
        check(&info("+readonly", &range(1, 0, 1, 0)), "X a b", "a");
        check(&info("", &range(1, 1, 1, 0)), "X a b c", "a b");
        check(&info("", &range(1, -1, 1, 0)), "X a b c", "a b c");
        check(&info("", &range(2, -2, 1, 0)), "X a b c d", "b c");
        check(&info("", &range(1, -1, 2, 0)), "X a 1 b 2", "a b");
        check(&info("", &range(1, -1, 1, 2)), "X a b 0 0", "a b");
        check(&info("", &range(3, 0, 1, 0)), "X a", "Malformed");
    }

    #[test]
    fn counts_and_words_are_followed() {
        let counted = "[ flags [ +RO ] begin_search [ type index spec [ index :2 ] ] find_keys [ type keynum spec \
                       [ keynumidx :0 firstkey :1 keystep :1 ] ] ]";
        let both = format!("{} {counted}", range(1, 0, 1, 0));
        check(&info("+movablekeys", &both), "X d 2 a b w", "d a b");
        check(&info("+movablekeys", &both), "X d 0", "d");
        check(&info("+movablekeys", &both), "X d 3 a", "Malformed");
        check(&info("+movablekeys", &both), "X d z a", "Malformed");
        let word = |from: i64| {
            format!(
                "[ flags [ +RO ] begin_search [ type keyword spec [ keyword STORE startfrom :{from} ] ] find_keys \
                 [ type range spec [ lastkey :0 keystep :1 limit :0 ] ] ]"
            )
        };
        check(&info("", &word(2)), "X a store d", "d");
        check(&info("", &word(2)), "X a b c", "");
        check(&info("", &word(-2)), "X a store d", "d");
        check(&info("", &word(2)), "X a store", "");
    }

    #[test]
    fn who_does_not_say_all_is_not_trusted() {
        check(&info("+movablekeys", ""), "X a", "Unknown");
        check(&info("", ""), "X a", "");
        check(&info("", "[ flags [ +RW +incomplete ] ]"), "X a", "Unknown");
        check(&info("", "[ flags [ +not_key ] ]"), "X a", "");
        let old = |flags: &str, first: i64, last: i64| format!("[ x :2 [ {flags} ] :{first} :{last} :1 [ +@slow ] ]");
        check(&old("+write", 1, 2), "X a b c", "a b");
        check(&old("+write", 1, -1), "X a b c", "a b c");
        check(&old("+write", 0, 0), "X a", "");
        check(&old("+movablekeys", 1, 1), "X a", "Unknown");
        assert_eq!(Foreign::parse(b"*-1\r\n"), None);
        assert_eq!(Foreign::parse(b"$-1\r\n"), None);
    }
}
