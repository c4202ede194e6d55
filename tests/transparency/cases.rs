//! The case language: one case a line, steps separated by ` ; `, words as in redis-cli (quotes,
//! `\r \n \t \xHH`). Words that begin with `~` before a step say how it is sent and compared:
//!
//! ```text
//! ~on=b      over another connection of the case    ~raw "..."  these bytes, not a request
//! ~n=2       so many replies (default 1)            ~read       send nothing, read on
//! ~as=x      keep the reply; `$x` is its text       ~closed     the connection must end here
//! ~sort ~type ~len ~digits                          compare what cannot vary (see `Compare`)
//! ~scan      go on until the cursor is 0, compare the sorted elements
//! ```

/// One line of a case file.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) text: String,
    pub(crate) steps: Vec<Step>,
    /// Written by hand, not made from the server's own command list.
    pub(crate) by_hand: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) words: Vec<Vec<u8>>,
    pub(crate) on: String,
    pub(crate) replies: usize,
    pub(crate) keep: Option<String>,
    pub(crate) send: Send,
    pub(crate) compare: Compare,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Send {
    #[default]
    Request,
    Raw,
    Nothing,
    /// Nothing, and the other side must close.
    Close,
}

/// What of a reply is compared when two equal servers may differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Compare {
    /// Every byte.
    #[default]
    Bytes,
    /// Elements of the outermost array, set or map, in any order.
    Sorted,
    /// The reply's type alone.
    Type,
    /// The type and number of the outermost elements.
    Length,
    /// Everything but the digits of numbers: clocks, ids, idle times.
    Digits,
    /// The elements of a whole scan.
    Scan,
}

/// All cases of a file.
pub(crate) fn parse(file: &str) -> Vec<Case> {
    let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| Case { text: line.to_owned(), steps: steps(line), by_hand: true }).collect()
}

fn steps(line: &str) -> Vec<Step> {
    let words = words(line);
    words.split(|word| word == &(b";".to_vec(), false)).map(step).collect()
}

fn step(words: &[(Vec<u8>, bool)]) -> Step {
    let mut step = Step { on: "a".to_owned(), replies: 1, ..Step::default() };
    for (word, quoted) in words {
        let text = String::from_utf8_lossy(word).into_owned();
        let Some(option) =
            text.strip_prefix('~').filter(|option| !option.is_empty() && !quoted && step.words.is_empty())
        else {
            step.words.push(word.clone());
            continue;
        };
        match option.split_once('=').unwrap_or((option, "")) {
            ("on", name) => step.on = name.to_owned(),
            ("n", n) => step.replies = n.parse().unwrap(),
            ("as", name) => step.keep = Some(name.to_owned()),
            ("raw", "") => step.send = Send::Raw,
            ("read", "") => step.send = Send::Nothing,
            ("closed", "") => (step.send, step.replies) = (Send::Close, 0),
            ("sort", "") => step.compare = Compare::Sorted,
            ("type", "") => step.compare = Compare::Type,
            ("len", "") => step.compare = Compare::Length,
            ("digits", "") => step.compare = Compare::Digits,
            ("scan", "") => step.compare = Compare::Scan,
            _ => panic!("unknown option ~{option}"),
        }
    }
    step
}

/// The words of a line, and whether each was quoted.
fn words(line: &str) -> Vec<(Vec<u8>, bool)> {
    let mut found = Vec::new();
    let mut rest = line.trim_start().chars().peekable();
    while let Some(&first) = rest.peek() {
        let mut word = Vec::new();
        if first == '"' {
            rest.next();
            loop {
                match rest.next().unwrap_or_else(|| panic!("no closing quote: {line}")) {
                    '"' => break,
                    '\\' => match rest.next().unwrap() {
                        'r' => word.push(b'\r'),
                        'n' => word.push(b'\n'),
                        't' => word.push(b'\t'),
                        'x' => {
                            let hex = [rest.next().unwrap(), rest.next().unwrap()].iter().collect::<String>();
                            word.push(u8::from_str_radix(&hex, 16).unwrap());
                        }
                        other => word.push(other as u8),
                    },
                    other => word.extend_from_slice(other.to_string().as_bytes()),
                }
            }
            found.push((word, true));
        } else {
            while let Some(letter) = rest.next_if(|letter| !letter.is_whitespace()) {
                word.extend_from_slice(letter.to_string().as_bytes());
            }
            found.push((word, false));
        }
        while rest.next_if(|letter| letter.is_whitespace()).is_some() {}
    }
    found
}
