//! One line for each mistake: the file, the line, the field, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

use super::check::LISTS;
use super::source::{Field, Source};

/// Why a configuration is refused. Displays as `config/x.toml:12: backend[1].weight: must be ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    field: String,
    text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.text)
    }
}

impl ConfigError {
    /// The file cannot be read.
    pub(super) fn unread(file: &Path, error: &std::io::Error) -> Self {
        let text = format!("cannot be read: {error}");
        Self { file: file.to_owned(), line: None, field: String::new(), text }
    }

    /// A field has a value of the right type that cannot be meant.
    pub(super) fn field(file: &Path, source: &Source<'_>, field: &Field, text: String) -> Self {
        let line = source.line_of(field);
        Self { file: file.to_owned(), line, field: field.to_string(), text }
    }

    /// The text is no TOML.
    pub(super) fn syntax(file: &Path, source: &Source<'_>, error: &toml::de::Error) -> Self {
        let message = error.message().replace('\n', ", ");
        let span = error.span().unwrap_or_default();
        let line = Some(source.line(span.start));
        let mut field = source.field_at(span.start).to_string();
        let text = if message == "duplicate key" {
            let repeated = Repeated::of(source.text(), &span);
            field = repeated.field;
            match repeated.section {
                true if LISTS.contains(&field.as_str()) => format!("must be written as [[{field}]], in two brackets"),
                true => format!("is there already: put all of its fields into one [{field}]"),
                false => "is there already: leave one of the two".to_owned(),
            }
        } else if UNQUOTED.iter().any(|start| message.starts_with(start)) {
            // What stands there may be a password: it is not shown.
            "is no number, true or false: text must be in quotes".to_owned()
        } else {
            message
        };
        Self { file: file.to_owned(), line, field, text }
    }

    /// A value has the wrong type.
    pub(super) fn toml(file: &Path, source: &Source<'_>, error: &toml::de::Error) -> Self {
        let offset = error.span().map(|span| span.start);
        let mut field = offset.map_or_else(Field::default, |offset| source.field_at(offset));
        let mut message = error.message().replace('\n', ", ");
        if let Some((index, rest)) = element(&message) {
            field = field.at(index);
            message = rest.to_owned();
        }
        let text = match message.strip_prefix("missing field ") {
            Some(name) => {
                let name = name.trim_matches('`');
                field = field.key(name);
                "is missing".to_owned()
            }
            None => explain(&message),
        };
        // An empty file has its mistake nowhere.
        let line = if field.is_root() { offset.map(|at| source.line(at)) } else { source.line_of(&field) };
        Self { file: file.to_owned(), line, field: field.to_string(), text }
    }
}

/// How the parser's messages begin when it wants a value and finds a word without quotes.
const UNQUOTED: [&str; 3] = ["string values must be quoted", "invalid float", "invalid boolean"];

/// A key or a section that is written a second time.
struct Repeated {
    field: String,
    section: bool,
}

impl Repeated {
    /// The one that stands at `span`. The parser keeps the first alone, so this one is read off the text: a
    /// list's section is the last of those before it.
    fn of(text: &str, span: &std::ops::Range<usize>) -> Self {
        let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let name = text[span.clone()].trim_matches(['"', '\'']);
        let (before, rest) = text.split_at(start);
        let line = rest.lines().next().unwrap_or_default().trim();
        if let Some(header) = header(line) {
            return Self { field: header.to_owned(), section: true };
        }
        let key = line.split('=').next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        let mut field = String::new();
        let mut headers = before.lines().map(str::trim).rev().filter_map(|line| Some((line, header(line)?)));
        if let Some((line, section)) = headers.next() {
            field = format!("{section}.");
            if line.starts_with("[[") {
                let earlier = headers.filter(|(_, other)| *other == section).count();
                field = format!("{section}[{earlier}].");
            }
        }
        field.push_str(key);
        if !key.ends_with(name) {
            field = format!("{field}.{name}");
        }
        Self { field, section: false }
    }
}

/// The name in a section's line, in one bracket or two.
fn header(line: &str) -> Option<&str> {
    let inside = line.strip_prefix('[')?.split(']').next()?;
    Some(inside.trim_start_matches('[').trim())
}

/// The index of the element that a message about a list begins with.
fn element(message: &str) -> Option<(usize, &str)> {
    let (index, rest) = message.strip_prefix('[')?.split_once("]: ")?;
    Some((index.parse().ok()?, rest))
}

/// serde's words in ours.
fn explain(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut names = quoted(rest);
        let name = names.next().unwrap_or_default();
        return unknown(name, &names.collect::<Vec<_>>());
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let mut names = quoted(rest);
        let is = names.next().unwrap_or_default().to_owned();
        let known = names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        return format!("must be one of {known}, is \"{is}\"");
    }
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((is, expected)) = message.strip_prefix(kind).and_then(|rest| rest.rsplit_once(", expected ")) {
            let expected = match expected {
                "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
                "a boolean" => "true or false",
                "a string" => "text in quotes",
                "a sequence" => "a list in [ ]",
                "a map" => "a section",
                other if other.starts_with("struct ") => "a section",
                other => other.trim_start_matches("must be "),
            };
            return format!("must be {expected}, is {}", is.replace('`', ""));
        }
    }
    match message {
        "integer number overflowed" => "must be a smaller number".to_owned(),
        other => other.to_owned(),
    }
}

/// An unknown field, and the known one that was probably meant.
fn unknown(name: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|other| (distance(name, other), other)).min();
    match nearest {
        // A word of three letters is two changes away from many.
        Some((distance, other)) if distance <= (name.len() / 3).clamp(1, 3) + usize::from(name.len() > 4) => {
            format!("is unknown, did you mean {other}?")
        }
        _ => format!("is unknown, known are {}", known.join(", ")),
    }
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// How many letters must be changed, added or left out to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("weight", "wieght"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("name", "name"), 0);
        assert_eq!(distance("adress", "address"), 1);
    }
}
